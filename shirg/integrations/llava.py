"""SHIRG in a model of the official LaViDa (or another LLaVA-style) code base; per instance and reversible.

    enable_shirg(model, budget=768, tokenizer=tokenizer)
    output = model.generate(input_ids, images=pixels_for_shirg([image]), ...)
    disable_shirg(model)

`images` may be:

* `pixels_for_shirg(images)`, [B, 3, 672, 672] (or a list of [3, 672, 672], or [B, 1, 3, 672, 672]): 2304 tokens to select
  from, as mode "shirg" of `Lavida`. Recommended.
* the official processor's `process_images` of an "anyres" checkpoint (a list of [V, 3, 384, 384], or [B, V, 3, 384, 384]):
  the base view and the tiles, V * 729 tokens to select from, as mode "multiview".
* one view of 384 pixels, as of "pad" and "square" checkpoints and the processor itself: refused, since its 729 tokens do not
  resolve small print. Calls with 384 pixels, those of the evaluation wrapper included, must be changed to one of the above.

Each image becomes exactly `budget` kept tokens and the summary token, without the 2x2 pooling of views, the merging of tiles and
newline vectors of the official code: kept tokens are on no grid, and adapters are trained without newlines. For this the official
`prepare_inputs_labels_for_multimodal` always gets a plain 4-D tensor, whose features it splices unchanged (LaViDa
llava_arch.py:285, 447-448); placeholders, labels, truncation and padding are its own. `image_sizes` is not needed. As always in
that code base, several prompts need `modalities=["image"] * B`.

Up to three methods of the instance are replaced; no class is changed. A wrapper (a `PeftModel`, `torch.compile`) is refused: give
the model inside, and use the wrapper afterwards.

An adapter trained by SHIRG fits the official model too. peft matches layers and weights by name: on the whole model it would find
the layers, but not their weights, and some versions cannot read the configuration of `get_model()`. So it gets the projector by
the name that it has in an adapter. The selection that an adapter was trained with is in its folder:

    PeftModel.from_pretrained(nn.ModuleDict({"mm_projector": model.get_model().mm_projector}), folder)
    settings = json.loads(Path(folder, "shirg_settings.json").read_text())
    enable_shirg(model, budget=768, gate_config=GateConfig.stored(settings["gate"]), tokenizer=tokenizer,
                 relevance_sign=settings["relevance_sign"])  # and relevance_floor, where the checkpoint's config names one
    pixels = pixels_for_shirg([image], settings["resolution"], settings["fit"])

That is for relevance "llm". With settings["relevance"] "none" leave the tokenizer out; "siglip" needs a text tower, which only
`Lavida` has. `Lavida.load_adapter` also refuses an adapter of another base, which peft does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn

from shirg.errors import UserError
from shirg.gate import GateConfig, ShirgGate, page_budget
from shirg.images import to_rgb
from shirg.lavida.chat import question_end_ids
from shirg.lavida.config import IMAGE_TOKEN_INDEX
from shirg.lavida.positions import embed_patches
from shirg.lavida.prompt import content_words, question_part
from shirg.lavida.relevance import calibrated_relevance
from shirg.lavida.settings import NO_FLOOR, RELEVANCE_SIGNS, check_floor
from shirg.lavida.views import square_view, to_pixels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SETTINGS = "_shirg_settings"

Official: TypeAlias = Any
"""A model of the official code base or a part of one, without static types."""


@dataclass(frozen=True)
class _Settings:
    """Stored on the instance; a plain object, so that the gate does not become a submodule of the model."""

    gate: ShirgGate
    budget: int | Literal["auto"]
    early: bool
    tokenizer: PreTrainedTokenizerBase | None
    """None if questions are not used."""
    question_end_ids: frozenset[int]
    """Ids that end a question."""
    relevance_sign: int
    relevance_floor: float


def enable_shirg(
    model: nn.Module,
    budget: int | Literal["auto"] = 768,
    gate_config: GateConfig | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    relevance_sign: int = 1,
    relevance_floor: float = NO_FLOOR,
    preset: str | None = None,
    early: bool = False,
) -> nn.Module:
    """Make this model encode images with SHIRG; returns the model. For `images` see the module.

    Another call changes the settings.

    Args:
        budget: tokens kept per image, all of its views together; "auto" keeps as many as the print of the image needs
            (`shirg.gate.page_budget`), so that images of one batch differ.
        tokenizer: the checkpoint's. With it tokens are compared with the words of the question after the placeholder, as in
            `Lavida`'s relevance "llm"; without it, and in direct calls of `encode_images`, the image alone decides.
        relevance_sign: -1 for an inverted space, in which the least similar tokens are the relevant ones.
        relevance_floor: lower limit of the cosine, times the sign, see `VisionSettings`.
        preset: a name of `shirg.gate.config.PRESETS`, instead of `gate_config`.
        early: select before the tower, which then encodes the selected patches alone, as mode "early" of `Lavida`; for images
            of one view. Questions are not used.

    Raises:
        UserError: if the model lacks an attribute of the official code base or is a wrapper, the budget is below 1, the sign is
            neither 1 nor -1, the floor is no cosine, the preset is unknown or given with a `gate_config`, or the selector
            needs the tower's attention or keys, which only `Lavida` computes.
    """
    _check_model(model)
    if budget != "auto" and (not isinstance(budget, int) or budget < 1):
        raise UserError(f'budget: got {budget!r}, must be 1 or more kept tokens per image, or "auto"')
    if relevance_sign not in RELEVANCE_SIGNS:
        raise UserError(f"relevance_sign: got {relevance_sign!r}, must be 1 or -1")
    check_floor("relevance_floor", relevance_floor)
    gate = ShirgGate(_gate_config(gate_config, preset))
    if gate.needs:
        raise UserError(
            f"gate_config: selector {gate.config.selector!r} needs the tower's {' and '.join(gate.needs)}, which are not "
            "available here; take one that needs neither, or shirg.Lavida"
        )
    end_ids = frozenset() if tokenizer is None else question_end_ids(tokenizer)
    setattr(model, _SETTINGS, _Settings(gate, budget, early, tokenizer, end_ids, relevance_sign, relevance_floor))
    for name, function in _WRAPPERS.items():
        if hasattr(type(model), name):  # bound, so that copy.deepcopy binds it to the copy
            setattr(model, name, MethodType(function, model))
    return model


def disable_shirg(model: nn.Module) -> nn.Module:
    """Restore the model's own image path; returns the model. A model without SHIRG does not change.

    Raises:
        UserError: if the model is a wrapper.
    """
    _refuse_wrapper(model)
    for name in (*_WRAPPERS, _SETTINGS):
        model.__dict__.pop(name, None)
    return model


def pixels_for_shirg(images: Sequence[Image.Image], resolution: int = 672, fit: str = "stretch") -> Tensor:
    """Normalised pixels [B, 3, resolution, resolution] of PIL images, each made a square.

    Float32 on the CPU; the wrapped model moves them to its own device and precision.

    Args:
        fit: "stretch" as LaViDa's base view, or "pad" with grey to keep the aspect ratio.

    Raises:
        UserError: if `resolution` is not a positive multiple of 14, or for another `fit`.
    """
    if resolution < 14 or resolution % 14:
        raise UserError(f"resolution: got {resolution}, must be a positive multiple of 14")
    return to_pixels([square_view(to_rgb(image), resolution, fit) for image in images])


def _gate_config(given: GateConfig | None, preset: str | None) -> GateConfig:
    if given is not None and preset is not None:
        raise UserError(f"preset: got {preset!r} and a gate_config, must be one of them")
    try:
        return given or GateConfig.preset(preset or "default")
    except ValueError as error:
        raise UserError(f"preset: got {preset!r}; {error}") from error


def _check_model(model: Official) -> None:
    _refuse_wrapper(model)
    for name in ("encode_images", "prepare_inputs_labels_for_multimodal", "get_model"):
        if not callable(getattr(type(model), name, None)):
            raise UserError(f"model: {type(model).__name__} has no {name}(); a LLaVA-style model is needed")
    inner = model.get_model()
    for name in ("get_vision_tower", "mm_projector"):
        if getattr(inner, name, None) is None:
            raise UserError(f"model: {type(inner).__name__} has no {name}; a LLaVA-style model is needed")
    _siglip(inner.get_vision_tower())


def _refuse_wrapper(model: nn.Module) -> None:
    """Refuse a wrapper: it has the methods of the model inside, but replacing them there has no effect."""
    wrappers = {
        "get_base_model()": hasattr(type(model), "get_base_model"),  # peft
        "_orig_mod": "_orig_mod" in dict(model.named_children()),  # torch.compile
    }
    for inside, found in wrappers.items():
        if found:
            raise UserError(
                f"model: a {type(model).__name__} is a wrapper of the model inside; give model.{inside} instead"
            )


def _siglip(tower: nn.Module) -> Official:
    """The transformer in the tower: the first submodule with `embeddings` and `encoder`."""
    for module in tower.modules():
        if isinstance(getattr(module, "embeddings", None), nn.Module) and hasattr(module, "encoder"):
            return module
    raise UserError(
        f"model: its vision tower {type(tower).__name__} contains no loaded SigLIP (no embeddings and encoder)"
    )


# ------------------------------------------------------------------ replacements of the model's methods


def _prepare_inputs(
    self: Official,
    input_ids: Tensor,
    position_ids: Tensor | None,
    attention_mask: Tensor | None,
    past_key_values: Any,
    labels: Tensor | None,
    images: Tensor | Sequence[Tensor] | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Replaces `prepare_inputs_labels_for_multimodal`: selects tokens of each image, with its question."""
    prepare = MethodType(type(self).prepare_inputs_labels_for_multimodal, self)
    if images is None:
        return prepare(input_ids, position_ids, attention_mask, past_key_values, labels, None, *args, **kwargs)
    views = _views(images)
    questions = _questions(self, input_ids, attention_mask, len(views))
    embeds = [_embed(self, one, question) for one, question in zip(views, questions, strict=True)]
    self.encode_images = lambda _: embeds
    try:
        return prepare(input_ids, position_ids, attention_mask, past_key_values, labels, views[0], *args, **kwargs)
    finally:
        self.encode_images = MethodType(_encode_images, self)


def _encode_images(self: Official, images: Tensor) -> Tensor | list[Tensor]:
    """Replaces `encode_images`: [B, 3, H, W] or [B, V, 3, H, W] -> [B, budget + 1, hidden], with budget "auto" a list."""
    embeds = [_embed(self, views, None) for views in _views(images)]
    return embeds if getattr(self, _SETTINGS).budget == "auto" else torch.stack(embeds)


def _no_pooling(self: Official, image_feature: Tensor, *args: object, **kwargs: object) -> Tensor:
    """Replaces `get_2dPool`, for code that calls it after `encode_images`."""
    return image_feature


_WRAPPERS: dict[str, Callable[..., Any]] = {
    "prepare_inputs_labels_for_multimodal": _prepare_inputs,
    "encode_images": _encode_images,
    "get_2dPool": _no_pooling,
}


# ------------------------------------------------------------------ one image


def _views(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The views [V, 3, H, W] of each image."""
    if isinstance(images, Tensor) and images.ndim not in (4, 5):
        raise UserError(f"images: got shape {list(images.shape)}, must be [B, 3, H, W] or [B, V, 3, H, W]")
    views = [image[None] if image.ndim == 3 else image for image in images]
    for one in views:
        if one.ndim != 4:
            raise UserError(f"images: got shape {list(one.shape)} in a list, must be [3, H, W] or [V, 3, H, W]")
    return views


def _questions(model: Official, input_ids: Tensor, attention_mask: Tensor | None, count: int) -> list[Tensor | None]:
    """The question about each of `count` images, in order; a row without a placeholder also consumes an image
    (LaViDa llava_arch.py:484-492)."""
    settings: _Settings = getattr(model, _SETTINGS)
    if settings.tokenizer is None:
        return [None] * count
    asked: list[Tensor | None] = []
    for index, row in enumerate(input_ids):
        ids = row if attention_mask is None else row[attention_mask[index].bool()]
        places = int((ids == IMAGE_TOKEN_INDEX).sum())
        question = content_words(question_part(ids, IMAGE_TOKEN_INDEX, settings.question_end_ids), settings.tokenizer)
        asked += [question] * places or [None]
    return (asked + [None] * count)[:count]


def _embed(model: Official, views: Tensor, question: Tensor | None) -> Tensor:
    """An image's views [V, 3, H, W] -> [budget + 1, hidden]."""
    settings: _Settings = getattr(model, _SETTINGS)
    inner = model.get_model()
    projector = inner.mm_projector
    siglip = _siglip(inner.get_vision_tower())
    pixels = views.to(siglip.embeddings.patch_embedding.weight.device)
    if settings.early and len(views) > 1:
        raise UserError(f"images: got {len(views)} views of an image, early=True takes one (pixels_for_shirg)")
    tokens, grid = _patches(siglip, pixels)
    precision = next(projector.parameters()).dtype
    if not settings.early:
        tokens = siglip.encoder(inputs_embeds=tokens)[0].to(precision)
    tokens = tokens.flatten(0, 1)  # [V * N, D]
    relevance = None
    if question is not None and len(question) and not settings.early:
        with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
            words, ids = model.get_input_embeddings(), question.to(tokens.device)
            found = calibrated_relevance(
                projector, tokens, words, ids, settings.relevance_sign, settings.relevance_floor
            )
            relevance = None if found is None else found[None]
    shape = (len(views), *grid)
    budget, selector = settings.budget, settings.gate.config.selector
    if budget == "auto":
        budget = page_budget(pixels[None], shape, selector=selector)
    kept = settings.gate(tokens[None], budget=budget, grid=shape, pixels=pixels[None], relevance=relevance).tokens
    if settings.early:
        kept = siglip.encoder(inputs_embeds=kept[:, : len(tokens)])[0].to(precision)
    return projector(kept[0])


def _patches(siglip: Official, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The input of the first encoder layer [V, N, D], and the grid."""
    side = math.isqrt(len(siglip.embeddings.position_embedding.weight))
    patch = siglip.embeddings.patch_embedding.kernel_size[0]
    height, width = images.shape[-2:]
    rows, cols = height // patch, width // patch
    trained = (rows, cols) == (side, side)  # 384 pixels are no multiple of 14: the last 6 belong to no patch
    if len(images) == 1 and rows * cols <= side * side:
        raise UserError(
            f"images: one view of {height}x{width} pixels gives no more than the tower's own {side * side} tokens; "
            "give the image at 672x672 (pixels_for_shirg), or its base view and tiles together as one [V, 3, H, W]"
        )
    if not trained and (height % patch or width % patch):
        raise UserError(f"images: got {height}x{width} pixels, both must be multiples of the patch size {patch}")
    return embed_patches(siglip.embeddings, images), (rows, cols)
