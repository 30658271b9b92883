"""From the rows of every page to means, intervals and verdicts for every setting of a sweep."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shirg.evaluation.bootstrap import UNDECIDED, Interval, compare, mean_interval

OPPOSITE = {"better": "worse", "worse": "better", UNDECIDED: UNDECIDED}


@dataclass(frozen=True)
class Measure:
    """One column of the table."""

    key: str
    """Its name in the rows of a page and in `sweep.json`."""
    title: str
    counted: str | None = None
    """Key of a page that tells how many cases its value is the mean of; None for a list with a value for each case, or
    one value per page."""
    less_is_better: bool = False


MEASURES = (
    Measure("words", "words", counted="words"),
    Measure("small_words", "small words", counted="small_words"),
    Measure("answer_asked", "answer, asked"),
    Measure("answer", "answer, unasked"),
    Measure("precision", "precision"),
    Measure("empty_tiles", "empty tiles", less_is_better=True),
    Measure("exact_match", "exact match"),
    Measure("anls", "ANLS"),
)
"""In the order of the table's columns. All are shares between 0 and 1; the last two are there if answers were asked for."""


def summarise(
    pages: Sequence[dict[str, Any]], measured_as: Mapping[str, str], budgets: Sequence[int], seed: int
) -> list[dict[str, Any]]:
    """One entry for each budget and setting, in the order given.

    Words are counted over all pages (a page with many words weighs more), answers over questions, precision and empty
    tiles over pages.

    Args:
        pages: as `Sweep.run` returns them.
        measured_as: setting -> the setting whose rows are its own, the default first.

    Returns:
        Entries with `setting`, `same_as` (the setting of the same gate that was measured, or None), `budget`,
        `stopped_after` (how many pages it had, None for all), `gate_ms` (`best` and `median` over pages) and, for each
        measure that was taken: `mean`, `low`, `high`, `pages`, and the paired `difference` to the default on the pages
        that the setting had (`mean`, `low`, `high`, `differing_pages`, `verdict`); None where the setting could not be
        measured.
    """
    default = next(iter(measured_as))
    entries = []
    for budget in budgets:
        by_page = [(page, _rows_of(page, budget)) for page in pages]
        done: dict[str, dict[str, Any]] = {}
        for name, measured in measured_as.items():
            if measured not in done:
                cases = [(page, rows[measured], rows[default]) for page, rows in by_page if measured in rows]
                stopped = None if len(cases) == len(pages) else len(cases)
                done[measured] = {"stopped_after": stopped, **_entry(cases, seed)}
            same_as = None if measured == name else measured
            entries.append({"setting": name, "same_as": same_as, "budget": budget, **done[measured]})
    return entries


def stopped_after(entry: dict[str, Any]) -> int | None:
    """How many pages an entry of `summarise` is of where its setting was stopped; None for all pages, as in format 1."""
    return entry.get("stopped_after")


def _rows_of(page: dict[str, Any], budget: int) -> dict[str, dict[str, Any]]:
    """Setting -> its row of a page."""
    return {row["setting"]: row for row in page["rows"] if row["budget"] == budget}


def _entry(cases: Sequence[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]], seed: int) -> dict[str, Any]:
    """Summary of pages, each with the setting's row and the default's."""
    times = [row["ms"] for _, row, _ in cases if row["ms"] is not None]
    best_and_median = {"best": round(min(times), 3), "median": round(statistics.median(times), 3)} if times else None
    entry: dict[str, Any] = {"gate_ms": best_and_median}
    for measure in MEASURES:
        if measure.key not in cases[0][1]:
            continue
        triples = [
            (mine, its, str(page["page"]))
            for page, row, other in cases
            for mine, its in _pairs(page, row[measure.key], other[measure.key], measure)
        ]
        if triples:
            ours, theirs, of_page = zip(*triples, strict=True)
            entry[measure.key] = _measured(ours, theirs, of_page, measure, seed)
        else:
            entry[measure.key] = None
    return entry


def _pairs(page: dict[str, Any], ours: Any, theirs: Any, measure: Measure) -> Iterator[tuple[float, float]]:
    """Values of one page, each beside the default's; both a list, a number or None, as `Measure.counted` says."""
    if ours is None or theirs is None:
        return
    if isinstance(ours, list):
        yield from zip(ours, theirs, strict=True)
        return
    for _ in range(page[measure.counted] if measure.counted else 1):
        yield ours, theirs


def _measured(
    ours: Sequence[float], theirs: Sequence[float], of_page: Sequence[str], measure: Measure, seed: int
) -> dict[str, Any]:
    level, against = mean_interval(ours, of_page, seed=seed), compare(ours, theirs, of_page, seed=seed)
    verdict = OPPOSITE[against.verdict] if measure.less_is_better else against.verdict
    difference = {**_rounded(against.interval), "differing_pages": against.differing_pages, "verdict": verdict}
    return {**_rounded(level), "pages": level.pages, "difference": difference}


def _rounded(interval: Interval) -> dict[str, Any]:
    """Mean and interval to a thousandth of a point, more than they are good for."""
    return {
        name: None if value is None else round(value, 5) + 0.0
        for name, value in (("mean", interval.mean), ("low", interval.low), ("high", interval.high))
    }
