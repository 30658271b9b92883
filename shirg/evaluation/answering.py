"""Asking the model about one page in many ways, with the tower run once per view of the page."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from shirg.errors import ItemError
from shirg.evaluation.variants import Variant
from shirg.lavida import Lavida, VisionFeatures
from shirg.lavida.diffusion.generation import OnStep

if TYPE_CHECKING:
    from PIL import Image

Item = TypeVar("Item")
Answer = tuple[str, int]
"""A text, and the number of visual tokens that it was read from."""


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
    """One page before the model: the features of each view, made when first asked for.

    Attributes:
        variants: all that the page will be shown through. If one of them has a rule that looks at the tower's attention,
            the tower's pass keeps what that is computed from.
    """

    model: Lavida
    image: Image.Image
    variants: Sequence[Variant] = ()
    _features: dict[str, VisionFeatures] = field(default_factory=dict)

    def features(self, variant: Variant) -> VisionFeatures:
        """The tower's tokens of the variant's views; all rules that choose from the large view share theirs."""
        if variant.views not in self._features:
            sharing = [one for one in (variant, *self.variants) if one.views == variant.views]
            neediest = max(sharing, key=lambda one: len(one.needs))
            settings = neediest.settings(self.model.vision)
            self._features[variant.views] = self.model.image_features(self.image, variant.vision_path, settings)
        return self._features[variant.views]

    @torch.no_grad()
    def answers(self, variant: Variant, prompts: Iterable[str], decoding: Decoding) -> Iterator[Answer | ItemError]:
        """The answer to each prompt, or why it cannot be asked of this page.

        What stands for the page is made once where the question has no part in it. The prefix is encoded for every question:
        page and question see each other in it, so that no two questions share its keys and values. `decoding.batch_size`
        questions are then denoised together, which on a CPU halves the time of the steps.

        The adapter must be on or off as the variant says as long as answers are drawn (`adapter_switched`).
        """
        for some in batched(prompts, decoding.batch_size):
            found = self._spliced(variant, [self.model.prompt_ids(prompt) for prompt in some], decoding.max_new_tokens)
            asked = [one for one in found if not isinstance(one, ItemError)]
            ids, embeds = [ids for ids, _ in asked], [embeds for _, embeds in asked]
            texts = iter(generated_texts(self.model, ids, embeds, decoding) if asked else ())
            for one in found:
                yield one if isinstance(one, ItemError) else (next(texts), one[1].shape[0])

    def _spliced(
        self, variant: Variant, prompts: Sequence[Tensor], max_new_tokens: int
    ) -> list[tuple[Tensor, Tensor] | ItemError]:
        """Each prompt [L] with what stands for the page in it [n, hidden], one tensor for all where the question has no part
        in it; or why it cannot be asked."""
        features, alone = self.features(variant), None
        found: list[tuple[Tensor, Tensor] | ItemError] = []
        for ids in prompts:
            try:
                if variant.asks_the_question and self.model.vision.relevance != "none":
                    embeds = image_embeds(self.model, features, variant, self.model.question_ids(ids))
                else:
                    embeds = alone = image_embeds(self.model, features, variant) if alone is None else alone
                self.model.check_length(len(ids) - 1 + len(embeds), max_new_tokens)
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
    """The page's embeddings in the prompt, [n, hidden]; the adapter must be on or off as the variant says."""
    settings = variant.settings(model.vision)
    return model.image_embeds(features, variant.vision_path, variant.budget, question_ids, settings)


def generated_texts(
    model: Lavida,
    prompts: Sequence[Tensor],
    embeds: Sequence[Tensor],
    decoding: Decoding,
    on_step: OnStep | None = None,
) -> list[str]:
    """The answers to prompts [L_i] about pages that are already embedded [n_i, hidden], each up to the end of its turn."""
    tokens = model.generate(
        prompts,
        image_embeds=embeds,
        max_new_tokens=decoding.max_new_tokens,
        block_length=decoding.block_length,
        step_ratio=decoding.step_ratio,
        on_step=on_step,
    )
    return [model.answer_text(row) for row in tokens]


@contextlib.contextmanager
def adapter_switched(model: Lavida, on: bool) -> Iterator[None]:
    """The model with its adapter on or off, weights untouched; afterwards it is on, as it was found."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    trainable = {parameter: parameter.requires_grad for layer in layers for parameter in layer.parameters()}
    try:
        for layer in layers:
            layer.enable_adapters(on)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, flag in trainable.items():  # peft's switch also decides what is trained
            parameter.requires_grad_(flag)
