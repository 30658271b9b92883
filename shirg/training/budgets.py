"""Which component of the mixture the next optimizer step trains: one adapter for every budget comes from mixing them."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import torch

from shirg.errors import UserError
from shirg.gate.page_budget import MOST
from shirg.ranges import Budget
from shirg.seeds import generator

if TYPE_CHECKING:
    from shirg.lavida import Lavida

POOLED_TOKENS = 980
"""Tokens of the pooled path for a square image where no model is at hand to ask: 5 views of 14x14
(`shirg.lavida.costs.path_tokens(config, "hd")` knows a model's own, 1008 with newlines)."""

SAMPLINGS = ("uniform", "weighted", "curriculum")

AnyBudget = TypeVar("AnyBudget", bound=Budget)


@dataclass(frozen=True)
class Component:
    """A part of the mixture that an adapter is trained on: a vision path and, where it selects, a budget."""

    path: str
    """Of `Lavida.image_features`: "shirg", or "hd" for LaViDa's own pooled path."""
    budget: Budget | None = None
    """Tokens kept of an image; "auto" is each image's own number, from `shirg.gate.page_budget`."""

    @property
    def name(self) -> int | str:
        """As settings, journals and reports have it: the budget, "auto" or "pooled"."""
        return "pooled" if self.budget is None else self.budget

    def __str__(self) -> str:
        return str(self.name)

    @property
    def most(self) -> int | None:
        """Most tokens kept of an image, by which "auto" is forecast; None for the pooled path."""
        return MOST if self.budget == "auto" else self.budget

    def tokens(self, pooled_tokens: int) -> int:
        """Most visual tokens in the language model's prefix: with the summary token, or those of the pooled path."""
        return pooled_tokens if self.most is None else self.most + 1


POOLED: Final = Component("hd")
"""LaViDa's own tiles-and-pool path, a component so that the adapter keeps it usable."""


def components_of(budgets: Sequence[Budget], *, include_pooled: bool = True) -> tuple[Component, ...]:
    """The mixture of `token_budgets`, the pooled path last.

    Raises:
        UserError: as `check_budgets`.
    """
    selecting = tuple(Component("shirg", budget) for budget in check_budgets(budgets))
    return selecting + ((POOLED,) if include_pooled else ())


class BudgetSampler:
    """Draws one component per optimizer step, as a pure function of the seed and the step.

    * `uniform`: every component as often as any other.
    * `weighted`: by `weights`; without them in inverse proportion to the tokens, since a small budget drops most and so
      has most to learn, and costs least.
    * `curriculum`: begins with the pooled path and the largest budget, which change least, and opens one component after
      another; all are open, and equally likely, for the second half of the run.

    Draws are stratified: every window of as many steps as there are components has one draw from each stratum of [0, 1), in
    random order. Every single draw has the stated probabilities, and with `uniform` every component is drawn in every window, so
    that a run of a dozen steps trains them all.
    """

    def __init__(
        self,
        budgets: Sequence[Budget],
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
            budgets: kept tokens per image, summary token not counted; "auto" is each image's own number.
            include_pooled: add `POOLED` as the last component.
            sampling: one of `SAMPLINGS`.
            weights: for "weighted": one positive number per entry of `components`, in that order.
            total_steps: optimizer steps of the run; only "curriculum" uses it.
            seed: the run's seed.
            pooled_tokens: tokens of the model's pooled path; only "weighted" without weights uses it.

        Raises:
            UserError: for an empty, repeated or non-positive budget, an unknown sampling, or weights that do not fit.
        """
        self.components = components_of(budgets, include_pooled=include_pooled)
        if sampling not in SAMPLINGS:
            raise UserError(f"ratio_sampling: {sampling!r} is unknown; choose from {', '.join(SAMPLINGS)}")
        if weights is not None:
            check_weights(weights, len(self.components), sampling)
        self.sampling = sampling
        self.weights = weights
        self.total_steps = max(total_steps, 1)
        self.seed = seed
        self.pooled_tokens = pooled_tokens

    def probabilities(self, step: int) -> dict[Component, float]:
        """Chance of every component at optimizer step `step` (counted from 0); they sum to one."""
        if self.sampling == "uniform":
            parts = [1.0] * len(self.components)
        elif self.sampling == "weighted":
            parts = list(self.weights or (1 / one.tokens(self.pooled_tokens) for one in self.components))
        else:
            parts = self._open_components(step)
        whole = math.fsum(parts)
        return {component: part / whole for component, part in zip(self.components, parts, strict=True)}

    def __call__(self, step: int) -> Component:
        """The component of optimizer step `step` (counted from 0)."""
        chances = self.probabilities(step)
        edges = list(itertools.accumulate(chances.values()))
        index = bisect.bisect_right(edges, self._uniform(step))
        last_open = max(place for place, chance in enumerate(chances.values()) if chance > 0)
        return self.components[min(index, last_open)]  # the edges may sum to a hair less than one

    def _open_components(self, step: int) -> list[float]:
        easiest_first = sorted(self.components, key=lambda one: (one != POOLED, -one.tokens(self.pooled_tokens)))
        count = 1 + int(2 * len(self.components) * step / self.total_steps)
        return [float(one in easiest_first[:count]) for one in self.components]

    def _uniform(self, step: int) -> float:
        window, place = divmod(step, len(self.components))
        draws = generator(self.seed, "budget", window)
        order = torch.randperm(len(self.components), generator=draws)
        offset = torch.rand((), generator=draws, dtype=torch.float64).item()
        return (order[place].item() + offset) / len(self.components)


def check_budgets(budgets: Sequence[AnyBudget]) -> tuple[AnyBudget, ...]:
    """The budgets as a tuple.

    Raises:
        UserError: if there is none, one is neither a positive whole number nor "auto", or one comes twice.
    """
    if not budgets:
        raise UserError("token_budgets: the list is empty; give at least one, for example [512, 768, 1024]")
    for budget in budgets:
        if budget != "auto" and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 1):
            raise UserError(
                f"token_budgets: {budget!r} is not a budget; a budget is a whole number of tokens, 1 or more, or 'auto'"
            )
    if len(set(budgets)) < len(budgets):
        raise UserError(f"token_budgets: {list(budgets)} names one twice; use ratio_sampling='weighted' to prefer one")
    return tuple(budgets)


def check_grid(budgets: Sequence[Budget], model: Lavida) -> int:
    """Tokens of the large view with `model`'s settings.

    Raises:
        UserError: for a budget above them.
    """
    most = math.prod(model.large_grid)
    for budget in budgets:
        if budget != "auto" and budget > most:
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
        raise UserError(
            f"budget_weights: {len(weights)} given for {count} components (the budgets, then the pooled path)"
        )
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"budget_weights: {list(weights)} must all be positive numbers")
