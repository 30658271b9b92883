"""SHIRG in a model of the official LaViDa (or another LLaVA-style) code base, one instance at a time and reversible.

    enable_shirg(model, budget=768)
    output = model.generate(input_ids, images=pixels_for_shirg([image]), ...)
    disable_shirg(model)

What is wrapped is the path from pixels to the embeddings that are spliced into the prompt: `encode_images` and, because
kept tokens form no grid that could be pooled, `get_2dPool`. No class is touched, and so no other model of that class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType

from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from shirg.errors import UserError
from shirg.gate import GateConfig, ShirgGate
from shirg.lavida.images import square_view, to_pixels, to_rgb

_WRAPPED = ("encode_images", "get_2dPool")
_SETTINGS = "_shirg_settings"


@dataclass(frozen=True)
class _Settings:
    """Kept on the wrapped instance; a plain object, so that the gate does not become one of the model's submodules."""

    gate: ShirgGate
    budget: int


def enable_shirg(model: nn.Module, budget: int = 768, gate_config: GateConfig | None = None) -> nn.Module:
    """Make this one model read images of more than its tower's own size through SHIRG; returns the model.

    Images are then given as `[B, 3, H, W]`, or as a list of `[3, H, W]`, with sides that are multiples of the patch
    size (`pixels_for_shirg` makes them); each becomes `budget` kept tokens and the summary token. Calling it again
    changes the settings. Selection is by the image alone, because `encode_images` is not told the question.

    Raises:
        UserError: if the model lacks an attribute of the official code base, or the budget is below 1.
    """
    _check_model(model)
    if budget < 1:
        raise UserError(f"budget: got {budget}, must be 1 or more kept tokens per image")
    setattr(model, _SETTINGS, _Settings(ShirgGate(gate_config or GateConfig()), budget))
    model.encode_images = MethodType(
        _encode_images, model
    )  # a bound method, so that copy.deepcopy binds it to the copy
    if hasattr(type(model), "get_2dPool"):
        model.get_2dPool = MethodType(_keep_as_it_is, model)
    return model


def disable_shirg(model: nn.Module) -> nn.Module:
    """Give the model its own image path back; returns the model. Nothing happens to a model that is not wrapped."""
    for name in (*_WRAPPED, _SETTINGS):
        model.__dict__.pop(name, None)
    return model


def pixels_for_shirg(images: Sequence[Image.Image], resolution: int = 672) -> Tensor:
    """Normalised pixels [B, 3, resolution, resolution] of PIL images, stretched to the square as LaViDa's base view is.

    Raises:
        UserError: if `resolution` is not a positive multiple of 14.
    """
    if resolution < 14 or resolution % 14:
        raise UserError(f"resolution: got {resolution}, must be a positive multiple of 14")
    return to_pixels([square_view(to_rgb(image), resolution) for image in images])


def _check_model(model: nn.Module) -> None:
    for name in ("encode_images", "get_model"):
        if not callable(getattr(model, name, None)):
            raise UserError(f"model: {type(model).__name__} has no {name}(); a LLaVA-style model is needed")
    inner = model.get_model()
    for name in ("get_vision_tower", "mm_projector"):
        if getattr(inner, name, None) is None:
            raise UserError(f"model: {type(inner).__name__} has no {name}; a LLaVA-style model is needed")
    _siglip(inner.get_vision_tower())


def _siglip(tower: nn.Module) -> nn.Module:
    """The transformer inside the tower: what has `embeddings` and `encoder`, however deep the code base wraps it."""
    for module in tower.modules():
        if isinstance(getattr(module, "embeddings", None), nn.Module) and hasattr(module, "encoder"):
            return module
    raise UserError(
        f"model: its vision tower {type(tower).__name__} holds no loaded SigLIP (no embeddings and encoder)"
    )


def _encode_images(self: nn.Module, images: Tensor) -> Tensor:
    """Stands in for the model's `encode_images`: [B, 3, H, W] -> [B, budget + 1, hidden]."""
    settings: _Settings = getattr(self, _SETTINGS)
    inner = self.get_model()
    tokens, grid = _tokens(_siglip(inner.get_vision_tower()), images)
    kept = settings.gate(tokens, budget=settings.budget, grid=grid, pixels=images)
    return inner.mm_projector(kept.tokens)


def _keep_as_it_is(self: nn.Module, image_feature: Tensor, *args: object, **kwargs: object) -> Tensor:
    """Stands in for `get_2dPool`: kept tokens are few already and stand on no regular grid."""
    return image_feature


def _tokens(siglip: nn.Module, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Raw tokens [B, N, D] of the last encoder layer and their grid, with the position table interpolated to it."""
    patches, positions = siglip.embeddings.patch_embedding, siglip.embeddings.position_embedding.weight
    side = round(positions.shape[0] ** 0.5)
    patch = patches.kernel_size[0]
    if images.ndim != 4:
        raise UserError(f"images: got shape {list(images.shape)}, must be [B, 3, H, W]")
    height, width = images.shape[-2:]
    rows, cols = height // patch, width // patch
    if rows * cols <= side * side:
        raise UserError(
            f"images: {height}x{width} pixels give no more than the tower's own {side * side} tokens; "
            "give the page once at 672x672 (pixels_for_shirg) instead of as tiles"
        )
    if height % patch or width % patch:
        raise UserError(f"images: got {height}x{width} pixels, both must be multiples of the patch size {patch}")
    embedded = patches(images.to(patches.weight.dtype))  # [B, D, rows, cols]
    table = positions.T.reshape(1, -1, side, side).float()
    table = functional.interpolate(table, size=(rows, cols), mode="bicubic", align_corners=False)
    hidden = (embedded + table.to(embedded.dtype)).flatten(2).transpose(1, 2)  # [B, N, D]
    return siglip.encoder(inputs_embeds=hidden).last_hidden_state.to(images.dtype), (rows, cols)
