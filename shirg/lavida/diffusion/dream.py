"""Denoising with Dream: without blocks; the logits at a position are those of the next token.

GD is LaViDa's llava/model/language_model/dream/generation_utils.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from shirg import ranges
from shirg.errors import UserError
from shirg.lavida.diffusion.generation import (
    AnswerModel,
    EarlyStop,
    OnStep,
    check_parallel,
    confident,
    run_denoising,
)
from shirg.lavida.diffusion.schedule import transfer_counts

ALGORITHMS = {"low_confidence": "maskgit_plus", "entropy": "entropy", "margin": "topk_margin", "random": "origin"}
"""LLaDA's name of a remasking -> Dream's."""
END_TIME = 1e-3  # of the diffusion, GD:400


@dataclass(frozen=True)
class DreamSettings:
    """Settings of denoising with Dream.

    Raises:
        UserError: for a value outside its range, with the name of the setting.
    """

    mask_token_id: int
    max_new_tokens: int = 32
    steps: int | None = None
    """Denoising steps; one per token is the default and the maximum."""
    step_ratio: float | None = None
    """Steps per token, at most 1, instead of `steps`. Without a schedule the times are still those of one step per token, and
    the last step commits all remaining tokens (GD:448-453)."""
    schedule: str | None = None
    schedule_kwargs: dict[str, float] | None = None
    threshold: float | None = None
    factor: float | None = None
    """As in `GenerationSettings`; for algorithms whose confidence is a probability."""
    alg: str = "maskgit_plus"
    """Confidence of predictions: "maskgit_plus" (probability), "topk_margin", "entropy", or "origin", which draws positions."""
    alg_temp: float = 0.0
    """Above 0, positions are drawn by the softmax of their confidence over this temperature."""
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int = 50
    """Number of best entries among which probabilities are computed, also in greedy decoding. The official code inherits 50
    from transformers' GenerationConfig."""
    prefix_lm: bool = True
    early_stop: EarlyStop | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.step_ratio is not None:
            raise UserError(
                f"steps={self.steps} and step_ratio={self.step_ratio} each decide the number of steps: give one of them"
            )
        ranges.TOKENS.check("max_new_tokens", self.max_new_tokens)
        if self.steps is not None:
            ranges.TOKENS.check("steps", self.steps)
        if self.step_ratio is not None:
            ranges.STEP_RATIO.check("step_ratio", self.step_ratio)
        if not 1 <= self.num_steps <= self.max_new_tokens:
            raise UserError(
                f"max_new_tokens={self.max_new_tokens}, steps={self.steps}, step_ratio={self.step_ratio}: "
                "at least one token and one step are needed, and at most one step per token"
            )
        if self.alg not in ALGORITHMS.values():
            raise UserError(f"alg={self.alg!r} is unknown; expected {', '.join(map(repr, ALGORITHMS.values()))}")
        ranges.TEMPERATURE.check("temperature", self.temperature)
        ranges.TEMPERATURE.check("alg_temp", self.alg_temp)
        check_parallel(
            *(self.threshold, self.factor, self.alg in ("maskgit_plus", "topk_margin")),
            steps=self.steps,
            step_ratio=self.step_ratio,
            schedule=self.schedule,
        )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1")
        if self.top_k < 1:
            raise UserError(f"top_k={self.top_k} must be at least 1")
        transfer_counts([self.max_new_tokens], self.num_steps, self.schedule, self.schedule_kwargs)

    @property
    def grid_steps(self) -> int:
        """Intervals of the diffusion time."""
        return self.max_new_tokens if self.steps is None else min(self.steps, self.max_new_tokens)

    @property
    def num_steps(self) -> int:
        """Forward passes."""
        return self.grid_steps if self.step_ratio is None else int(self.max_new_tokens * self.step_ratio)


class ShiftedAnswerModel(AnswerModel):
    """Logits of each answer token, from the position before it (GD:470-473)."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits [B, N, V] of the answer's tokens [B, N]."""
        before, hidden = self.hidden(tokens)
        return self.logits(torch.cat([before, hidden[:, :-1]], dim=1))

    def with_first_token(self, tokens: Tensor, mask_token_id: int) -> Tensor:
        """`tokens` [B, N] with the most likely first token, unless a draft has one: the cached prefix alone decides it
        (LaViDa dream/generation_utils.py:421-428)."""
        predicted, given = self.logits(self.last_of_prefix).argmax(dim=-1), tokens[:, :1]
        return torch.cat([torch.where(given == mask_token_id, predicted, given), tokens[:, 1:]], dim=1)


@torch.no_grad()
def denoise_dream(
    answer_model: Callable[[Tensor], Tensor],
    tokens: Tensor,
    settings: DreamSettings,
    *,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Fill the masks of `tokens` [B, N] in at most `settings.num_steps` steps; returns a new tensor of the same shape.

    Unmasked tokens, such as those of a draft, are kept; LaViDa's Dream takes no drafts. Denoising ends when no mask is left.
    A schedule has at most as many steps as there are masks, one fewer than tokens if the first token is known already (the
    official code raises an IndexError there, GD:499).
    """
    return run_denoising(_steps(answer_model, tokens, settings, generator), tokens, settings.early_stop, on_step)


def _steps(
    answer_model: Callable[[Tensor], Tensor],
    tokens: Tensor,
    settings: DreamSettings,
    generator: torch.Generator | None,
) -> Iterator[Tensor]:
    times = torch.linspace(1, END_TIME, settings.grid_steps + 1)
    shares = 1 - times[1:] / times[:-1]  # share of the remaining masks that each step commits
    table = None
    if (
        settings.schedule is not None and settings.alg != "origin"
    ):  # "origin" commits every mask with probability `share`
        left = (tokens == settings.mask_token_id).sum(dim=1).tolist()
        table = transfer_counts(left, settings.num_steps, settings.schedule, settings.schedule_kwargs)
    for step in range(settings.num_steps if table is None else len(table[0])):
        masked = tokens == settings.mask_token_id
        if not masked.any():
            break
        logits = answer_model(tokens)[masked].float()  # [M, V], the masked positions of all rows
        share = 1.0 if step == settings.num_steps - 1 else shares[step]
        if settings.alg == "origin":
            drawn = torch.rand(len(logits), device=logits.device, generator=generator) < share
            chosen = torch.zeros_like(masked).masked_scatter(masked, drawn)
            tokens = tokens.masked_scatter(chosen, _sample(logits[drawn], settings, generator)[0])
        else:
            guesses, confidence = _sample(logits, settings, generator)
            score = torch.full(tokens.shape, -torch.inf, device=tokens.device).masked_scatter(masked, confidence)
            counts = [row[step] for row in table] if table else None
            if settings.threshold is not None or settings.factor is not None:
                chosen = confident(score, settings.threshold, settings.factor)
            else:
                quota = (
                    _quota(masked.sum(dim=1), share) if counts is None else torch.tensor(counts, device=tokens.device)
                )
                chosen = _best(score, quota, settings.alg_temp, generator)
            tokens = torch.where(chosen, tokens.masked_scatter(masked, guesses), tokens)
        yield tokens


def _quota(num_masked: Tensor, share: float | Tensor) -> Tensor:
    return (num_masked.float().cpu() * share).long().to(num_masked.device)  # float32 on the CPU, as the official code


def _best(score: Tensor, quota: Tensor, alg_temp: float, generator: torch.Generator | None) -> Tensor:
    """The `quota` [B] best positions of each row of `score` [B, N], or a draw without replacement (Gumbel top-k)."""
    order = score
    if alg_temp > 0:
        uniform = torch.rand(score.shape, device=score.device, generator=generator)
        order = score / alg_temp - (-uniform.log()).log()
    rank = order.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < quota[:, None]) & (score > -torch.inf)


def _sample(logits: Tensor, settings: DreamSettings, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Tokens [M] for logits [M, V] and their confidences, from the filtered distribution (GD:58-90)."""
    if settings.temperature > 0:
        logits = logits / settings.temperature
    probabilities = _filtered(logits, settings.top_p, settings.top_k).softmax(dim=-1)
    if settings.temperature > 0 and len(logits):
        guesses = torch.multinomial(probabilities, 1, replacement=True, generator=generator)
    else:
        guesses = probabilities.argmax(dim=-1, keepdim=True)
    if settings.alg == "topk_margin":
        best = probabilities.topk(2, dim=-1).values
        return guesses[:, 0], best[:, 0] - best[:, 1]
    if settings.alg == "entropy":
        return guesses[:, 0], (probabilities * (probabilities + 1e-10).log()).sum(dim=-1)
    return guesses[:, 0], probabilities.gather(-1, guesses)[:, 0]


def _filtered(logits: Tensor, top_p: float | None, top_k: int) -> Tensor:
    """Logits, -inf outside the nucleus (which includes the entry that crosses `top_p`) and outside the `top_k` best."""
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(dim=-1)
        beyond = probabilities.cumsum(dim=-1).roll(1, dims=-1) > top_p
        beyond[..., 0] = False
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    if top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k, dim=-1).values[..., -1:], -torch.inf)
    return logits
