"""Intervals and verdicts for mean scores and ratios of losses, by resampling pages.

Answers about one page depend on one another, so whole pages are drawn, not questions (Cameron et al. 2008 call it
the cluster bootstrap). Intervals are percentile intervals (Efron and Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 10_000
"""Resamples of an interval: its ends then move by about a hundredth of its width from seed to seed."""
LEVEL = 0.95

UNDECIDED = "undecided"
"""The verdict when the interval contains zero or too few pages differ; it does not mean equal."""

MINIMUM_DIFFERING_PAGES = 6
"""Pages on which two variants must differ for a verdict: with five the two-sided sign test cannot reach 0.05 (2 * 0.5**5)."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval; `low` and `high` are None when a single page was scored."""

    mean: float
    low: float | None
    high: float | None
    questions: int
    pages: int


def mean_interval(
    values: Sequence[float] | np.ndarray,
    pages: Sequence[str],
    *,
    seed: int,
    least: float = 0.0,
    most: float = 1.0,
    resamples: int = RESAMPLES,
) -> Interval:
    """The mean of `values` and its 95% interval under resampling of pages.

    If all values are equal, resampling gives an interval of width zero. The bound for an event that was never observed is used
    instead (Hanley and Lippman-Hand 1983): at most `1 - 0.025 ** (1 / pages)` of the pages score differently, `least` or `most`.

    Args:
        values: one score or paired difference for each question.
        pages: which page each value belongs to.
        seed: of the resampling; equal inputs and seed give equal intervals.
        least: smallest possible value.
        most: largest possible value.
        resamples: number of bootstrap samples.

    Raises:
        ValueError: if there are no values, or not one page for each value.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.size == 0 or len(pages) != scores.size:
        raise ValueError(f"values and pages must be of one length above zero, got {scores.size} and {len(pages)}")
    sums, counts = _per_page(scores, pages)
    if sums.size < 2:
        return Interval(float(scores.mean()), None, None, scores.size, 1)
    if np.ptp(scores) == 0:
        value, unseen = float(scores[0]), 1 - ((1 - LEVEL) / 2) ** (1 / sums.size)
        low, high = value - unseen * (value - least), value + unseen * (most - value)
        return Interval(value, low, high, scores.size, sums.size)
    draws = _draws(sums.size, seed, resamples)
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(scores.mean()), float(low), float(high), scores.size, sums.size)


@dataclass(frozen=True)
class Comparison:
    """The mean paired difference `ours - theirs` and its verdict."""

    interval: Interval
    differing_pages: int
    verdict: str


def compare(
    ours: Sequence[float], theirs: Sequence[float], pages: Sequence[str], *, seed: int, resamples: int = RESAMPLES
) -> Comparison:
    """Compare two variants on the same questions, asked in the same order.

    The verdict is "better" or "worse" when the interval of the paired difference leaves out zero and at least
    `MINIMUM_DIFFERING_PAGES` pages differ, else "undecided".

    Raises:
        ValueError: if the two were not scored on the same number of questions, or on none.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"a paired comparison needs the same questions, got {len(ours)} and {len(theirs)} scores")
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    interval = mean_interval(differences, pages, seed=seed, least=-1.0, most=1.0, resamples=resamples)
    differing = int((_per_page(differences, pages)[0] != 0).sum())
    return Comparison(interval, differing, _verdict(interval, differing))


def ratio_interval(
    ours: np.ndarray, theirs: np.ndarray, pages: Sequence[str], *, seed: int, resamples: int = 2_000
) -> Interval:
    """The mean over columns of the ratio of sums, `ours` to `theirs`, and its 95% interval under resampling of pages, both of
    the same questions.

    Args:
        ours, theirs: [questions, columns] of positive numbers, such as losses before and after.
        pages, seed, resamples: as in `mean_interval`.

    Raises:
        ValueError: if there are no questions, or the arguments differ in their number.
    """
    if ours.shape != theirs.shape or len(pages) != len(ours) or not len(ours):
        raise ValueError(f"a ratio needs the same questions, got {ours.shape}, {theirs.shape} and {len(pages)} pages")
    _, page_of = np.unique(np.asarray(pages), return_inverse=True)
    count = int(page_of.max()) + 1
    both = np.zeros((count, 2, ours.shape[1]))
    np.add.at(both, page_of, np.stack([ours, theirs], axis=1))

    def ratio(sums: np.ndarray) -> float:
        return float((sums[0] / sums[1]).mean())

    found = ratio(both.sum(axis=0))
    if count < 2:
        return Interval(found, None, None, len(ours), 1)
    draws = np.random.default_rng(seed)
    ratios = [ratio(both[draws.integers(0, count, count)].sum(axis=0)) for _ in range(resamples)]
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(found, float(low), float(high), len(ours), count)


@lru_cache(maxsize=1)
def _draws(pages: int, seed: int, resamples: int) -> np.ndarray:
    """Numbers of the drawn pages, [resamples, pages]; cached, since successive variants are scored on the same pages."""
    draws = np.random.default_rng(seed).integers(0, pages, size=(resamples, pages))
    draws.setflags(write=False)  # callers share it
    return draws


def _per_page(scores: np.ndarray, pages: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    _, page_of = np.unique(np.asarray(pages), return_inverse=True)
    return np.bincount(page_of, weights=scores), np.bincount(page_of)


def _verdict(interval: Interval, differing_pages: int) -> str:
    if interval.low is None or interval.high is None or differing_pages < MINIMUM_DIFFERING_PAGES:
        return UNDECIDED
    if interval.low > 0:
        return "better"
    return "worse" if interval.high < 0 else UNDECIDED
