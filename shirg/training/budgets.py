"""The mixture that one adapter is trained on, and which component of it an optimizer step trains."""

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
"""Default number of tokens of the pooled path for a square image: 5 views of 14x14. A model's own number, 1008 with newlines, is
`shirg.lavida.costs.path_tokens(config, "hd")`."""

SAMPLINGS = ("uniform", "weighted", "curriculum", "continuous")

RANGE = (128, 1024)
"""Smallest and largest budget of "continuous"."""

PIECES = 8
"""Number of budgets that represent "continuous" in forecasts."""

AnyBudget = TypeVar("AnyBudget", bound=Budget)


@dataclass(frozen=True)
class Component:
    """A part of the mixture that an adapter is trained on: a vision path and, where it selects, a budget."""

    path: str
    """Of `Lavida.image_features`: "shirg", "early", or "hd" for LaViDa's own pooled path."""
    budget: Budget | None = None
    """Tokens kept of an image; "auto" is each image's own number, from `shirg.gate.page_budget`."""

    @property
    def name(self) -> int | str:
        """As settings, journals and reports have it: the budget, "auto", "early-512" or "pooled"."""
        if self.budget is None:
            return "pooled"
        return self.budget if self.path == "shirg" else f"{self.path}-{self.budget}"

    def __str__(self) -> str:
        return str(self.name)

    @property
    def is_fixed(self) -> bool:
        """Whether it is one of the budgets of "shirg" that "continuous" draws others in place of."""
        return self.path == "shirg" and isinstance(self.budget, int)

    @property
    def most(self) -> int | None:
        """Most tokens kept of an image, by which "auto" is forecast; None for the pooled path."""
        return MOST if self.budget == "auto" else self.budget

    def tokens(self, pooled_tokens: int) -> int:
        """Most visual tokens in the language model's prefix: with the summary token, or those of the pooled path."""
        return pooled_tokens if self.most is None else self.most + 1


POOLED: Final = Component("hd")
"""LaViDa's own tiles-and-pool path, a component so that the adapter keeps it usable."""


def components_of(
    budgets: Sequence[Budget], *, include_pooled: bool = True, include_early: bool = False
) -> tuple[Component, ...]:
    """The mixture of `token_budgets` on path "shirg", then on path "early", the pooled path last.

    Raises:
        UserError: as `check_budgets`.
    """
    paths = ("shirg", "early") if include_early else ("shirg",)
    selecting = tuple(Component(path, budget) for path in paths for budget in check_budgets(budgets))
    return selecting + ((POOLED,) if include_pooled else ())


class BudgetSampler:
    """Draws one component per optimizer step, as a pure function of the seed and the step.

    * `uniform`: every component as often as any other.
    * `weighted`: by `weights`; without them in inverse proportion to the tokens, since the adapter has most to learn from small
      budgets, which also cost least.
    * `curriculum`: begins with the pooled path and the largest budget, which change least, and adds one component after
      another; for the second half of the run all are equally likely.
    * `continuous`: as `uniform`, but in place of the fixed budgets it draws any from `budget_range`, log-uniformly. Of several
      micro-batches of such a step, the first has the smallest budget, the next the largest, the next a random one, and so on (the
      sandwich rule of slimmable networks, Yu and Huang 2019).

    Draws are stratified: every window of as many steps as there are components has one draw from each stratum of [0, 1), in
    random order. Every single draw has the stated probabilities, and with `uniform` every component is drawn in every window, so
    that a run of a dozen steps trains them all.
    """

    def __init__(
        self,
        budgets: Sequence[Budget],
        *,
        include_pooled: bool = True,
        include_early: bool = False,
        sampling: str = "uniform",
        weights: Sequence[float] | None = None,
        total_steps: int = 1,
        seed: int = 0,
        pooled_tokens: int = POOLED_TOKENS,
        budget_range: Sequence[int] = RANGE,
    ):
        """
        Args:
            budgets: kept tokens per image, summary token not counted; "auto" is each image's own number.
            include_pooled: add `POOLED` as the last component.
            include_early: add path "early" at every budget.
            sampling: one of `SAMPLINGS`.
            weights: for "weighted": one positive number per entry of `components`, in that order.
            total_steps: optimizer steps of the run; only "curriculum" uses it.
            seed: the run's seed.
            pooled_tokens: tokens of the model's pooled path; only "weighted" without weights uses it.
            budget_range: smallest and largest budget of "continuous".

        Raises:
            UserError: for an empty, repeated or non-positive budget, an unknown sampling, or weights that do not fit.
        """
        self.components = components_of(budgets, include_pooled=include_pooled, include_early=include_early)
        if sampling not in SAMPLINGS:
            raise UserError(f"ratio_sampling: {sampling!r} is unknown; choose from {', '.join(SAMPLINGS)}")
        if weights is not None:
            check_weights(weights, len(self.components), sampling)
        self.sampling = sampling
        self.weights = weights
        self.total_steps = max(total_steps, 1)
        self.seed = seed
        self.pooled_tokens = pooled_tokens
        self.range = check_range(budget_range)
        self.fixed = [one for one in self.components if one.is_fixed]
        """The components in whose place "continuous" draws."""
        if sampling == "continuous" and not self.fixed:
            raise UserError("token_budgets: continuous draws in place of fixed budgets, so give at least one number")

    @property
    def bounds(self) -> tuple[Component, ...]:
        """Components that need as many tokens as any that is drawn."""
        return self.components + ((Component("shirg", self.range[1]),) if self.sampling == "continuous" else ())

    @property
    def groups(self) -> list[str]:
        """Names by which draws are counted."""
        return list(dict.fromkeys(map(self.group, self.components)))

    def group(self, component: Component) -> str:
        """The name by which draws of a component are counted: "128-1024" for all of "continuous", else its own."""
        drawn = self.sampling == "continuous" and component.is_fixed
        return "-".join(map(str, self.range)) if drawn else str(component)

    def micro_batches(self, step: int, count: int) -> list[Component]:
        """The components of the `count` micro-batches of optimizer step `step`."""
        first = self(step)
        if self.sampling != "continuous" or not first.is_fixed or count == 1:
            return [first] * count
        found = []
        for number in range(count):
            draws = generator(self.seed, "sandwich", step, number)
            place = (0.0, 1.0, torch.rand((), generator=draws, dtype=torch.float64).item())
            found.append(self._between(place[(step * count + number) % 3]))
        return found

    def _between(self, place: float) -> Component:
        """The component at `place`, from 0 to 1, of the range on a logarithmic scale."""
        low, high = self.range
        return Component("shirg", round(low * (high / low) ** place))

    def probabilities(self, step: int) -> dict[Component, float]:
        """Chance of every component at optimizer step `step` (counted from 0); they sum to one. For "continuous" `PIECES`
        budgets stand for all of the range."""
        if self.sampling == "continuous":
            chance = 1 / len(self.components)
            others = {one: chance for one in self.components if one not in self.fixed}
            pieces: dict[Component, float] = {}
            for number in range(PIECES):
                one = self._between((number + 0.5) / PIECES)
                pieces[one] = pieces.get(one, 0.0) + chance * len(self.fixed) / PIECES
            return pieces | others
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
        if self.sampling == "continuous":
            place = self._uniform(step) * len(self.components)
            if place < len(self.fixed):
                return self._between(place / len(self.fixed))
            return [one for one in self.components if one not in self.fixed][int(place) - len(self.fixed)]
        chances = self.probabilities(step)
        edges = list(itertools.accumulate(chances.values()))
        index = bisect.bisect_right(edges, self._uniform(step))
        last_open = max(place for place, chance in enumerate(chances.values()) if chance > 0)
        return self.components[min(index, last_open)]  # rounded, the edges may sum to less than one

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
        UserError: if there is none, one is neither a positive whole number nor "auto", or one is repeated.
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


def check_range(limits: Sequence[int]) -> tuple[int, int]:
    """The range as (smallest, largest).

    Raises:
        UserError: unless it is two whole numbers, the smaller one first.
    """
    whole = all(isinstance(one, int) and not isinstance(one, bool) for one in limits)
    if len(limits) != 2 or not whole or not 1 <= limits[0] < limits[1]:
        raise UserError(
            f"budget_range: got {list(limits)}; give the smallest and the largest budget, for example 128 1024"
        )
    return limits[0], limits[1]


def check_grid(budgets: Sequence[Budget], model: Lavida, name: str = "token_budgets") -> int:
    """Tokens of the large view with `model`'s settings.

    Raises:
        UserError: beginning with `name`, for a budget above them.
    """
    most = math.prod(model.large_grid)
    for budget in budgets:
        if budget != "auto" and budget > most:
            raise UserError(
                f"{name}: {budget} exceeds the {most} tokens of a {model.vision.resolution}-pixel image; use a smaller one, or "
                "a larger image resolution"
            )
    return most


def check_weights(weights: Sequence[float], count: int, sampling: str) -> None:
    """Raise UserError unless `weights` are `count` positive numbers and `sampling` uses them."""
    if sampling != "weighted":
        raise UserError(f"budget_weights: only ratio_sampling='weighted' uses them, not {sampling!r}")
    if len(weights) != count:
        raise UserError(
            f"budget_weights: {len(weights)} given for {count} components (the budgets, those of early, the pooled path)"
        )
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"budget_weights: {list(weights)} must all be positive numbers")
