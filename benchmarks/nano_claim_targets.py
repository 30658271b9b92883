"""The bars of `nano_claim.py`, and whether they are met.

A bar is met when the whole 95 % interval lies above it, not met when the whole interval lies below, else undecided; also
undecided is an end that lies within two Monte-Carlo standard errors of the bar. Intervals resample pages, and with the mixed
adapter pages and trainings. Exact match decides.

Three bars are primary: what the mixed adapter adds at both budgets, and that no selector is ahead at K = 256. Holm's method
corrects their p-values, one-sided at 2.5 %, for there being three. The hypothesis that is tested is for the first two that the
effect is no larger than the bar, and for the third that the bar holds. All other bars are descriptive and are not corrected.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nano_claim_tables import LARGE, SMALL, points

from shirg.bootstrap import LEVEL, MINIMUM_DIFFERING_PAGES, UNDECIDED, Interval, Resampled, resample
from shirg.data.render import KINDS
from shirg.evaluation.checklist import MET, NOT_MET
from shirg.evaluation.markdown import NOT_MEASURED, count, percent
from shirg.evaluation.results import Answer
from shirg.nano.recipe.score import MEASURES

ALPHA = (1 - LEVEL) / 2
OWN_GAIN = 0.03
"""Exact match that an adapter of its own must add before the mixed one is compared with it."""
LARGER_PRINT = 18
"""Pixels at 672 px; below, the selection must be ahead of `lowres`, else level with it."""
PRIMARY_BUDGET = 256
CHANCE = ("random", "uniform", "pool", "downsample")
"""Selectors that do not look at the page."""
METRIC = MEASURES["exact match"]
Rows = Mapping[str, Sequence[Sequence[Answer]]]
"""Row of a table -> the answers with each training of its adapter, one list without; all in one order of questions."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """What `ours` must reach in exact match: a score, or a difference to `theirs`, which may be negative."""

    ours: str
    theirs: str | None
    least: float
    primary: bool = False
    base: str | None = None
    """If `theirs` is not ahead of this row by `OWN_GAIN`, the bar is not applicable."""
    group: str = SMALL

    @property
    def text(self) -> str:
        """The bar in words."""
        if self.theirs is None:
            return f"{self.group}: {self.ours} at least {percent(self.least)}"
        if self.least == 0:
            return f"{self.ours} above {self.theirs}"
        lead = count(round(abs(100 * self.least)), "point")
        return f"{self.ours} " + (
            f"at least {lead} ahead of {self.theirs}" if self.least > 0 else f"at most {lead} behind {self.theirs}"
        )


def targets(low: int, high: int) -> list[Target]:
    """The bars of large and small print for two budgets."""
    first, second = f"shirg-{low}", f"shirg-{high}"
    return [
        Target(f"{first}+adapter", first, 0.05, primary=True),
        Target(f"{second}+adapter", second, 0.05, primary=True),
        Target("lowres", None, 0.80, group=LARGE),
        Target("highres+adapter", "highres", 0.0),
        Target(f"{second}+adapter", "hd", 0.05),
        Target(f"{second}+adapter", "hd+own adapter", 0.0),
        *(Target(f"{row}+adapter", f"{row}+own adapter", -0.01, base=row) for row in (first, second, "highres", "hd")),
        Target(f"{second}+adapter", "highres+adapter", -0.01),
    ]


# ---------------------------------------------------------------- statistics


def effect(rows: Rows, ours: str, theirs: str | None, metric: str = METRIC) -> Resampled:
    """The score of a row, or its paired difference to another one; trainings of equal seeds are paired, too."""
    pages = [one.image_id for one in rows[ours][0]]
    if theirs is None:
        return resample(_scores(rows[ours], metric), pages)
    return resample(_scores(rows[ours], metric) - _scores(rows[theirs], metric), pages, least=-1.0)


def _scores(answers: Sequence[Sequence[Answer]], metric: str) -> np.ndarray:
    """[trainings, questions]."""
    return np.array([[one.scores[metric] for one in training] for training in answers])


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of hypotheses (Holm 1979), in their order."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def verdict(found: Resampled, least: float, p_above: float | None = None) -> str:
    """Whether a score or difference reaches `least`.

    Where too few pages differ, only "at most so much behind" can be met, and only "at least so much ahead" missed.

    Args:
        found: from `effect`.
        least: the bar.
        p_above: an adjusted p-value; None takes the effect's own.
    """
    interval = found.interval
    if interval.low is None or interval.high is None or interval.pages < MINIMUM_DIFFERING_PAGES:
        return UNDECIDED
    enough = found.differing_pages >= MINIMUM_DIFFERING_PAGES
    p_above = found.p_above(least) if p_above is None else p_above
    if interval.low > least and p_above <= ALPHA:
        return MET if least < 0 or enough else UNDECIDED
    if interval.high < least and found.p_below(least) <= ALPHA:
        return NOT_MET if least > 0 or enough else UNDECIDED
    return UNDECIDED


def _all_of(verdicts: Sequence[str]) -> str:
    """The verdict of a bar that has several parts."""
    return NOT_MET if NOT_MET in verdicts else UNDECIDED if UNDECIDED in verdicts else MET


def _level(found: Resampled) -> str:
    """Met unless ours is behind beyond the interval."""
    if found.interval.pages < MINIMUM_DIFFERING_PAGES:
        return UNDECIDED
    return NOT_MET if verdict(found, 0.0) == NOT_MET else MET


# ---------------------------------------------------------------- bars


def judged(budgets: tuple[int, int], large: Rows, small: Rows, selectors: Json | None) -> list[Json]:
    """The bars of large and small print and of the selectors, the primary ones first.

    Args:
        budgets: the two that the bars are about.
        large, small: their rows; empty if not measured.
        selectors: the record of `nano_selectors.py`, if it is of the same weights.
    """
    rows, found = {LARGE: large, SMALL: small}, targets(*budgets)
    primary = [one for one in found if one.primary]
    own = [effect(small, one.ours, one.theirs).p_above(one.least) if small else 1.0 for one in primary]
    *adjusted, ahead = holm([*own, p_selector_ahead(selectors)])
    p_values = dict(zip(primary, adjusted, strict=True))
    bars = [judge(one, rows[one.group], p_values.get(one)) for one in found]
    others = selector_bars(selectors, ahead)
    return [*bars[: len(primary)], others[0], *bars[len(primary) :], *others[1:]]


def judge(target: Target, rows: Rows, p_above: float | None = None) -> Json:
    """A bar with what was measured."""
    about = {"ours": target.ours, "theirs": target.theirs, "least": target.least}
    if not rows:
        return bar(target.text, None, NOT_MEASURED, primary=target.primary, **about)
    found = effect(rows, target.ours, target.theirs)
    reached = verdict(found, target.least, p_above)
    if target.base and target.theirs:
        gain = effect(rows, target.theirs, target.base).interval.mean
        if gain < OWN_GAIN:
            reached = f"not applicable: its own adapter gains {points(gain)}"
    return bar(target.text, rounded(found.interval), reached, primary=target.primary, p=p_above, **about)


def bar(text: str, measured: Json | None, reached: str, *, primary: bool = False, **more: object) -> Json:
    """A bar as JSON values; `theirs` is None for a score, `at` names the part of a bar that is measured."""
    return {"bar": text, "primary": primary, "theirs": "", **more, "measured": measured, "verdict": reached}


def _others(record: Json, budget: int) -> dict[str, list]:
    """Selector -> its exact match less SHIRG's with low, high and verdict; other presets of SHIRG are left out."""
    key = "exact match minus first"
    rows = (row for row in record["results"] if row["budget"] == budget and key in row)
    return {row["selector"]: row[key] for row in rows if not row["selector"].startswith("shirg")}


def p_selector_ahead(record: Json | None) -> float:
    """P-value of the hypothesis that no selector is ahead at K = 256; 1 if none was measured.

    The record has intervals and no resamples, so a difference is taken as normal with the interval's width. The smallest p-value
    is multiplied by their number.
    """
    others = _others(record, PRIMARY_BUDGET) if record else {}
    normal = statistics.NormalDist()
    errors = {name: (one[2] - one[1]) / 2 / normal.inv_cdf(1 - ALPHA) for name, one in others.items()}
    p_values = [1 - normal.cdf(one[0] / errors[name]) for name, one in others.items()]
    return min([1.0, *(len(p_values) * p for p in p_values)])


def selector_bars(record: Json | None, p_ahead: float) -> list[Json]:
    """No selector ahead of SHIRG at K = 256, then at every other budget, and SHIRG ahead of those that do not look.

    Args:
        record: of `nano_selectors.py`.
        p_ahead: the adjusted `p_selector_ahead`.
    """
    budgets = sorted({row["budget"] for row in record["results"]}) if record else []
    found = {budget: _others(record, budget) for budget in budgets} if record else {}
    bars = []
    for budget in [PRIMARY_BUDGET, *(one for one in budgets if one != PRIMARY_BUDGET)]:
        text, primary = f"no selector ahead of shirg at K = {budget}", budget == PRIMARY_BUDGET
        if not found.get(budget):
            bars.append(bar(text, None, NOT_MEASURED, primary=primary))
            continue
        ahead = p_ahead <= ALPHA if primary else any(one[3] == "better" for one in found[budget].values())
        name, nearest = max(found[budget].items(), key=lambda item: item[1][0])
        more = {"at": name, "p": p_ahead} if primary else {"at": name}
        bars.append(bar(text, _turned(nearest), NOT_MET if ahead else MET, primary=primary, **more))
    text = f"shirg above {', '.join(CHANCE)} at every K"
    chance = {f"{name}, K = {k}": one for k in budgets for name, one in found[k].items() if name in CHANCE}
    if not chance:
        return [*bars, bar(text, None, NOT_MEASURED)]
    verdicts = [{"worse": MET, "better": NOT_MET}.get(one[3], UNDECIDED) for one in chance.values()]
    at, nearest = max(chance.items(), key=lambda item: item[1][0])
    return [*bars, bar(text, _turned(nearest), _all_of(verdicts), at=at)]


def _turned(difference: Sequence[Any]) -> Json:
    """Theirs less ours, of at least two pages, as ours less theirs."""
    mean, low, high, *_ = difference
    return {"mean": -mean, "low": -high, "high": -low}


# ---------------------------------------------------------------- rows, dial, heights


def row_of(answers: Sequence[Sequence[Answer]]) -> Json:
    """Means over trainings with intervals, and exact match by kind of page."""
    row: Json = {"tokens": statistics.fmean(one.tokens or 0 for one in answers[0])}
    for measure, metric in MEASURES.items():
        row[measure] = rounded(effect({"": answers}, "", None, metric).interval)
    kinds = {kind: [one.score for training in answers for one in training if one.kind == kind] for kind in KINDS}
    return row | {"by kind": {kind: round(statistics.fmean(marks), 4) for kind, marks in kinds.items() if marks}}


def effects_of(rows: Rows) -> list[Json]:
    """What the mixed adapter and the paths' own ones add, by both measures, and by training in exact match."""
    found = []
    for name in rows:
        base = name.partition("+")[0]
        if name == base:
            continue
        each = (_scores(rows[name], METRIC) - _scores(rows[base], METRIC)).mean(axis=1)
        measured = {measure: rounded(effect(rows, name, base, metric).interval) for measure, metric in MEASURES.items()}
        found.append({"row": name, **measured, "by training": [round(float(one), 5) for one in each]})
    return found


def dial_of(rows: Rows, budgets: Sequence[int | str]) -> tuple[list[Json], Json]:
    """Exact match by budget without and with the adapter, and the bar: with it, no budget is behind the one before it.

    Args:
        rows: "shirg-K" and "shirg-K+adapter"; empty if not measured.
        budgets: from small to large; "auto", which is none of this order, at the end.
    """
    text = "shirg+adapter never falling with K beyond its interval"
    if not rows:
        return [], bar(text, None, NOT_MEASURED)
    table = []
    for budget in budgets:
        without, trained = (row_of(rows[f"shirg-{budget}{end}"]) for end in ("", "+adapter"))
        entry = {"K": budget, "tokens": without["tokens"], "without": without["exact match"]}
        added = effect(rows, f"shirg-{budget}+adapter", f"shirg-{budget}").interval
        table.append({**entry, "with": trained["exact match"], "added": rounded(added)})
    fixed = [budget for budget in budgets if budget != "auto"]
    steps = {
        f"{low} to {high}": effect(rows, f"shirg-{high}+adapter", f"shirg-{low}+adapter")
        for low, high in zip(fixed, fixed[1:], strict=False)
    }
    return table, _worst(text, steps, {at: _level(one) for at, one in steps.items()})


def heights_of(drawing: str, rows: Rows, ours: str) -> tuple[Json, Json]:
    """Exact match by height of print, and the bar: `ours` with the adapter against `lowres`.

    Args:
        drawing: "rendered" or "plain".
        rows: the paths without and with the adapter; the answers' `kind` is "plain, 8-13 px". Empty if not measured.
        ours: the path that is compared, such as "shirg-768".
    """
    text = f"{drawing} pages: {ours}+adapter above lowres below {LARGER_PRINT} px, else level"
    if not rows:
        return {}, bar(text, None, NOT_MEASURED)
    table, leads, verdicts = {}, {}, {}
    for kind in dict.fromkeys(one.kind for one in rows["lowres"][0] if one.kind.startswith(drawing)):
        inside = {name: [[one for one in each if one.kind == kind] for each in of] for name, of in rows.items()}
        band = kind.removeprefix(f"{drawing}, ")
        table[band] = {
            "questions": len(inside["lowres"][0]),
            "rows": {name: rounded(effect(inside, name, None).interval) for name in inside},
        }
        leads[band] = effect(inside, f"{ours}+adapter", "lowres")
        small = int(band.split("-")[0]) < LARGER_PRINT
        verdicts[band] = verdict(leads[band], 0.0) if small else _level(leads[band])
    return table, _worst(text, leads, verdicts)


def _worst(text: str, parts: Mapping[str, Resampled], verdicts: Mapping[str, str]) -> Json:
    """The bar of several parts; what is shown is the smallest difference among those that decide."""
    reached = _all_of(list(verdicts.values()))
    at = min((at for at in parts if verdicts[at] == reached), key=lambda at: parts[at].interval.mean)
    return bar(text, rounded(parts[at].interval), reached, at=at)


def rounded(found: Interval) -> Json:
    """An interval as JSON values."""
    ends = {"mean": found.mean, "low": found.low, "high": found.high}
    return {name: None if value is None else round(value, 5) for name, value in ends.items()}
