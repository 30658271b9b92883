"""SigLIP as LaViDa uses it: raw patch tokens, at any resolution that is a multiple of the patch size."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from shirg.errors import UserError
from shirg.gate import GateConfig, ShirgGate
from shirg.lavida.config import SO400M
from shirg.lavida.positions import embed_patches
from shirg.lavida.settings import SHIRG_RESOLUTION

ATTENTION_CHUNK = 2**22
"""Attention weights held at once when a layer's attention is recomputed: 16 MiB in float32."""


def sides(config: SiglipVisionConfig) -> tuple[int, int]:
    """Sides in pixels of a tower's images and patches.

    Raises:
        UserError: unless each is one number; transformers also takes pairs.
    """
    image, patch = config.image_size, config.patch_size
    if not isinstance(image, int) or not isinstance(patch, int):
        raise UserError(
            f"vision_config: image_size={image!r} and patch_size={patch!r} must be one number each, sides of squares"
        )
    return image, patch


class SigLipVisionTower(nn.Module):
    """SigLIP without its last encoder layer and pooling head; returns the raw output of the last remaining layer.

    Args:
        vision_config: sizes of the *published* tower. Its `num_hidden_layers` includes the last layer, which LaViDa deletes
            (LaViDa siglip_encoder.py:570-571), so one layer fewer is built. None is siglip-so400m-patch14-384.

    Attributes:
        image_size: side in pixels for which the position table was trained.
        patch_size: side of a patch in pixels.

    The final layer norm exists, since checkpoints store it, but is never applied: LaViDa's projector was trained on the raw
    `hidden_states[-1]` (siglip_encoder.py:585-587).
    """

    def __init__(self, vision_config: SiglipVisionConfig | dict[str, Any] | None = None):
        super().__init__()
        given = (
            vision_config.to_dict() if isinstance(vision_config, SiglipVisionConfig) else dict(vision_config or SO400M)
        )
        config = SiglipVisionConfig(**{**copy.deepcopy(given), "vision_use_head": False})
        if config.num_hidden_layers < 2:
            raise UserError(
                f"vision_config.num_hidden_layers counts the layer that LaViDa removes, so it must be at least 2; "
                f"got {config.num_hidden_layers}"
            )
        config.num_hidden_layers -= 1
        self.image_size, self.patch_size = sides(config)
        config._attn_implementation = "sdpa"
        self.vision_model = SiglipVisionModel(config)

    @property
    def config(self) -> SiglipVisionConfig:
        """Sizes of the tower as built, without the removed layer."""
        return self.vision_model.config

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def dtype(self) -> torch.dtype:
        return self.vision_model.post_layernorm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.vision_model.post_layernorm.weight.device

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for an image of `height` x `width` pixels.

        Raises:
            UserError: unless both sides are positive multiples of the patch size, or the trained size: 384 is not a multiple of
                14, and its last 6 pixels belong to no patch.
        """
        for name, side in (("height", height), ("width", width)):
            if side < self.patch_size or (side % self.patch_size and side != self.image_size):
                raise UserError(
                    f"image {name} must be {self.image_size} or a positive multiple of the patch size "
                    f"{self.patch_size}; got {side}"
                )
        return height // self.patch_size, width // self.patch_size

    def restore_buffers(self, device: torch.device | str) -> None:
        """Create the buffers that no checkpoint stores, after building on the "meta" device."""
        embeddings = self.vision_model.embeddings
        places = torch.arange(embeddings.num_positions, device=device)[None]
        embeddings.register_buffer("position_ids", places, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Raw patch tokens [V, N, D], N = rows * columns in raster order, of normalised pixels [V, 3, H, W].

        The position table is interpolated (bicubic) for grids other than the trained one.

        Raises:
            UserError: for another number of dimensions or channels, or sides that are not multiples of the patch size.
        """
        return self.encode(self.embed(images))

    def encode(self, embeddings: Tensor) -> Tensor:
        """Raw tokens [V, n, D] of n inputs of the first layer, which may be a part of the patches of `embed`."""
        return self.vision_model.encoder(inputs_embeds=embeddings).last_hidden_state

    def forward_with_input(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and the input of the last layer, for `attention_and_keys`: two [V, N, D]. No additional work."""
        *layers, last = self.vision_model.encoder.layers
        hidden = self.embed(images)
        for layer in layers:
            hidden = layer(hidden, None)
        return last(hidden, None), hidden

    @torch.no_grad()
    def attention_and_keys(self, last_input: Tensor, needs: Sequence[str] = ("attention", "keys")) -> dict[str, Tensor]:
        """Attention and keys of the last layer, recomputed from its input, for selectors that need them.

        Fused attention returns no weights, so queries, keys and their products are computed again, `ATTENTION_CHUNK` weights
        at a time. At 2304 tokens of so400m that is 12.2 G multiplications, 1.0 % of the tower's 26 layers (keys alone 3.1 G).

        Args:
            last_input: [V, N, D] of `forward_with_input`.
            needs: which of the two to compute, as in `ShirgGate.needs`.

        Returns:
            "attention": attention that each token receives, [V, N] float32, mean over heads and over the queries of its view;
            its sum over a view is 1. (SigLIP has no class token.) "keys": [V, N, D], heads concatenated.
        """
        layer = self.vision_model.encoder.layers[-1]
        assert isinstance(layer, SiglipEncoderLayer)
        normed, attention = layer.layer_norm1(last_input), layer.self_attn
        values = {"keys": attention.k_proj(normed)}
        if "attention" in needs:
            queries = attention.q_proj(normed) * attention.scale
            values["attention"] = _attention_received(queries, values["keys"], attention.num_heads)
        return {name: values[name] for name in needs}

    def embed(self, images: Tensor) -> Tensor:
        """The input of the first layer, [V, N, D], of pixels as of `forward`: patch and position embeddings."""
        if images.ndim != 4 or images.shape[1] != self.config.num_channels:
            raise UserError(
                f"images must be [views, {self.config.num_channels}, height, width]; got shape {list(images.shape)}"
            )
        self.grid(*images.shape[-2:])
        return embed_patches(self.vision_model.embeddings, images)

    def get_multiview_tokens_for_shirg(self, images: Tensor) -> Tensor:
        """Tokens to select from: [B, 2304, D] of [B, 3, 672, 672], [B, 3645, D] of five views [B, 5, 3, 384, 384].

        Other multiples of the patch size and other numbers of views work too. A 384 image is enlarged to 672 with a warning,
        since that adds no detail.
        """
        images = self._shirg_pixels(images)
        if images.ndim == 5:
            return self(images.flatten(0, 1)).unflatten(0, images.shape[:2]).flatten(1, 2)  # [B, V * N, D]
        return self(images)

    def shirg_token_selection(
        self,
        tokens: Tensor,
        target_tokens: int,
        text_embeddings: Tensor | None = None,
        images: Tensor | None = None,
        preset: str = "default",
    ) -> Tensor:
        """The best of `tokens` [B, N, D] in raster order, then the summary token: [B, target_tokens + 1, D].

        Args:
            text_embeddings: [B, L, D] in the tower's space; without them the image alone decides.
            images: the pixels of the tokens, for the edge term and the shape of the grid. Without them edges are computed from
                the tokens, and the grid follows from N (a square, or several views of the trained size).
            preset: the gate's settings, a name in `shirg.gate.config.PRESETS`.

        Raises:
            ValueError: for an unknown preset, a budget below 1, widths or shapes that do not match, or an N that
                fits no grid or two: 2916 is one view of 54 x 54 tokens or four of 27 x 27.
        """
        pixels = None if images is None else self._shirg_pixels(images)
        grid = self._grid_of_count(tokens.shape[1]) if pixels is None else self._grid_of_pixels(pixels)
        gate = ShirgGate(GateConfig.preset(preset))
        return gate(tokens, budget=target_tokens, grid=grid, text=text_embeddings, pixels=pixels).tokens

    def forward_with_shirg(
        self,
        images: Tensor,
        target_tokens: int = 768,
        text_embeddings: Tensor | None = None,
        preset: str = "default",
    ) -> Tensor:
        """Encode and select in one call: [B, target_tokens + 1, D], the input of the projector.

        Arguments and errors as of `shirg_token_selection`.
        """
        pixels = self._shirg_pixels(images)
        tokens = self.get_multiview_tokens_for_shirg(pixels)
        return self.shirg_token_selection(tokens, target_tokens, text_embeddings, pixels, preset)

    def _shirg_pixels(self, images: Tensor) -> Tensor:
        if images.ndim not in (4, 5):
            raise UserError(
                f"images must be [batch, 3, height, width] or [batch, views, 3, height, width]; "
                f"got shape {list(images.shape)}"
            )
        if images.ndim == 5 or tuple(images.shape[-2:]) != (self.image_size, self.image_size):
            return images
        warnings.warn(
            f"enlarging images of {self.image_size} x {self.image_size} pixels to {SHIRG_RESOLUTION}: "
            "this adds tokens but no detail; give images of the larger size instead",
            stacklevel=3,
        )
        return functional.interpolate(images, size=(SHIRG_RESOLUTION,) * 2, mode="bicubic", align_corners=False)

    def _grid_of_pixels(self, pixels: Tensor) -> tuple[int, ...]:
        grid = self.grid(*pixels.shape[-2:])
        return grid if pixels.ndim == 4 else (pixels.shape[1], *grid)

    def _grid_of_count(self, count: int) -> tuple[int, ...]:
        trained, side = self.image_size // self.patch_size, math.isqrt(count)
        views, rest = divmod(count, trained**2)
        is_square, is_views = side * side == count > 0, rest == 0 and views > 1
        if is_square == is_views:
            both = "both a square grid and" if is_square else "neither a square grid nor"
            raise UserError(
                f"tokens: {count} tokens are {both} views of {trained} x {trained}; "
                "give images, whose shape is that of the grid"
            )
        return (side, side) if is_square else (views, trained, trained)


def _attention_received(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Mean attention weight of every key over heads and queries: two [V, N, D], queries scaled -> [V, N] float32."""
    views, count, _ = keys.shape
    queries, keys = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (queries, keys))  # [V, H, N, d]
    chunk = max(1, ATTENTION_CHUNK // (views * heads * count))
    received = torch.zeros(views, count, device=keys.device)
    for some in queries.split(chunk, dim=2):
        products = some @ keys.transpose(2, 3)  # [V, H, chunk, N]
        received += products.softmax(dim=-1, dtype=torch.float32).sum(dim=(1, 2))
    return received / (heads * count)
