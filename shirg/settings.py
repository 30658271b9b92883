"""Settings that several configurations share.

A setting is declared once, as a field of a configuration: its default, its range and its description. The commands inherit these
fields. `tyro.conf.arg` in an annotation has what only the flag needs: another name, a placeholder, what None means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from tyro.conf import arg

from shirg import ranges

TokenBudgets = Annotated[Sequence[ranges.Budget], ranges.BUDGET, arg(metavar="INT|auto [INT|auto ...]")]


@dataclass(kw_only=True)
class Seeded:
    """What makes a run repeatable."""

    seed: Annotated[int, ranges.SEED] = 0
    """Decides everything random: pages, their order, initial weights, budgets, noise and samples."""


@dataclass(kw_only=True)
class Budgeted:
    """Which costs are served."""

    token_budgets: TokenBudgets = field(default_factory=lambda: [512, 768, 1024])
    """Visual tokens kept per image, one or more numbers; one more token sums up what was dropped. auto keeps as many as the
    print of each image needs, at most 1024."""


def settings_of(section: type, values: object) -> dict[str, Any]:
    """The fields of a section, a dataclass, that `values` has, by name: for a configuration that has the section."""
    return {one.name: getattr(values, one.name) for one in fields(section)}
