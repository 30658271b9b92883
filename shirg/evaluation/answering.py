"""Asking the model about one page through many variants, with the tower run once per view of the page."""

from __future__ import annotations

import copy
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

if TYPE_CHECKING:
    from PIL import Image

Item = TypeVar("Item")
Read = tuple[str, int]
"""A text, and the number of visual tokens that it was read from."""
Models = Mapping[str | None, Lavida]
"""The model with each adapter on, by the adapter's name, and without one, by None; see `models_of`."""


@dataclass(frozen=True)
class Decoding:
    """How answers are generated; the same for every variant."""

    max_new_tokens: int
    block_length: int
    step_ratio: float
    batch_size: int = 1
    """Questions of one page that are denoised together."""


@dataclass
class Page:
    """The features of each view of one page, made when first asked for.

    Attributes:
        model: any of the models that the page is shown to; they share the tower.
        variants: all that the page will be shown through. If the selector of one of them needs the tower's attention,
            the tower's pass keeps what that is computed from.
    """

    model: Lavida
    image: Image.Image
    variants: Sequence[Variant] = ()
    _features: dict[str, VisionFeatures] = field(default_factory=dict)

    def features(self, variant: Variant) -> VisionFeatures:
        """The tower's tokens of the variant's views; all selectors that choose from the large view share theirs."""
        if variant.views not in self._features:
            sharing = [one for one in (variant, *self.variants) if one.views == variant.views]
            neediest = max(sharing, key=lambda one: len(one.needs))
            settings = neediest.settings(self.model.vision)
            self._features[variant.views] = self.model.image_features(self.image, variant.vision_path, settings)
        return self._features[variant.views]

    @torch.no_grad()
    def answers(
        self, model: Lavida, variant: Variant, prompts: Iterable[str], decoding: Decoding
    ) -> Iterator[Read | ItemError]:
        """The answer to each prompt, or the error if it cannot be asked about this page.

        The page's embeddings are made once where they do not depend on the question. The prefix is encoded for every
        question: page and question attend to each other in it, so that no two questions share its keys and values.
        `decoding.batch_size` questions are then denoised together, which on a CPU halves the time of the steps.

        Args:
            model: with the variant's adapter on, see `models_of`.
        """
        for some in batched(prompts, decoding.batch_size):
            ids = [model.prompt_ids(prompt) for prompt in some]
            found = self._spliced(model, variant, ids, decoding.max_new_tokens)
            asked = [one for one in found if not isinstance(one, ItemError)]
            read, embeds = [pair[0] for pair in asked], [pair[1] for pair in asked]
            texts = iter(generated_texts(model, read, embeds, decoding) if asked else ())
            for one in found:
                yield one if isinstance(one, ItemError) else (next(texts), one[1].shape[0])

    def _spliced(
        self, model: Lavida, variant: Variant, prompts: Sequence[Tensor], max_new_tokens: int
    ) -> list[tuple[Tensor, Tensor] | ItemError]:
        """Each prompt [L] with the page's embeddings [n, hidden], one tensor for all where they do not depend on the
        question; or why it cannot be asked."""
        features, alone = self.features(variant), None
        found: list[tuple[Tensor, Tensor] | ItemError] = []
        for ids in prompts:
            try:
                if variant.uses_question and model.vision.relevance != "none":
                    embeds = image_embeds(model, features, variant, model.question_ids(ids))
                else:
                    embeds = alone = image_embeds(model, features, variant) if alone is None else alone
                model.check_length(len(ids) - 1 + len(embeds), max_new_tokens)
                found.append((ids, embeds))
            except ItemError as error:
                found.append(error)
        return found


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last may be shorter. (`itertools.batched` comes with Python 3.12.)"""
    rest = iter(items)
    while some := list(itertools.islice(rest, size)):
        yield some


def image_embeds(
    model: Lavida, features: VisionFeatures, variant: Variant, question_ids: Tensor | None = None
) -> Tensor:
    """The page's embeddings in the prompt, [n, hidden]; `model` with the variant's adapter on, see `models_of`."""
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
        step_ratio=decoding.step_ratio,
        on_step=on_step,
    )


def models_of(model: Lavida, adapters: Mapping[str, str | Path] | None = None) -> Models:
    """`model` without an adapter and with each, all sharing one tower and one language model.

    Args:
        model: the adapter that it has, if any, is called "adapter".
        adapters: name -> folder of further ones.

    Raises:
        UserError: if an adapter cannot be loaded, or selects tokens by other settings than the model.
    """
    plain = _twin(model)
    if has_adapter(plain):
        plain.unload_adapter()
        plain.vision = model.vision  # which the adapter may have brought
    found = {None: plain} | ({ADAPTER: model} if has_adapter(model) else {})
    for name, folder in (adapters or {}).items():
        found[name] = _twin(plain)
        found[name].load_adapter(folder)
        for setting in found[name].vision.differing(model.vision):
            trained, own = (getattr(one.vision, setting) for one in (found[name], model))
            raise UserError(
                f"adapters: {name} was trained with {setting} {trained}, this run has {own}; give the model that setting, or "
                "evaluate the adapter in a run of its own"
            )
    return found


def _twin(model: Lavida) -> Lavida:
    """The same modules but for a projector of its own."""
    twin = copy.copy(model)
    twin._modules = model._modules.copy()
    twin.mm_projector = copy.deepcopy(model.mm_projector).eval()
    return twin
