"""Early stopping of a sweep: a setting that is certainly worse than the default gets no further pages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from shirg.data.render import KINDS

MARGIN = 0.05
"""Share of the answer's patches by which a stopped setting is worse than the default: 5 points."""

RISK = 0.05
"""Chance that a sweep stops any setting that is not worse by `MARGIN`, over all its settings and looks together."""

ROUND = len(KINDS)
"""Pages of one round, each kind once; decisions are made after whole rounds only."""

FIRST_LOOK = 2 * ROUND
"""Pages before the first decision: a row of fewer would say little about the other measures."""

BETS = (0.3, 0.6, 0.9)
"""Stakes that `EarlyStop` plays side by side, each below `1 / (1 + MARGIN)`: large ones find a setting that fails on every
page soon, small ones outlast a page on which it happens to win."""

LEADING = ("answer_asked", "answer")
"""What decides, the first of them that the default has: the patches that the answer is read from, with the question given,
or without where the model compares tokens with none."""

RULE = {"margin": MARGIN, "risk": RISK, "first_look": FIRST_LOOK, "every": ROUND, "bets": list(BETS)}
"""All that decisions depend on beside the pages; pages of one run share it."""


class EarlyStop:
    """Decides after whole rounds of pages which settings are stopped, from the pages alone.

    What decides is `LEADING` at the smallest budget, where a choice matters most; a stopped setting is left out at every
    budget. `d` is its difference to the default on one page, mean over the page's questions, between -1 and 1. It is
    stopped when the pages refute that `d`, averaged over the kinds of page, is `-MARGIN` or better.

    Looking again after every round does not fool the decision, as it would a 95% interval that may leave out zero at any
    of ten looks. Against each setting 1 is staked, and multiplied with every page by `1 + bet * (-d - MARGIN)`, which is
    never negative. Pages are drawn independently, so what a round multiplies the stake by is expected to be the product
    over its kinds of `1 + bet * (-E[d] - MARGIN)`. By the inequality of arithmetic and geometric means that is at most
    `(1 + bet * (-mean of E[d] - MARGIN)) ** ROUND`, which is at most 1 where the mean of `d` is `-MARGIN` or better. So
    the stake is a non-negative supermartingale from round to round, and so is the mean over several bets; the chance that
    it ever reaches `1 / p`, at whatever look, is at most `p` (Ville 1939; bets on bounded means: Waudby-Smith and Ramdas
    2024, section 4). With `p = RISK / settings`, the chance that any setting is stopped wrongly is at most `RISK`, whatever
    the number of pages, and without an assumption about how differences are distributed.

    Args:
        settings: those that are measured, the default first.
        budget: the smallest.

    Attributes:
        stopped: setting -> pages after which it was stopped.
    """

    def __init__(self, settings: Collection[str], budget: int):
        self.default, *others = settings
        self.budget = budget
        self.stopped: dict[str, int] = {}
        self._bets = np.array(BETS)
        self._stakes = {name: np.ones(len(BETS)) for name in others}
        self._enough = len(others) / RISK
        self._pages = 0

    def add(self, page: dict[str, Any]) -> None:
        """Take in the next page, as `Sweep.measure_page` returns it; pages come in the order of their numbers."""
        self._pages += 1
        rows = {row["setting"]: row for row in page["rows"] if row["budget"] == self.budget}
        key = next(key for key in LEADING if rows[self.default][key] is not None)
        reference = fmean(rows[self.default][key])
        for name in self._going():
            if rows[name][key] is not None:
                difference = fmean(rows[name][key]) - reference
                self._stakes[name] *= 1 + self._bets * (-difference - MARGIN)
        if self._pages >= FIRST_LOOK and self._pages % ROUND == 0:
            for name in self._going():
                if self._stakes[name].mean() >= self._enough:
                    self.stopped[name] = self._pages

    def _going(self) -> Sequence[str]:
        return [name for name in self._stakes if name not in self.stopped]
