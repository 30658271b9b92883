"""From prepared records to per-target losses: the one module that accelerate wraps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shirg.errors import UserError
from shirg.lavida.adapter import lora_parameters
from shirg.lavida.diffusion.noise import draw_noise
from shirg.training.budgets import POOLED, Ratio
from shirg.training.features import path_of
from shirg.training.objective import answer_losses
from shirg.training.seeds import generator


@dataclass
class Example:
    """One record as the loss needs it.

    Attributes:
        record_id: for messages.
        features: `VisionFeatures` of its image, on the path of the step's ratio.
        prompt: [L] Long, prompt ids with one image placeholder.
        question: [Q] Long, the part of the prompt that asks, for the gate's relevance term.
        target: [N] Long, answer ids with end-of-text padding.
        masked: [N] Boolean, what the first noisy copy hides.
    """

    record_id: str
    features: object
    prompt: Tensor
    question: Tensor
    target: Tensor
    masked: Tensor


def draw_mask(length: int, *parts: int | str) -> Tensor:
    """Which of `length` targets the first copy hides, [length] Boolean; uniform diffusion time, seeded by `parts`.

    Drawn on the CPU and record by record, so devices, batch sizes and process counts agree.
    """
    return draw_noise(1, length, generator=generator(*parts))[0][0]


class LossModel(nn.Module):
    """A `Lavida` as a function from examples to losses.

    A module of its own because gradients are synchronised across processes only by the forward pass that the wrapper
    sees.
    """

    def __init__(self, model, objective: str):
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, examples: Sequence[Example], ratio: Ratio) -> tuple[Tensor, int]:
        """Cross-entropy [B, N] float32 of every target, and the number of tokens that the language model processed.

        Without examples an empty [0, 1] comes back, still tied to the adapter, so that a process with no data can take
        part in the backward pass of the others.
        """
        if not examples:
            return torch.stack([parameter.sum() for parameter in lora_parameters(self.model).values()])[:0, None], 0
        prefixes = [self._prefix(example, ratio) for example in examples]
        targets = torch.stack([example.target for example in examples]).to(prefixes[0].device)
        masked = torch.stack([example.masked for example in examples]).to(prefixes[0].device)
        losses = answer_losses(
            self.model.language,
            prefixes,
            targets,
            masked,
            mask_token_id=self.model.config.mask_token_id,
            objective=self.objective,
            shift=self.model.config.family == "dream",
        )
        length = 2 * targets.numel()
        copies = 1 if self.objective == "packed" else 2
        return losses, length + copies * sum(prefix.shape[0] for prefix in prefixes)

    def _prefix(self, example: Example, ratio: Ratio) -> Tensor:
        """Image and prompt embeddings [P, H]."""
        budget = None if ratio == POOLED else ratio
        try:
            image = self.model.image_embeds(example.features, path_of(ratio), budget, example.question)
        except ValueError as error:
            raise UserError(f"record {example.record_id}: its image's tokens cannot be ranked ({error})") from error
        return self.model.splice(example.prompt, [image])
