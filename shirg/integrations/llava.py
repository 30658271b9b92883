"""SHIRG in a model of the official LaViDa (or another LLaVA-style) code base, one instance at a time and reversible.

    enable_shirg(model, budget=768, tokenizer=tokenizer)
    output = model.generate(input_ids, images=pixels_for_shirg([image]), ...)
    disable_shirg(model)

What `images` may be, and what each page becomes:

* `pixels_for_shirg(pages)`, [B, 3, 672, 672] (or a list of [3, 672, 672], or [B, 1, 3, 672, 672]): 2304 tokens to choose
  from, as mode "shirg" of `Lavida`. This is the way to use SHIRG.
* the official processor's `process_images` of an "anyres" checkpoint (a list of [V, 3, 384, 384], or [B, V, 3, 384, 384]):
  the base view and the tiles, V * 729 tokens to choose from, as mode "multiview".
* one view of 384 pixels, which "pad" and "square" checkpoints and the processor itself give: refused, since its 729 tokens
  hold no small print. Calls that hand over 384 pixels, the evaluation wrapper's too, must be changed to one of the above.

Each page becomes `budget` kept tokens and the summary token, exactly: neither the 2x2 pooling of views, which takes 27x27
tokens for granted, nor the merging of tiles, nor a newline vector comes after it. Kept tokens stand on no grid that could
be pooled, merged or broken into lines, and adapters are trained without newlines. To that end the official
`prepare_inputs_labels_for_multimodal` is handed a plain 4-D tensor whatever `images` was, which it encodes and splices as
it is (LaViDa llava_arch.py:285, 447-448); everything after (placeholders, labels, truncation, padding) is its own.
`image_sizes` is then not needed. As ever in that code base, several prompts need `modalities=["image"] * B`.

Up to three methods of the instance are replaced. No class is touched, and so no other model of that class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from shirg.errors import UserError
from shirg.gate import GateConfig, ShirgGate
from shirg.lavida.config import IMAGE_TOKEN_INDEX
from shirg.lavida.images import square_view, to_pixels, to_rgb
from shirg.lavida.prompt import question_part
from shirg.lavida.relevance import word_relevance

_SETTINGS = "_shirg_settings"


@dataclass(frozen=True)
class _Settings:
    """Kept on the wrapped instance; a plain object, so that the gate does not become one of the model's submodules."""

    gate: ShirgGate
    budget: int
    marks: frozenset[int] | None
    """Ids that end a question; None where questions are not looked at."""


def enable_shirg(
    model: nn.Module, budget: int = 768, gate_config: GateConfig | None = None, tokenizer=None
) -> nn.Module:
    """Make this one model read images through SHIRG; returns the model. See the module for what `images` may be.

    Calling it again changes the settings.

    Args:
        budget: tokens kept per page, all of its views together.
        tokenizer: the checkpoint's. With it tokens are compared with the words of the question behind the placeholder,
            as with `Lavida`'s relevance "llm"; without it, and where `encode_images` is called by itself, the image
            alone decides.

    Raises:
        UserError: if the model lacks an attribute of the official code base, or the budget is below 1.
    """
    _check_model(model)
    if budget < 1:
        raise UserError(f"budget: got {budget}, must be 1 or more kept tokens per image")
    marks = None
    if (
        tokenizer is not None
    ):  # all_special_ids would leave out LLaDA's marks of turns, which have no role in its config
        marks = frozenset(id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special)
    setattr(model, _SETTINGS, _Settings(ShirgGate(gate_config or GateConfig()), budget, marks))
    for name, function in _WRAPPERS.items():
        if hasattr(type(model), name):  # bound, so that copy.deepcopy binds it to the copy
            setattr(model, name, MethodType(function, model))
    return model


def disable_shirg(model: nn.Module) -> nn.Module:
    """Give the model its own image path back; returns the model. Nothing happens to a model that is not wrapped."""
    for name in (*_WRAPPERS, _SETTINGS):
        model.__dict__.pop(name, None)
    return model


def pixels_for_shirg(images: Sequence[Image.Image], resolution: int = 672) -> Tensor:
    """Normalised pixels [B, 3, resolution, resolution] of PIL images, stretched to the square as LaViDa's base view is.

    Float32 on the CPU; the wrapped model moves them to its own device and precision.

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


# ------------------------------------------------------------------ what stands for the model's own methods


def _prepare_inputs(
    self: nn.Module, input_ids, position_ids, attention_mask, past_key_values, labels, images, *args, **kwargs
):
    """Stands in for `prepare_inputs_labels_for_multimodal`: chooses tokens for each page, its question at hand."""
    prepare = MethodType(type(self).prepare_inputs_labels_for_multimodal, self)
    if images is None:
        return prepare(input_ids, position_ids, attention_mask, past_key_values, labels, None, *args, **kwargs)
    pages = _pages(images)
    questions = _questions(self, input_ids, attention_mask, len(pages))
    embeds = [_embed(self, page, question) for page, question in zip(pages, questions, strict=True)]
    self.encode_images = lambda _: embeds
    try:
        return prepare(input_ids, position_ids, attention_mask, past_key_values, labels, pages[0], *args, **kwargs)
    finally:
        self.encode_images = MethodType(_encode_images, self)


def _encode_images(self: nn.Module, images: Tensor) -> Tensor:
    """Stands in for `encode_images`: [B, 3, H, W] or [B, V, 3, H, W] -> [B, budget + 1, hidden]."""
    return torch.stack([_embed(self, page, None) for page in _pages(images)])


def _keep_as_it_is(self: nn.Module, image_feature: Tensor, *args: object, **kwargs: object) -> Tensor:
    """Stands in for `get_2dPool`, for code that calls it behind `encode_images`."""
    return image_feature


_WRAPPERS = {
    "prepare_inputs_labels_for_multimodal": _prepare_inputs,
    "encode_images": _encode_images,
    "get_2dPool": _keep_as_it_is,
}


# ------------------------------------------------------------------ one page


def _pages(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Each page as the stack of its views [V, 3, H, W]."""
    if isinstance(images, Tensor) and images.ndim not in (4, 5):
        raise UserError(f"images: got shape {list(images.shape)}, must be [B, 3, H, W] or [B, V, 3, H, W]")
    pages = [page[None] if page.ndim == 3 else page for page in images]
    for page in pages:
        if page.ndim != 4:
            raise UserError(f"images: got shape {list(page.shape)} in a list, must be [3, H, W] or [V, 3, H, W]")
    return pages


def _questions(model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None, count: int) -> list[Tensor | None]:
    """What is asked about each of `count` images, consumed in order; a row without a placeholder consumes one too
    (LaViDa llava_arch.py:484-492)."""
    marks = getattr(model, _SETTINGS).marks
    if marks is None:
        return [None] * count
    asked: list[Tensor | None] = []
    for index, row in enumerate(input_ids):
        ids = row if attention_mask is None else row[attention_mask[index].bool()]
        places = int((ids == IMAGE_TOKEN_INDEX).sum())
        asked += [question_part(ids, IMAGE_TOKEN_INDEX, marks)] * places or [None]
    return (asked + [None] * count)[:count]


def _embed(model: nn.Module, views: Tensor, question: Tensor | None) -> Tensor:
    """One page's views [V, 3, H, W] -> [budget + 1, hidden]."""
    settings: _Settings = getattr(model, _SETTINGS)
    inner = model.get_model()
    projector = inner.mm_projector
    siglip = _siglip(inner.get_vision_tower())
    pixels = views.to(siglip.embeddings.patch_embedding.weight.device)
    tokens, grid = _tokens(siglip, pixels)
    tokens = tokens.flatten(0, 1).to(next(projector.parameters()).dtype)  # [V * N, D]
    relevance = None
    if question is not None and len(question):
        with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
            words = inner.embed_tokens(question.to(tokens.device))
            relevance = word_relevance(projector, tokens, words)[None]
    kept = settings.gate(
        tokens[None], budget=settings.budget, grid=(len(views), *grid), pixels=pixels[None], relevance=relevance
    )
    return projector(kept.tokens[0])


def _tokens(siglip: nn.Module, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Raw tokens [V, N, D] of the last encoder layer and their grid, with the position table interpolated to it."""
    patches, positions = siglip.embeddings.patch_embedding, siglip.embeddings.position_embedding.weight
    side = round(positions.shape[0] ** 0.5)
    patch = patches.kernel_size[0]
    height, width = images.shape[-2:]
    rows, cols = height // patch, width // patch
    trained = (rows, cols) == (side, side)  # 384 pixels are no multiple of 14: the last 6 belong to no patch
    if len(images) == 1 and rows * cols <= side * side:
        raise UserError(
            f"images: one view of {height}x{width} pixels gives no more than the tower's own {side * side} tokens; "
            "give the page at 672x672 (pixels_for_shirg), or its base view and tiles together as one [V, 3, H, W]"
        )
    if not trained and (height % patch or width % patch):
        raise UserError(f"images: got {height}x{width} pixels, both must be multiples of the patch size {patch}")
    embedded = patches(images.to(patches.weight.dtype))  # [V, D, rows, cols]
    table = positions.T.reshape(1, -1, side, side)
    if not trained:
        table = functional.interpolate(table.float(), size=(rows, cols), mode="bicubic", align_corners=False)
    hidden = (embedded + table.to(embedded.dtype)).flatten(2).transpose(1, 2)  # [V, N, D]
    return siglip.encoder(inputs_embeds=hidden)[0], (rows, cols)
