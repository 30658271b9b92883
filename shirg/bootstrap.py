"""Intervals, p-values and verdicts for mean scores and ratios of losses, by resampling pages.

Answers about one page depend on one another, so whole pages are drawn, not questions (Cameron et al. 2008 call it
the cluster bootstrap). Intervals are percentile intervals (Efron and Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
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
    pages: Sequence[Hashable],
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
class Resampled:
    """A mean over questions and trainings, and its values in resamples of both.

    Attributes:
        interval: the mean with its 95% interval.
        draws: [resamples], the mean in each.
        differing_pages: pages with a value other than zero.
    """

    interval: Interval
    draws: np.ndarray
    differing_pages: int

    def p_above(self, least: float) -> float:
        """One-sided p-value of the hypothesis that the mean is at most `least`, raised by two Monte-Carlo standard errors.

        Raised, it is below 0.025 only if the interval's lower end lies above `least` by more than these two errors.
        """
        return _raised(self.draws <= least)

    def p_below(self, most: float) -> float:
        """The same of the hypothesis that the mean is at least `most`."""
        return _raised(self.draws >= most)


def resample(
    values: np.ndarray, pages: Sequence[Hashable], *, seed: int = 0, least: float = 0.0, resamples: int = 20_000
) -> Resampled:
    """Resample trainings and pages, each with replacement and independently of each other.

    The interval of values that are all equal is that of `mean_interval`. Few trainings understate their variance: three by
    a third.

    Args:
        values: [trainings, questions], scores or paired differences, at most 1.
        pages: which page each question is about.
        seed: of the resampling.
        least: smallest possible value.
        resamples: number of bootstrap samples.

    Raises:
        ValueError: if there are no values, or not one page for each question.
    """
    if not values.size or len(pages) != values.shape[1]:
        raise ValueError(f"values must have one column for each question, got {values.shape} and {len(pages)} pages")
    per_page = [_per_page(one, pages) for one in values]
    sums, counts = np.stack([one for one, _ in per_page]), per_page[0][1]
    trainings, drawn = (_draw_counts(size, seed + place, resamples) for place, size in enumerate(sums.shape))
    means = (drawn @ sums.T * trainings).sum(axis=1) / len(sums) / (drawn @ counts)
    if np.ptp(values) == 0 or counts.size < 2:
        interval = mean_interval(values.mean(axis=0), pages, seed=seed, least=least)
    else:
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        interval = Interval(float(values.mean()), float(low), float(high), len(pages), counts.size)
    return Resampled(interval, means, int((sums != 0).any(axis=0).sum()))


@lru_cache(maxsize=4)
def _draw_counts(size: int, seed: int, resamples: int) -> np.ndarray:
    """How often each of `size` things is drawn, [resamples, size]; cached, since many effects are of the same pages."""
    counts = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), resamples).astype(float)
    counts.setflags(write=False)  # callers share it
    return counts


def _raised(hits: np.ndarray) -> float:
    """The share of true values, never 0, and two standard errors of it as an estimate from independent draws."""
    share = (1 + int(hits.sum())) / (1 + hits.size)
    return min(1.0, share + 2 * math.sqrt(share * (1 - share) / hits.size))


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


def _per_page(scores: np.ndarray, pages: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    _, page_of = np.unique(np.asarray(pages), return_inverse=True)
    return np.bincount(page_of, weights=scores), np.bincount(page_of)


def _verdict(interval: Interval, differing_pages: int) -> str:
    if interval.low is None or interval.high is None or differing_pages < MINIMUM_DIFFERING_PAGES:
        return UNDECIDED
    if interval.low > 0:
        return "better"
    return "worse" if interval.high < 0 else UNDECIDED
