"""From prepared records to per-target losses: the one module that accelerate wraps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from shirg.errors import UserError
from shirg.lavida.adapter import lora_parameters
from shirg.lavida.diffusion.noise import draw_noise
from shirg.seeds import generator
from shirg.training.budgets import Component
from shirg.training.objective import answer_losses

if TYPE_CHECKING:
    from shirg.lavida import Lavida
    from shirg.lavida.vision import VisionFeatures


@dataclass
class Example:
    """One record as the loss needs it.

    Attributes:
        record_id: for messages.
        image_id: name of the image; examples about one image share it.
        features: the tower's features of its image, on the path of the step's component.
        prompt: [L] Long, prompt ids with one image placeholder.
        question: [Q] Long, the part of the prompt that asks, for the gate's relevance term.
        target: [N] Long, answer ids with end-of-text padding.
        answer: number of ids before the padding.
        masked: [N] Boolean, what the first noisy copy hides.
    """

    record_id: str
    image_id: str
    features: VisionFeatures
    prompt: Tensor
    question: Tensor
    target: Tensor
    answer: int
    masked: Tensor


def draw_mask(length: int, *parts: int | str, times: str = "uniform") -> Tensor:
    """Which of `length` targets the first copy hides, [length] Boolean, seeded by `parts`.

    Drawn on the CPU and record by record, so devices, batch sizes and process counts agree.

    Args:
        times: distribution of the diffusion time, of `shirg.lavida.diffusion.noise.POLICIES`.
    """
    return draw_noise(1, length, times, generator=generator(*parts))[0][0]


def target_weights(examples: Sequence[Example], padding_weight: float, like: Tensor) -> Tensor:
    """Weight of every target in the loss: 1 for the answer's, `padding_weight` for the padding; of shape and type of `like`,
    the losses [B, N] of these examples."""
    answers = torch.tensor([example.answer for example in examples], dtype=torch.long)
    is_answer = torch.arange(like.shape[1]) < answers[:, None]
    return torch.where(is_answer, 1.0, padding_weight).to(like)


class LossModel(nn.Module):
    """A `Lavida` as a function from examples to losses.

    A module of its own because gradients are synchronised across processes only by the forward pass that the wrapper
    sees.
    """

    def __init__(self, model: Lavida, objective: str, share_prefix: bool = False):
        """
        Args:
            model: a `Lavida` with its adapter.
            objective: "packed", "prefix" or "bidirectional".
            share_prefix: examples about one image share its tokens, which the gate then chooses by the image alone.
        """
        super().__init__()
        self.model = model
        self.objective = objective
        self.share_prefix = share_prefix
        self.sharded = False
        """Whether the body is sharded (`shirg.training.body`)."""

    def forward(self, examples: Sequence[Example], component: Component) -> tuple[Tensor, int]:
        """Cross-entropy [B, N], float32 or better, of every target, and the number of tokens that the language model
        processed.

        Without examples the result is an empty [0, 1] that depends on the adapter, so that a process without data takes part in
        the backward pass of the others.
        """
        if not examples:
            return self._nothing(), 0
        groups = self._groups(examples)
        order = [number for group in groups for number in group]
        prefixes, questions = self._embedded([[examples[number] for number in group] for group in groups], component)
        targets = torch.stack([examples[number].target for number in order]).to(prefixes[0].device)
        masked = torch.stack([examples[number].masked for number in order]).to(prefixes[0].device)
        losses = answer_losses(
            self.model.language,
            prefixes,
            targets,
            masked,
            mask_token_id=self.model.config.mask_token_id,
            objective=self.objective,
            shift=self.model.config.family == "dream",
            questions=questions,
        )
        return losses[torch.tensor(order).argsort()], self._row_tokens(prefixes, questions, targets)

    def set_training(self, training: bool, *, checkpointing: bool = False) -> None:
        """Dropout of the adapter on or off; the frozen rest stays in evaluation mode.

        Args:
            checkpointing: recompute blocks. transformers does so in train mode only; these blocks have no dropout, so nothing
                else changes.
        """
        self.model.eval()
        self.model.mm_projector.train(training)
        self.model.language.train(training and checkpointing)

    def _nothing(self) -> Tensor:
        """An empty [0, 1] that depends on every LoRA tensor, and on a sharded body, which all processes gather."""
        sums = torch.stack([parameter.sum() for parameter in lora_parameters(self.model).values()])
        if self.sharded:
            row = self.model.language.embed_tokens.weight[:1, None]
            sums = sums + self.model.language(row + 0 * sums.sum().to(row.dtype)).sum()
        return sums[:0, None]

    def _groups(self, examples: Sequence[Example]) -> list[list[int]]:
        """Numbers of the examples that share a prefix: those of one image, or each alone."""
        groups: dict[object, list[int]] = {}
        for number, example in enumerate(examples):
            groups.setdefault(example.image_id if self.share_prefix else number, []).append(number)
        return list(groups.values())

    def _embedded(self, groups: list[list[Example]], component: Component) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Per group the shared prefix [P, H], up to the image's last token, and the questions [Q, H] after it. An example
        that shares nothing has all of its prompt in the prefix. P differs between images, as their tokens may."""
        prefixes, questions = [], []
        for group in groups:
            prompts = [example.prompt for example in group]
            ends = [len(prompts[0])]
            if self.share_prefix:
                ends = [int((ids == self.model.config.image_token_index).nonzero().max()) + 1 for ids in prompts]
            image = self._image(group[0], component)
            prefixes.append(self.model.splice(prompts[0][: ends[0]], [image]))
            tails = [ids[end:].to(image.device) for ids, end in zip(prompts, ends, strict=True)]
            questions.append([self.model.language.embed_tokens(tail).to(image.dtype) for tail in tails])
        return prefixes, questions

    def _row_tokens(self, prefixes: list[Tensor], questions: list[list[Tensor]], targets: Tensor) -> int:
        """Positions given to the language model, without padding."""
        own = 2 * targets.numel()
        copies = 1 if self.objective == "packed" else 2
        for prefix, asked in zip(prefixes, questions, strict=True):
            times = 1 if self.objective == "packed" else 2 * len(asked)
            own += times * len(prefix) + copies * sum(map(len, asked))
        return own

    def _image(self, example: Example, component: Component) -> Tensor:
        """The image's embeddings in the prompt, [n, H]."""
        question = None if self.share_prefix else example.question
        try:
            return self.model.image_embeds(example.features, component.path, component.budget, question)
        except ValueError as error:
            raise UserError(f"record {example.record_id}: its image's tokens cannot be ranked ({error})") from error
