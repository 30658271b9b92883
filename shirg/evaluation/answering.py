"""Answers about pages in many variants; the tower runs once per view of a page."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from shirg.errors import ItemError, UserError
from shirg.evaluation.variants import ADAPTER, Variant
from shirg.lavida import Lavida, VisionFeatures
from shirg.lavida.adapter import has_adapter
from shirg.lavida.diffusion.generation import OnStep
from shirg.lavida.loading import with_own_projector
from shirg.lavida.views import Views

if TYPE_CHECKING:
    from PIL import Image

Item = TypeVar("Item")
Generated = tuple[str, int]
"""An answer's text and the number of visual tokens in its prompt."""
Models = Mapping[str | None, Lavida]
"""Name of an adapter -> the model with it; None -> without one."""


@dataclass(frozen=True)
class Decoding:
    """How answers are generated; the same for every variant."""

    max_new_tokens: int
    block_length: int
    step_ratio: float
    threshold: float | None = None
    """Commit confident predictions instead of a number of steps; see `GenerationSettings`."""
    batch_size: int = 1
    """Questions that are denoised together."""


@dataclass
class Page:
    """The tower's features of one page, computed when first needed.

    Attributes:
        model: any of `Models`; they share the tower.
        variants: all variants of the page, so that one pass of the tower keeps what the selectors of all of them need.
    """

    model: Lavida
    image: Image.Image
    variants: Sequence[Variant] = ()
    _features: dict[tuple[Views, bool], VisionFeatures] = field(default_factory=dict)
    _shared: tuple[Variant, Tensor] | None = None
    """The latest variant whose embeddings do not depend on the question, with these."""

    def features(self, variant: Variant) -> VisionFeatures:
        """The tower's features of the variant's views, shared by all variants of the same encoding."""
        if variant.encoding not in self._features:
            sharing = [one for one in (variant, *self.variants) if one.encoding == variant.encoding]
            neediest = max(sharing, key=lambda one: len(one.needs))
            settings = neediest.settings(self.model.vision)
            self._features[variant.encoding] = self.model.image_features(self.image, variant.vision_path, settings)
        return self._features[variant.encoding]

    def embeds(self, model: Lavida, variant: Variant, prompt_ids: Tensor) -> Tensor:
        """The page's embeddings [n, hidden] for a prompt [L]; computed once if they do not depend on the question.

        Args:
            model: with the variant's adapter.

        Raises:
            ItemError: if the variant cannot show this page.
        """
        features = self.features(variant)
        if variant.uses_question and model.vision.relevance != "none":
            return image_embeds(model, features, variant, model.question_ids(prompt_ids))
        if self._shared is None or self._shared[0] != variant:
            self._shared = variant, image_embeds(model, features, variant)
        return self._shared[1]


@torch.no_grad()
def answers(
    model: Lavida, variant: Variant, questions: Iterable[tuple[Page, str]], decoding: Decoding
) -> Iterator[Generated | ItemError]:
    """The answer to each prompt about its page, or the error if it cannot be asked about that page.

    `decoding.batch_size` questions are denoised together, of one page or of several. The prefix is encoded for every question,
    since page and question attend to each other in it.

    Args:
        model: with the variant's adapter.
    """
    for some in batched(questions, decoding.batch_size):
        found = [_asked(model, variant, page, prompt, decoding.max_new_tokens) for page, prompt in some]
        asked = [one for one in found if not isinstance(one, ItemError)]
        prompts, embeds = [ids for ids, _ in asked], [shown for _, shown in asked]
        texts = iter(generated_texts(model, prompts, embeds, decoding) if asked else ())
        for one in found:
            yield one if isinstance(one, ItemError) else (next(texts), len(one[1]))


def _asked(
    model: Lavida, variant: Variant, page: Page, prompt: str, max_new_tokens: int
) -> tuple[Tensor, Tensor] | ItemError:
    """The prompt [L] and the page's embeddings [n, hidden], or the error if it cannot be asked."""
    try:
        ids = model.prompt_ids(prompt)
        embeds = page.embeds(model, variant, ids)
        model.config.check_length(len(ids) - 1 + len(embeds), max_new_tokens)
    except ItemError as error:
        return error
    return ids, embeds


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last may be shorter. (`itertools.batched` comes with Python 3.12.)"""
    rest = iter(items)
    while some := list(itertools.islice(rest, size)):
        yield some


def image_embeds(
    model: Lavida, features: VisionFeatures, variant: Variant, question_ids: Tensor | None = None
) -> Tensor:
    """The page's embeddings in the prompt, [n, hidden], by a model with the variant's adapter."""
    settings = variant.settings(model.vision)
    return model.image_embeds(features, variant.vision_path, variant.budget, question_ids, settings)


def generated_texts(
    model: Lavida, prompts: Sequence[Tensor], embeds: Sequence[Tensor], decoding: Decoding
) -> list[str]:
    """The texts of `generated_ids`, each up to the end of its turn."""
    return [model.answer_text(row) for row in generated_ids(model, prompts, embeds, decoding)]


def generated_ids(
    model: Lavida,
    prompts: Sequence[Tensor],
    embeds: Sequence[Tensor],
    decoding: Decoding,
    on_step: OnStep | None = None,
) -> Tensor:
    """The answers [B, max_new_tokens] to prompts [L_i] about images that are already embedded [n_i, hidden]."""
    return model.generate(
        prompts,
        image_embeds=embeds,
        max_new_tokens=decoding.max_new_tokens,
        block_length=decoding.block_length,
        step_ratio=None if decoding.threshold is not None else decoding.step_ratio,
        threshold=decoding.threshold,
        on_step=on_step,
    )


def models_by_adapter(model: Lavida, adapters: Mapping[str, str | Path] | None = None) -> Models:
    """`model` without an adapter and with each one; all share tower and language model.

    Args:
        model: its own adapter, if it has one, is called "adapter".
        adapters: name -> folder of other ones.

    Raises:
        UserError: if an adapter cannot be loaded, or selects tokens by other settings than the model.
    """
    plain = with_own_projector(model)
    if has_adapter(plain):
        plain.unload_adapter()
        plain.vision = model.vision  # which the adapter may have brought
    found = {None: plain} | ({ADAPTER: model} if has_adapter(model) else {})
    for name, folder in (adapters or {}).items():
        found[name] = with_own_projector(plain)
        found[name].load_adapter(folder)
        for setting in found[name].vision.differing(model.vision):
            trained, own = (getattr(one.vision, setting) for one in (found[name], model))
            raise UserError(
                f"adapters: {name} was trained with {setting} {trained}, this run has {own}; give the model that setting, or "
                "evaluate the adapter in a run of its own"
            )
    return found
