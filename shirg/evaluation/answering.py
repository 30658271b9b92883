"""Asking the model about one page in many ways, with the tower run once per view of the page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from shirg.evaluation.variants import Variant
from shirg.lavida import Lavida, VisionFeatures
from shirg.lavida.diffusion.generation import OnStep


@dataclass(frozen=True)
class Decoding:
    """How answers are generated; the same for every variant."""

    max_new_tokens: int
    block_length: int
    step_ratio: float


@dataclass
class Page:
    """One page before the model: the features of each vision path, made when first asked for."""

    model: Lavida
    image: Image.Image
    _features: dict[str, VisionFeatures] = field(default_factory=dict)

    def features(self, variant: Variant) -> VisionFeatures:
        """The tower's tokens for the variant's path; `shirg` and `highres` share theirs."""
        if variant.features not in self._features:
            self._features[variant.features] = self.model.image_features(self.image, variant.features)
        return self._features[variant.features]

    @torch.no_grad()
    def answers(self, variant: Variant, prompts: Sequence[str], decoding: Decoding) -> Iterator[tuple[str, int]]:
        """The answer to each prompt and the number of visual tokens that it was read from."""
        by_question = variant.budget is not None and self.model.config.relevance != "none"
        embeds = None
        for prompt in prompts:
            ids = self.model.prompt_ids(prompt)
            if embeds is None or by_question:
                question_ids = self.model.question_ids(ids) if by_question else None
                embeds = self.model.image_embeds(self.features(variant), variant.mode, variant.budget, question_ids)
            yield generated_text(self.model, ids, embeds, decoding), embeds.shape[0]


def generated_text(
    model: Lavida, prompt_ids: Tensor, image_embeds: Tensor, decoding: Decoding, on_step: OnStep | None = None
) -> str:
    """The answer to a prompt [L] about a page that is already embedded [n, hidden], up to the end of its turn."""
    tokens = model.generate(
        prompt_ids[None],
        image_embeds=[image_embeds],
        max_new_tokens=decoding.max_new_tokens,
        block_length=decoding.block_length,
        step_ratio=decoding.step_ratio,
        on_step=on_step,
    )
    return model.answer_text(tokens[0])


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
