"""SigLIP's text tower, which LaViDa checkpoints do not contain, for relevance "siglip"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from shirg.errors import UserError
from shirg.lavida import checkpoint
from shirg.lavida.config import read_config

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import SiglipConfig, SiglipVisionConfig

LAST_LAYER = "vision_model.encoder.layers.{}."
"""Name in a SigLIP checkpoint of the encoder layer that LaViDa deletes (LaViDa siglip_encoder.py:570-571)."""


class TextTower:
    """SigLIP's text tower, and the layers of its vision encoder that LaViDa removed; frozen.

    SigLIP (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", section 3) trains one embedding per image and one
    per text. A single patch is embedded by the pooling head without attention over patches, as MaskCLIP does with CLIP (Zhou et
    al. 2022, "Extract Free Dense Labels from CLIP", section 3.1): with the patch as its only key the softmax is 1, so only the
    value and output projections are used.

    A released LaViDa's vision tower was trained further, so its features differ from those of the published vision tower that
    this text tower was trained with.

    It is not an `nn.Module`, so that it is not part of the model's weights, parameter counts and training. It moves to device and
    precision of its input.
    """

    def __init__(self, config: SiglipConfig, tokenizer: Tokenizer):
        """Build it on the "meta" device or with random weights.

        Args:
            config: of the whole SigLIP.
            tokenizer: SigLIP's own, which lower-cases and adds the end of text.
        """
        from transformers import SiglipModel

        model = SiglipModel(config).eval().requires_grad_(False)
        self.encoder, self.post_layernorm = model.vision_model.encoder, model.vision_model.post_layernorm
        self.encoder.layers = self.encoder.layers[-1:]
        self.head, self.text_model = model.vision_model.head, model.text_model
        self.text_sizes, self.vision_sizes = model.text_model.config, model.vision_model.config
        names = ("encoder", "post_layernorm", "head", "text_model")
        self.parts = nn.ModuleDict({name: getattr(self, name) for name in names})
        self.tokenizer = tokenizer
        length = self.text_sizes.max_position_embeddings
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length, pad_id=self.text_sizes.pad_token_id)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> TextTower:
        """Read a SigLIP checkpoint, a folder or a hub id; of its vision tower only the layers that LaViDa removed.

        Raises:
            UserError: if there is no such checkpoint, it is not a SigLIP with a text tower, or a tensor is missing.
        """
        try:
            folder = checkpoint.resolve(name)
        except UserError as error:
            raise UserError(f"text tower: {error}") from error
        config, tokenizer = _siglip_config(folder), _tokenizer(folder)
        with torch.device("meta"):
            tower = cls(config, tokenizer)
        if tokenizer.get_vocab_size() > tower.text_sizes.vocab_size:
            raise UserError(
                f"text tower {folder}: tokenizer.json knows {tokenizer.get_vocab_size()} tokens, config.json "
                f"{tower.text_sizes.vocab_size}; take both from one checkpoint"
            )
        tower._load(folder, torch.device(device), dtype)
        return tower

    def relevance(self, tokens: Tensor, question: str) -> Tensor:
        """cos of every patch to the question: [V, N, D] raw tokens of the shortened tower -> [V * N] float32."""
        patches = functional.normalize(self.embed_patches(tokens).flatten(0, 1).float(), dim=-1)
        return patches @ functional.normalize(self.embed_text(question).to(patches), dim=0)

    @torch.no_grad()
    def embed_patches(self, tokens: Tensor) -> Tensor:
        """Every patch in the shared space of images and texts: [V, N, D] -> [V, N, D].

        The removed layer attends within each view, at any resolution: positions were added before the first layer.
        """
        self._move_to(tokens)
        hidden = self.encoder(inputs_embeds=tokens).last_hidden_state
        hidden = self.post_layernorm(hidden)
        # The head with one key (transformers' SiglipMultiheadAttentionPoolingHead): value and output projection of
        # the key itself, then the residual MLP. The packed input projection holds query, key and value rows.
        head, width = self.head, tokens.shape[-1]
        attention = head.attention
        value = functional.linear(hidden, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
        pooled = attention.out_proj(value)
        return pooled + head.mlp(head.layernorm(pooled))

    @torch.no_grad()
    def embed_text(self, text: str) -> Tensor:
        """A text in the shared space, [D], padded to the full length without a mask, as SigLIP was trained."""
        ids = torch.tensor([self.tokenizer.encode(text).ids], device=self.post_layernorm.weight.device)
        return self.text_model(input_ids=ids).pooler_output[0]

    def _move_to(self, tokens: Tensor) -> None:
        weight = self.post_layernorm.weight
        if (weight.device, weight.dtype) != (tokens.device, tokens.dtype):
            self.parts.to(tokens.device, tokens.dtype)

    def _load(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        last = LAST_LAYER.format(self.vision_sizes.num_hidden_layers - 1)
        wanted = {_hub_name(name, last): (name, value.shape) for name, value in self.parts.state_dict().items()}
        files = checkpoint.weight_files(folder)
        others = checkpoint.stored_shapes(files)  # the rest of the vision tower, not read
        weights = f"the weights of text tower {folder}"
        state = checkpoint.read_tensors(files, wanted, weights, unused=others, device=device, dtype=dtype)
        self.parts.load_state_dict(state, assign=True)
        self.parts.requires_grad_(False)
        embeddings = self.text_model.embeddings
        places = torch.arange(embeddings.position_embedding.num_embeddings, device=device)[None]
        embeddings.register_buffer("position_ids", places, persistent=False)


def load_text_tower(
    name: str | Path, ours: SiglipVisionConfig, *, device: torch.device, dtype: torch.dtype
) -> TextTower:
    """The text tower of the SigLIP that a model's vision tower was made from.

    Args:
        ours: sizes of the model's tower, which has one layer fewer.

    Raises:
        UserError: as `TextTower.from_pretrained`, and if the sizes of that SigLIP's vision tower differ.
    """
    tower = TextTower.from_pretrained(name, device=device, dtype=dtype)
    theirs = tower.vision_sizes
    sizes = {"width": (theirs.hidden_size, ours.hidden_size)}
    sizes["layers"] = (theirs.num_hidden_layers, ours.num_hidden_layers + 1)  # with the one that LaViDa removed
    for what, (has, needs) in sizes.items():
        if has != needs:
            raise UserError(
                f"text tower {name}: its vision tower's {what} is {has}, this model's was {needs}; give the SigLIP "
                "that the model's tower was made from (siglip-so400m-patch14-384 for released LaViDa)"
            )
    return tower


def _hub_name(name: str, last: str) -> str:
    if name.startswith("encoder."):
        return last + name.removeprefix("encoder.layers.0.")
    return name if name.startswith("text_model.") else f"vision_model.{name}"


def _siglip_config(folder: Path) -> SiglipConfig:
    from transformers import SiglipConfig

    raw = read_config(folder)
    if raw.get("model_type") != "siglip" or not isinstance(raw.get("vision_config"), dict):
        raise UserError(
            f"text tower {folder}: config.json is of model_type={raw.get('model_type')!r}, not of a whole SigLIP with "
            'text and vision ("siglip", such as google/siglip-so400m-patch14-384)'
        )
    no_ids = {"bos_token_id": None, "eos_token_id": None}  # the defaults are CLIP's, beyond SigLIP's vocabulary
    try:
        return SiglipConfig(
            text_config={**no_ids, **(raw.get("text_config") or {})},
            vision_config={**raw["vision_config"], "vision_use_head": True},
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"text tower {folder}: config.json is not one that transformers reads ({error})") from error


def _tokenizer(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"text tower {folder}: no tokenizer.json; take it from the same SigLIP checkpoint")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise UserError(f"{path} is not a readable tokenizer ({error})") from error
