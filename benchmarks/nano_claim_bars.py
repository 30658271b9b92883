"""The bars of the claim and whether they are met: what nano_claim.py prints and writes.

A bar is met when the whole 95 % interval lies above it, not met when the whole interval lies below, else undecided. The intervals
are over pages, given the weights and one training of each adapter; what another seed of a training would give is not in them.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from shirg.data.render import KINDS
from shirg.evaluation.bootstrap import MINIMUM_DIFFERING_PAGES, Interval, compare, mean_interval
from shirg.evaluation.markdown import count, interval, percent, points, table
from shirg.nano.recipe.score import LARGE_PRINT, MEASURES

LARGE, SMALL = LARGE_PRINT.name, "small print"
HOW = {LARGE: "14-22 px in the 384 px view, lowres", SMALL: "8-13 px in the 672 px view, 4.6-7.4 px at 384"}
MET, NOT_MET, UNDECIDED, INCOMPLETE, NOT_MEASURED = "met", "not met", "undecided", "incomplete", "not measured"
SEED = 0
"""Of the resampling."""


@dataclass(frozen=True)
class Bar:
    """What `ours` must reach in exact match: a score, or a lead over `theirs` (negative: it may be behind)."""

    group: str
    ours: str
    theirs: str | None
    least: float

    @property
    def text(self) -> str:
        """The bar in words."""
        if self.theirs is None:
            return f"{self.group}: {self.ours} page at least {percent(self.least)}"
        if self.least == 0:
            return f"{self.ours} above {self.theirs}"
        lead = count(round(abs(100 * self.least)), "point")
        return f"{self.ours} " + (
            f"at least {lead} ahead of {self.theirs}" if self.least > 0 else f"at most {lead} behind {self.theirs}"
        )


BARS = (
    Bar(LARGE, "right", None, 0.80),
    Bar(SMALL, "highres+adapter", "lowres", 0.25),
    Bar(SMALL, "shirg-768+adapter", "highres+adapter", -0.01),
    Bar(SMALL, "shirg-512+adapter", "highres+adapter", -0.04),
    Bar(SMALL, "shirg-768+adapter", "lowres", 0.10),
    Bar(SMALL, "shirg-768+adapter", "lowres+adapter", 0.10),
    Bar(SMALL, "shirg-768+adapter", "hd", 0.0),
    Bar(SMALL, "shirg-768+adapter", "hd+adapter", 0.0),
    Bar(SMALL, "shirg-512+adapter", "shirg-512+own adapter", -0.01),
    Bar(SMALL, "shirg-768+adapter", "shirg-768+own adapter", -0.01),
    Bar(SMALL, "highres+adapter", "highres+own adapter", -0.01),
)


def verdict(found: Interval, least: float, differing_pages: int) -> str:
    """Whether an interval is past the bar `least`; a lead or lag that stands on a handful of pages decides nothing."""
    if found.low is None or found.high is None or found.pages < MINIMUM_DIFFERING_PAGES:
        return UNDECIDED
    if found.low > least:
        return MET if least < 0 or differing_pages >= MINIMUM_DIFFERING_PAGES else UNDECIDED
    if found.high < least:
        return NOT_MET if least > 0 or differing_pages >= MINIMUM_DIFFERING_PAGES else UNDECIDED
    return UNDECIDED


# ---------------------------------------------------------------- numbers


@dataclass(frozen=True)
class Scores:
    """The pages of one set: one value per question, and which page each belongs to."""

    entries: Sequence[dict]

    def values(self, measure: str, name: str) -> list[float]:
        """The scores of one row of the table, question by question."""
        return [value for entry in self.entries for value in entry[measure][name]]

    @property
    def pages(self) -> list[str]:
        """The page of every question."""
        return [entry["page"] for entry in self.entries for _ in entry["asked"]]

    @property
    def names(self) -> list[str]:
        """The rows of the table."""
        return list(self.entries[0]["said"]) if self.entries else []

    def row(self, name: str) -> dict:
        """Means with intervals, and exact match by kind of page."""
        row: dict = {"tokens": statistics.fmean(entry["tokens"][name] for entry in self.entries)}
        for measure in MEASURES:
            row[measure] = rounded(mean_interval(self.values(measure, name), self.pages, seed=SEED))
        kinds = [kind for kind in KINDS if any(entry["kind"] == kind for entry in self.entries)]
        parts = {kind: Scores([entry for entry in self.entries if entry["kind"] == kind]) for kind in kinds}
        means = {kind: statistics.fmean(part.values("exact match", name)) for kind, part in parts.items()}
        return row | {"by kind": {kind: round(mean, 4) for kind, mean in means.items()}}


def judge(bar: Bar, scores: Scores, planned_pages: int) -> dict:
    """A bar with what was measured, and no verdict before all planned pages were; intervals of differences are paired."""
    told = {"bar": bar.text, "ours": bar.ours, "theirs": bar.theirs, "least": bar.least}
    if not scores.entries:
        return told | {"measured": None, "verdict": NOT_MEASURED}
    ours = scores.values("exact match", bar.ours)
    if bar.theirs is None:
        found = mean_interval(ours, scores.pages, seed=SEED)
        given = verdict(found, bar.least, found.pages)
    else:
        compared = compare(ours, scores.values("exact match", bar.theirs), scores.pages, seed=SEED)
        found, given = compared.interval, verdict(compared.interval, bar.least, compared.differing_pages)
    enough = len(scores.entries) >= planned_pages
    return told | {"measured": rounded(found), "verdict": given if enough else INCOMPLETE}


def rounded(found: Interval) -> dict:
    """An interval as plain values."""
    ends = {"mean": found.mean, "low": found.low, "high": found.high}
    return {name: None if value is None else round(value, 5) for name, value in ends.items()}


def record_of(entries: Sequence[dict], run: dict, trainings: dict[str, dict], planned: dict[str, int]) -> dict:
    """Everything that was measured, as JSON values.

    Args:
        entries: the pages that were read.
        run: settings and environment.
        trainings: adapter -> what its training says of itself.
        planned: set -> pages that were asked for; there may be fewer so far, or more from before.
    """
    sets = {name: Scores([entry for entry in entries if entry["set"] == name]) for name in planned}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **run,
        "sets": {
            name: {
                "pages": len(scores.entries),
                "planned pages": planned[name],
                "questions": len(scores.pages),
                "seconds per question": _seconds(scores),
                "rows": {row: scores.row(row) for row in scores.names},
            }
            for name, scores in sets.items()
        },
        "bars": [judge(bar, sets[bar.group], planned[bar.group]) for bar in BARS],
        "trainings": {name: _training(results) for name, results in trainings.items()},
    }


def _seconds(scores: Scores) -> float | None:
    if not scores.entries:
        return None
    return round(statistics.median(entry["seconds"] / len(entry["asked"]) for entry in scores.entries), 3)


def _training(results: dict) -> dict:
    kept = ("steps", "steps_per_ratio", "seconds", "validation_before", "validation_after", "best_step")
    return {name: results[name] for name in kept}


# ---------------------------------------------------------------- tables


def print_report(record: dict) -> None:
    """All tables, in Markdown."""
    print(f"LaViDa-nano, weights {record['settings']['weights']}: held-out rendered pages, 95% intervals over pages")
    for name, found in record["sets"].items():
        pages, planned = found["pages"], found["planned pages"]
        about = count(pages, "page") if pages >= planned else f"{pages:,} of {planned:,} pages"
        asked = f"{count(found['questions'], 'question')} about {about}"
        print(f"\n{name.capitalize()} ({HOW[name]}): {asked}")
        if found["rows"]:
            print(f"\n{scores_table(name, found['rows'])}\n\n{kinds_table(name, found['rows'])}")
    print(f"\n{bars_table(record['bars'])}")
    if record["trainings"]:
        print(f"\n{trainings_table(record['trainings'])}")


def scores_table(name: str, rows: dict[str, dict]) -> str:
    """Both measures of every row."""
    header = ["shown" if name == LARGE else "vision path", "tokens", *MEASURES]
    cells = [
        [row, f"{values['tokens']:.0f}", *(_with_interval(values[measure], percent) for measure in MEASURES)]
        for row, values in rows.items()
    ]
    return table(header, cells)


def kinds_table(name: str, rows: dict[str, dict]) -> str:
    """Exact match by kind of page."""
    kinds = list(next(iter(rows.values()))["by kind"])
    header = ["exact match", *kinds]
    return table(header, [[row, *(percent(values["by kind"][kind]) for kind in kinds)] for row, values in rows.items()])


def bars_table(bars: Sequence[dict]) -> str:
    """Every bar, what was measured, and the verdict."""
    cells = []
    for bar in bars:
        show = percent if bar["theirs"] is None else points
        cells.append(
            [bar["bar"], "-" if bar["measured"] is None else _with_interval(bar["measured"], show), bar["verdict"]]
        )
    return table(["bar (exact match)", "measured", "verdict"], cells)


def trainings_table(trainings: dict[str, dict]) -> str:
    """The adapters: validation loss before and after, and which step was kept."""
    cells = []
    for name, results in trainings.items():
        losses = [results[f"validation_{when}"] for when in ("before", "after")]
        shown = ["-" if loss is None else f"{loss['mean']:.4f}" for loss in losses]
        best = "-" if results["best_step"] is None else str(results["best_step"])
        cells.append([name, str(results["steps"]), *shown, best, f"{results['seconds'] / 60:.1f}"])
    return table(["adapter", "steps", "validation loss before", "after", "best step", "minutes"], cells)


def _with_interval(value: dict, show) -> str:
    return f"{show(value['mean'])} {interval(value, show)}"
