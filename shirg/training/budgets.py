"""Which ratio the next optimizer step trains: one adapter for every budget comes from mixing them."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import torch

from shirg.errors import UserError
from shirg.seeds import generator

if TYPE_CHECKING:
    from shirg.lavida import Lavida

POOLED: Final = "pooled"
"""LaViDa's own tiles-and-pool path as a ratio, so that the adapter keeps it usable."""

POOLED_TOKENS = 980
"""Tokens of the pooled path for a square image where no model is at hand to ask: 5 views of 14x14
(`shirg.lavida.costs.path_tokens(config, "hd")` knows a model's own, 1008 with newlines)."""

SAMPLINGS = ("uniform", "weighted", "curriculum")

Ratio = int | Literal["pooled"]
"""A token budget per image, or `POOLED`."""


class BudgetSampler:
    """Draws one ratio per optimizer step, as a pure function of the seed and the step.

    * `uniform`: every ratio as often as any other.
    * `weighted`: by `weights`; without them in inverse proportion to the tokens, since a small budget drops most and so
      has most to learn, and costs least.
    * `curriculum`: begins with the pooled path and the largest budget, which change least, and opens one ratio after
      another; all are open, and equally likely, for the second half of the run.

    Draws are stratified: steps are dealt in windows of as many steps as there are ratios, one stratum of [0, 1) each,
    in random order. Every single draw has the stated probabilities, and under `uniform` no ratio is left out of a
    window, so a run of a dozen steps trains them all.
    """

    def __init__(
        self,
        budgets: Sequence[int],
        *,
        include_pooled: bool = True,
        sampling: str = "uniform",
        weights: Sequence[float] | None = None,
        total_steps: int = 1,
        seed: int = 0,
        pooled_tokens: int = POOLED_TOKENS,
    ):
        """
        Args:
            budgets: kept tokens per image, summary token not counted.
            include_pooled: add `POOLED` as the last ratio.
            sampling: one of `SAMPLINGS`.
            weights: for "weighted": one positive number per entry of `ratios`, in that order.
            total_steps: optimizer steps of the run; only "curriculum" looks at it.
            seed: the run's seed.
            pooled_tokens: tokens of the model's pooled path; "weighted" without weights looks at it.

        Raises:
            UserError: for an empty, repeated or non-positive budget, an unknown sampling, or weights that do not fit.
        """
        self.ratios: tuple[Ratio, ...] = check_budgets(budgets) + ((POOLED,) if include_pooled else ())
        if sampling not in SAMPLINGS:
            raise UserError(f"ratio_sampling: {sampling!r} is unknown; choose from {', '.join(SAMPLINGS)}")
        if weights is not None:
            check_weights(weights, len(self.ratios), sampling)
        self.sampling = sampling
        self.weights = weights
        self.total_steps = max(total_steps, 1)
        self.seed = seed
        self.pooled_tokens = pooled_tokens

    def probabilities(self, step: int) -> dict[Ratio, float]:
        """Chance of every ratio at optimizer step `step` (counted from 0); they sum to one."""
        if self.sampling == "uniform":
            parts = [1.0] * len(self.ratios)
        elif self.sampling == "weighted":
            parts = list(self.weights or (1 / ratio_tokens(ratio, self.pooled_tokens) for ratio in self.ratios))
        else:
            parts = self._open_ratios(step)
        whole = math.fsum(parts)
        return {ratio: part / whole for ratio, part in zip(self.ratios, parts, strict=True)}

    def __call__(self, step: int) -> Ratio:
        """The ratio of optimizer step `step` (counted from 0)."""
        chances = self.probabilities(step)
        edges = list(itertools.accumulate(chances.values()))
        index = bisect.bisect_right(edges, self._uniform(step))
        open_ratios = [position for position, chance in enumerate(chances.values()) if chance > 0]
        return self.ratios[min(index, open_ratios[-1])]  # the edges may sum to a hair less than one

    def _open_ratios(self, step: int) -> list[float]:
        easiest_first = sorted(
            self.ratios, key=lambda ratio: (ratio != POOLED, -ratio_tokens(ratio, self.pooled_tokens))
        )
        count = 1 + int(2 * len(self.ratios) * step / self.total_steps)
        return [float(ratio in easiest_first[:count]) for ratio in self.ratios]

    def _uniform(self, step: int) -> float:
        window, place = divmod(step, len(self.ratios))
        draws = generator(self.seed, "budget", window)
        order = torch.randperm(len(self.ratios), generator=draws)
        offset = torch.rand((), generator=draws, dtype=torch.float64).item()
        return (order[place].item() + offset) / len(self.ratios)


def ratio_tokens(ratio: Ratio, pooled_tokens: int) -> int:
    """Visual tokens of a ratio in the language model's prefix: the budget and its summary token, or the pooled
    path's."""
    return pooled_tokens if ratio == POOLED else ratio + 1


def path_of(ratio: Ratio) -> str:
    """The vision path whose features a ratio starts from: every budget selects from the same high-resolution tokens."""
    return "hd" if ratio == POOLED else "shirg"


def check_budgets(budgets: Sequence[int]) -> tuple[int, ...]:
    """The budgets as a tuple.

    Raises:
        UserError: if there is none, one is not a positive whole number, or one comes twice.
    """
    if not budgets:
        raise UserError("token_budgets: the list is empty; give at least one, for example [512, 768, 1024]")
    for budget in budgets:
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
            raise UserError(
                f"token_budgets: {budget!r} is not a budget; a budget is a whole number of tokens, 1 or more"
            )
    if len(set(budgets)) < len(budgets):
        raise UserError(f"token_budgets: {list(budgets)} names one twice; use ratio_sampling='weighted' to prefer one")
    return tuple(budgets)


def check_grid(budgets: Sequence[int], model: Lavida) -> int:
    """Tokens of the large view as `model` sees it.

    Raises:
        UserError: for a budget above them.
    """
    most = math.prod(model.large_grid)
    for budget in budgets:
        if budget > most:
            raise UserError(
                f"token_budgets: {budget} exceeds the {most} tokens of a {model.vision.resolution}-pixel "
                f"image; take a smaller one, or "
                "a larger image resolution"
            )
    return most


def check_weights(weights: Sequence[float], count: int, sampling: str) -> None:
    """Raise UserError unless `weights` are `count` positive numbers and `sampling` uses them."""
    if sampling != "weighted":
        raise UserError(f"budget_weights: only ratio_sampling='weighted' uses them, not {sampling!r}")
    if len(weights) != count:
        raise UserError(f"budget_weights: {len(weights)} given for {count} ratios (the budgets, then the pooled path)")
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"budget_weights: {list(weights)} must all be positive numbers")
