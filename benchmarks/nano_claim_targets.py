"""The targets of `nano_claim.py`, whether they are met, and its tables.

A target is met when the whole 95 % interval lies above it, not met when the whole interval lies below, else undecided. Intervals
resample pages, given the weights and one training of each adapter; the variation between training seeds is not in them.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shirg.bootstrap import MINIMUM_DIFFERING_PAGES, UNDECIDED, Interval, compare, mean_interval
from shirg.data.render import KINDS
from shirg.evaluation.checklist import MET, NOT_MET
from shirg.evaluation.markdown import NOT_MEASURED, count, interval, percent, points, table
from shirg.evaluation.results import Answer
from shirg.nano.recipe.score import LARGE_PRINT, MEASURES

LARGE, SMALL = LARGE_PRINT.name, "small print"
HOW = {LARGE: "14-22 px in the 384 px view, lowres", SMALL: "8-13 px in the 672 px view, 4.6-7.4 px at 384"}
Rows = Mapping[str, Sequence[Answer]]
"""Row of a table -> its answers, in one order of questions for all rows."""
SEED = 0
"""Of the resampling."""


@dataclass(frozen=True)
class Target:
    """What `ours` must reach in exact match: a score, or a difference to `theirs`, which may be negative."""

    group: str
    ours: str
    theirs: str | None
    least: float

    @property
    def text(self) -> str:
        """The target in words."""
        if self.theirs is None:
            return f"{self.group}: {self.ours} page at least {percent(self.least)}"
        if self.least == 0:
            return f"{self.ours} above {self.theirs}"
        lead = count(round(abs(100 * self.least)), "point")
        return f"{self.ours} " + (
            f"at least {lead} ahead of {self.theirs}" if self.least > 0 else f"at most {lead} behind {self.theirs}"
        )


TARGETS = (
    Target(LARGE, "right", None, 0.80),
    Target(SMALL, "highres+adapter", "lowres", 0.25),
    Target(SMALL, "shirg-768+adapter", "highres+adapter", -0.01),
    Target(SMALL, "shirg-512+adapter", "highres+adapter", -0.04),
    Target(SMALL, "shirg-768+adapter", "lowres", 0.10),
    Target(SMALL, "shirg-768+adapter", "lowres+adapter", 0.10),
    Target(SMALL, "shirg-768+adapter", "hd", 0.0),
    Target(SMALL, "shirg-768+adapter", "hd+adapter", 0.0),
    Target(SMALL, "shirg-512+adapter", "shirg-512+own adapter", -0.01),
    Target(SMALL, "shirg-768+adapter", "shirg-768+own adapter", -0.01),
    Target(SMALL, "highres+adapter", "highres+own adapter", -0.01),
)


def verdict(found: Interval, least: float, differing_pages: int) -> str:
    """Whether an interval reaches `least`; undecided if fewer than `MINIMUM_DIFFERING_PAGES` pages differ."""
    if found.low is None or found.high is None or found.pages < MINIMUM_DIFFERING_PAGES:
        return UNDECIDED
    if found.low > least:
        return MET if least < 0 or differing_pages >= MINIMUM_DIFFERING_PAGES else UNDECIDED
    if found.high < least:
        return NOT_MET if least > 0 or differing_pages >= MINIMUM_DIFFERING_PAGES else UNDECIDED
    return UNDECIDED


# ---------------------------------------------------------------- numbers


def row_of(answers: Sequence[Answer]) -> dict:
    """Means with intervals, and exact match by kind of page."""
    row: dict = {"tokens": statistics.fmean(one.tokens or 0 for one in answers)}
    pages = [one.image_id for one in answers]
    for measure, metric in MEASURES.items():
        row[measure] = rounded(mean_interval([one.scores[metric] for one in answers], pages, seed=SEED))
    kinds = {kind: [one.score for one in answers if one.kind == kind] for kind in KINDS}
    return row | {"by kind": {kind: round(statistics.fmean(marks), 4) for kind, marks in kinds.items() if marks}}


def judge(target: Target, rows: Rows) -> dict:
    """A target with what was measured; differences are paired."""
    about = {"bar": target.text, "ours": target.ours, "theirs": target.theirs, "least": target.least}
    if not rows:
        return about | {"measured": None, "verdict": NOT_MEASURED}
    ours, pages = [one.score for one in rows[target.ours]], [one.image_id for one in rows[target.ours]]
    if target.theirs is None:
        found = mean_interval(ours, pages, seed=SEED)
        differing = found.pages
    else:
        compared = compare(ours, [one.score for one in rows[target.theirs]], pages, seed=SEED)
        found, differing = compared.interval, compared.differing_pages
    return about | {"measured": rounded(found), "verdict": verdict(found, target.least, differing)}


def rounded(found: Interval) -> dict:
    """An interval as plain values."""
    ends = {"mean": found.mean, "low": found.low, "high": found.high}
    return {name: None if value is None else round(value, 5) for name, value in ends.items()}


def record_of(sets: Mapping[str, Sequence[tuple[float, Rows]]], run: dict, trainings: dict[str, dict]) -> dict:
    """Everything that was measured, as JSON values.

    Args:
        sets: set -> seconds and rows of each evaluation of it.
        run: settings and environment.
        trainings: adapter -> the results of its training.
    """
    record: dict = {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **run, "sets": {}}
    whole = {name: {row: of for _, rows in found for row, of in rows.items()} for name, found in sets.items()}
    for name, rows in whole.items():
        answers = next(iter(rows.values()), [])
        record["sets"][name] = {
            "pages": len({one.image_id for one in answers}),
            "questions": len(answers),
            "seconds": round(sum(seconds for seconds, _ in sets[name]), 1),
            "rows": {row: row_of(of) for row, of in rows.items()},
        }
    record["bars"] = [judge(target, whole[target.group]) for target in TARGETS]
    return record | {"trainings": {name: _training(results) for name, results in trainings.items()}}


def _training(results: dict) -> dict:
    kept = ("steps", "steps_per_ratio", "seconds", "validation_before", "validation_after", "best_step")
    return {name: results[name] for name in kept}


# ---------------------------------------------------------------- tables


def print_report(record: dict) -> None:
    """All tables, in Markdown."""
    print(f"LaViDa-nano, weights {record['settings']['weights']}: held-out rendered pages, 95% intervals over pages")
    for name, found in record["sets"].items():
        asked = f"{count(found['questions'], 'question')} about {count(found['pages'], 'page')}"
        print(f"\n{name.capitalize()} ({HOW[name]}): {asked}")
        if found["rows"]:
            print(f"\n{scores_table(name, found['rows'])}\n\n{kinds_table(name, found['rows'])}")
    print(f"\n{targets_table(record['bars'])}")
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


def targets_table(targets: Sequence[dict]) -> str:
    """Every target, what was measured, and the verdict."""
    cells = []
    for target in targets:
        show = percent if target["theirs"] is None else points
        measured = "-" if target["measured"] is None else _with_interval(target["measured"], show)
        cells.append([target["bar"], measured, target["verdict"]])
    return table(["target (exact match)", "measured", "verdict"], cells)


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
