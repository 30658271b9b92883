"""Number of tokens that each denoising step commits (LaViDa generate.py:22-95)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from shirg.errors import UserError


def _shift(t: Tensor, shift: float = 3.0) -> Tensor:
    return shift * t / (1 + (shift - 1) * t)


def _cosine(t: Tensor) -> Tensor:
    return (1 - torch.cos(math.pi * t)) / 2


def _logit_normal(t: Tensor) -> Tensor:
    return torch.distributions.Normal(0.0, 1.0).cdf(torch.logit(t))


def _linear(t: Tensor) -> Tensor:
    return t


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "shift": _shift,
    "cosine": _cosine,
    "logit_normal": _logit_normal,
    "linear": _linear,
}


def transfer_counts(
    num_masked: list[int], steps: int, schedule: str | None = None, schedule_kwargs: dict[str, float] | None = None
) -> list[list[int]]:
    """Tokens to commit at each step, one row per entry of `num_masked`.

    Without a schedule every step commits M // S tokens, the first M % S steps one more. With a schedule, S is at most the
    largest M (LaViDa: the first row's M; its rows are equal, while drafts here may differ). c = trunc(sigma(t) M) at S + 1
    equally spaced times, and the steps commit the differences of c, at least one each, *in reverse order*: "shift" with shift
    1/3 commits many tokens early, the default of 3 few.

    Args:
        num_masked: masked tokens M of each row.
        steps: number of steps S, at least 1.
        schedule: None, "shift" (`schedule_kwargs={"shift": 3}`), "cosine", "logit_normal" (or "logit-normal") or "linear".
            (The official code treats any other name as "linear".)

    Raises:
        UserError: for an unknown schedule, keywords that it does not take or that make it decrease, or no step.
    """
    if steps < 1:
        raise UserError(f"steps={steps}: at least one denoising step is needed; raise step_ratio or step_per_block")
    if schedule is None:
        return [[masked // steps + (step < masked % steps) for step in range(steps)] for masked in num_masked]
    sigma_of = SCHEDULES.get(str(schedule).replace("-", "_"))
    if sigma_of is None:
        raise UserError(f"schedule={schedule!r} is unknown; expected None, {', '.join(map(repr, SCHEDULES))}")
    steps = max(min(steps, max(num_masked)), 1)
    times = torch.linspace(0, 1, steps + 1)
    try:
        sigma = sigma_of(times, **(schedule_kwargs or {}))
    except TypeError:
        raise UserError(f"schedule_kwargs={schedule_kwargs!r} do not belong to schedule {schedule!r}") from None
    if not (sigma.diff() >= 0).all():  # NaN included
        raise UserError(
            f"schedule_kwargs={schedule_kwargs!r}: with these, {schedule!r} does not increase; use shift above 0"
        )
    return [_differences(sigma, masked) for masked in num_masked]


def _differences(sigma: Tensor, masked: int) -> list[int]:
    """Reversed differences of trunc(sigma M), each at least 1; a surplus is subtracted one by one, from the last step."""
    counts = (sigma * masked).to(torch.int64).diff().clamp(min=1).tolist()
    surplus = sum(counts) - masked
    while surplus > 0 and max(counts) > 1:
        for step, count in enumerate(counts):
            if surplus > 0 and count > 1:
                counts[step] -= 1
                surplus -= 1
    return counts[::-1]
