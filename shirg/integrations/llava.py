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

Up to three methods of the instance are replaced. No class is touched, and so no other model of that class. What stands
around a model and passes calls on (a `PeftModel`, `torch.compile`) is refused: give the model inside, and go on using
the outer one.

An adapter trained by SHIRG fits the official model as well. peft puts its layers in place, and goes by their names: on
the whole model it would find the layers, but none of their weights, and some pefts cannot read the configuration of what
`get_model()` gives. So it is handed the projector by the name that it has in an adapter. The selection that an adapter was
trained with is in its folder:

    PeftModel.from_pretrained(nn.ModuleDict({"mm_projector": model.get_model().mm_projector}), folder)
    settings = json.loads(Path(folder, "shirg_settings.json").read_text())
    enable_shirg(model, budget=768, gate_config=GateConfig.stored(settings["gate"]), tokenizer=tokenizer,
                 relevance_sign=settings["relevance_sign"])  # and relevance_floor, where the checkpoint's config names one
    pixels = pixels_for_shirg([image], settings["resolution"], settings["fit"])

That is for the relevance "llm". With settings["relevance"] "none" leave the tokenizer out; "siglip" needs a text tower,
which only `Lavida` knows. `load_adapter` of `Lavida` also refuses an adapter of another base, which peft cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn

from shirg.errors import UserError
from shirg.gate import GateConfig, ShirgGate
from shirg.images import to_rgb
from shirg.lavida.config import IMAGE_TOKEN_INDEX
from shirg.lavida.images import square_view, to_pixels
from shirg.lavida.patches import embed_patches
from shirg.lavida.prompt import content_words, question_end_ids, question_part
from shirg.lavida.relevance import calibrated_relevance
from shirg.lavida.settings import NO_FLOOR, RELEVANCE_SIGNS, check_floor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SETTINGS = "_shirg_settings"

Official: TypeAlias = Any
"""A model of the official code base or a part of one: modules with methods and parts that torch does not know of."""


@dataclass(frozen=True)
class _Settings:
    """Kept on the wrapped instance; a plain object, so that the gate does not become one of the model's submodules."""

    gate: ShirgGate
    budget: int
    tokenizer: PreTrainedTokenizerBase | None
    """Tells words; None where questions are not looked at."""
    marks: frozenset[int]
    """Ids that end a question."""
    relevance_sign: int
    relevance_floor: float


def enable_shirg(
    model: nn.Module,
    budget: int = 768,
    gate_config: GateConfig | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    relevance_sign: int = 1,
    relevance_floor: float = NO_FLOOR,
    preset: str | None = None,
) -> nn.Module:
    """Make this one model read images through SHIRG; returns the model. See the module for what `images` may be.

    Calling it again changes the settings.

    Args:
        budget: tokens kept per page, all of its views together.
        tokenizer: the checkpoint's. With it tokens are compared with the words of the question behind the placeholder,
            as with `Lavida`'s relevance "llm"; without it, and where `encode_images` is called by itself, the image
            alone decides.
        relevance_sign: -1 where the space is inverted, so that the least similar tokens are the relevant ones.
        relevance_floor: cosine, times the sign, up to which a token is no match for the question.
        preset: a name of `shirg.gate.config.PRESETS`, instead of `gate_config`.

    Raises:
        UserError: if the model lacks an attribute of the official code base or stands around another one, the budget
            is below 1, the sign is neither 1 nor -1, the floor is no cosine, the preset is unknown or came with a
            `gate_config`, or the selector needs the tower's attention or keys, which only `Lavida` computes.
    """
    _check_model(model)
    if not isinstance(budget, int) or budget < 1:
        raise UserError(f"budget: got {budget}, must be 1 or more kept tokens per image")
    if relevance_sign not in RELEVANCE_SIGNS:
        raise UserError(f"relevance_sign: got {relevance_sign!r}, must be 1 or -1")
    check_floor("relevance_floor", relevance_floor)
    gate = ShirgGate(_gate_config(gate_config, preset))
    if gate.needs:
        raise UserError(
            f"gate_config: selector {gate.config.selector!r} needs the tower's {' and '.join(gate.needs)}, which are not at "
            "hand here; take one that needs neither, or shirg.Lavida"
        )
    marks = frozenset() if tokenizer is None else question_end_ids(tokenizer)
    setattr(model, _SETTINGS, _Settings(gate, budget, tokenizer, marks, relevance_sign, relevance_floor))
    for name, function in _WRAPPERS.items():
        if hasattr(type(model), name):  # bound, so that copy.deepcopy binds it to the copy
            setattr(model, name, MethodType(function, model))
    return model


def disable_shirg(model: nn.Module) -> nn.Module:
    """Give the model its own image path back; returns the model. Nothing happens to one that SHIRG is not in.

    Raises:
        UserError: if the model stands around another one, as `enable_shirg` does.
    """
    _refuse_shell(model)
    for name in (*_WRAPPERS, _SETTINGS):
        model.__dict__.pop(name, None)
    return model


def pixels_for_shirg(images: Sequence[Image.Image], resolution: int = 672, fit: str = "stretch") -> Tensor:
    """Normalised pixels [B, 3, resolution, resolution] of PIL images, each made a square.

    Float32 on the CPU; the wrapped model moves them to its own device and precision.

    Args:
        fit: "stretch" as LaViDa's base view is, or "pad" with grey to keep the shape.

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
    _refuse_shell(model)
    for name in ("encode_images", "prepare_inputs_labels_for_multimodal", "get_model"):
        if not callable(getattr(type(model), name, None)):
            raise UserError(f"model: {type(model).__name__} has no {name}(); a LLaVA-style model is needed")
    inner = model.get_model()
    for name in ("get_vision_tower", "mm_projector"):
        if getattr(inner, name, None) is None:
            raise UserError(f"model: {type(inner).__name__} has no {name}; a LLaVA-style model is needed")
    _siglip(inner.get_vision_tower())


def _refuse_shell(model: nn.Module) -> None:
    """A module that passes calls on to one inside has its methods by name, but replacing them there reaches nobody."""
    shells = {
        "get_base_model()": hasattr(type(model), "get_base_model"),  # peft
        "_orig_mod": "_orig_mod" in dict(model.named_children()),  # torch.compile
    }
    for inside, found in shells.items():
        if found:
            raise UserError(
                f"model: a {type(model).__name__} passes calls on to the model inside; give model.{inside} instead"
            )


def _siglip(tower: nn.Module) -> Official:
    """The transformer inside the tower: what has `embeddings` and `encoder`, however deep the code base wraps it."""
    for module in tower.modules():
        if isinstance(getattr(module, "embeddings", None), nn.Module) and hasattr(module, "encoder"):
            return module
    raise UserError(
        f"model: its vision tower {type(tower).__name__} holds no loaded SigLIP (no embeddings and encoder)"
    )


# ------------------------------------------------------------------ what stands for the model's own methods


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


def _encode_images(self: Official, images: Tensor) -> Tensor:
    """Stands in for `encode_images`: [B, 3, H, W] or [B, V, 3, H, W] -> [B, budget + 1, hidden]."""
    return torch.stack([_embed(self, page, None) for page in _pages(images)])


def _keep_as_it_is(self: Official, image_feature: Tensor, *args: object, **kwargs: object) -> Tensor:
    """Stands in for `get_2dPool`, for code that calls it behind `encode_images`."""
    return image_feature


_WRAPPERS: dict[str, Callable[..., Any]] = {
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


def _questions(model: Official, input_ids: Tensor, attention_mask: Tensor | None, count: int) -> list[Tensor | None]:
    """What is asked about each of `count` images, consumed in order; a row without a placeholder consumes one too
    (LaViDa llava_arch.py:484-492)."""
    settings: _Settings = getattr(model, _SETTINGS)
    if settings.tokenizer is None:
        return [None] * count
    asked: list[Tensor | None] = []
    for index, row in enumerate(input_ids):
        ids = row if attention_mask is None else row[attention_mask[index].bool()]
        places = int((ids == IMAGE_TOKEN_INDEX).sum())
        question = content_words(question_part(ids, IMAGE_TOKEN_INDEX, settings.marks), settings.tokenizer)
        asked += [question] * places or [None]
    return (asked + [None] * count)[:count]


def _embed(model: Official, views: Tensor, question: Tensor | None) -> Tensor:
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
            words, ids = model.get_input_embeddings(), question.to(tokens.device)
            sure = calibrated_relevance(
                projector, tokens, words, ids, settings.relevance_sign, settings.relevance_floor
            )
            relevance = None if sure is None else sure[None]
    kept = settings.gate(
        tokens[None], budget=settings.budget, grid=(len(views), *grid), pixels=pixels[None], relevance=relevance
    )
    return projector(kept.tokens[0])


def _tokens(siglip: Official, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Raw tokens [V, N, D] of the last encoder layer and their grid."""
    side = math.isqrt(len(siglip.embeddings.position_embedding.weight))
    patch = siglip.embeddings.patch_embedding.kernel_size[0]
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
    return siglip.encoder(inputs_embeds=embed_patches(siglip.embeddings, images))[0], (rows, cols)
