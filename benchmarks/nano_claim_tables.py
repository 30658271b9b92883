"""The tables of `nano_claim.py`'s record in Markdown, and its figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from shirg.evaluation.figures import accuracy_chart, save_figure
from shirg.evaluation.markdown import count, interval, percent, table
from shirg.evaluation.results import Results
from shirg.nano.recipe.score import LARGE_PRINT, MEASURES

LARGE, SMALL = LARGE_PRINT.name, "small print"
HOW = {LARGE: "14-22 px in the 384 px view, one token a step", SMALL: "8-13 px in the 672 px view, 4.6-7.4 px at 384"}
P_VALUES = (
    "p, by Holm's method over the three primary bars: that the effect is no larger than the bar; of the third, that no selector "
    "is ahead"
)


def points(value: float) -> str:
    """A difference of shares in signed points, "+4.20"; never "-0.00"."""
    return f"{round(100 * value, 2) + 0.0:+.2f}"


def print_report(record: dict) -> None:
    """All tables."""
    print(
        f"LaViDa-nano, weights {record['settings']['weights']}: held-out pages, 95% intervals over pages and trainings"
    )
    for name, found in record["sets"].items():
        asked = f"{count(found['questions'], 'question')} about {count(found['pages'], 'page')}"
        print(f"\n{name.capitalize()} ({HOW[name]}): {asked}")
        if found["rows"]:
            print(f"\n{scores_table(name, found['rows'])}\n\n{kinds_table(name, found['rows'])}")
    print(f"\n{P_VALUES}\n\n{targets_table(record['bars'])}")
    if record["effects"]:
        print(f"\n{effects_table(record['effects'])}")
    if record["dial"]:
        print(f"\nSmall print by token budget\n\n{dial_table(record['dial'])}")
    for drawing, bands in record["heights"].items():
        if bands:
            print(f"\nExact match by height of print, 672 px, {drawing} pages\n\n{heights_table(bands)}")
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


def targets_table(bars: Sequence[dict]) -> str:
    """Every bar, what was measured, and the verdict; descriptive bars are labelled, primary ones have an adjusted p-value."""
    cells = []
    for bar in bars:
        measured = (
            "-"
            if bar["measured"] is None
            else _with_interval(bar["measured"], _two if bar["theirs"] is None else points)
        )
        if "at" in bar:
            measured = f"{bar['at']}: {measured}"
        label = {True: "primary: ", False: "descriptive: "}.get(bar.get("primary"), "")
        p_value = f", p = {bar['p']:.4f}" if bar.get("p") is not None else ""
        cells.append([label + bar["bar"], measured, bar["verdict"] + p_value])
    return table(["target (exact match)", "measured", "verdict"], cells)


def effects_table(effects: Sequence[dict]) -> str:
    """What adapters add, in points."""
    rows = [
        [one["row"], *(_with_interval(one[measure], points) for measure in MEASURES)]
        + [", ".join(points(each) for each in one["by training"])]
        for one in effects
    ]
    return table(["adapter, points added", *MEASURES, "exact match by training"], rows)


def dial_table(dial: Sequence[dict]) -> str:
    """Exact match by token budget."""
    rows = [
        [str(one["K"]), f"{one['tokens']:.0f}", _with_interval(one["without"], percent)]
        + [_with_interval(one["with"], percent), _with_interval(one["added"], points)]
        for one in dial
    ]
    return table(["K", "tokens", "without adapter", "with adapter", "points added"], rows)


def heights_table(bands: dict[str, dict]) -> str:
    """Exact match of every path by height of print."""
    names = list(next(iter(bands.values()))["rows"])
    rows = [
        [band, str(found["questions"]), *(_with_interval(found["rows"][name], percent) for name in names)]
        for band, found in bands.items()
    ]
    return table(["height", "questions", *names], rows)


def trainings_table(trainings: dict[str, dict]) -> str:
    """The adapters: validation loss before and after, and which step was kept."""
    cells = []
    for name, results in trainings.items():
        losses = [results[f"validation_{when}"] for when in ("before", "after")]
        shown = ["-" if loss is None else f"{loss['mean']:.4f}" for loss in losses]
        best = "-" if results["best_step"] is None else str(results["best_step"])
        cells.append([name, str(results["steps"]), *shown, best, f"{results['seconds'] / 60:.1f}"])
    return table(["adapter", "steps", "validation loss before", "after", "best step", "minutes"], cells)


def _two(value: float) -> str:
    """A share with two decimals, "12.34%"."""
    return f"{100 * value:.2f}%"


def _with_interval(value: dict, show: Callable[[float], str]) -> str:
    return f"{show(value['mean'])} {interval(value, show)}"


def draw(path: Path, results: Results) -> None:
    """Small print by token budget: both measures against visual tokens, with the adapter and without one."""
    (dataset,) = results.datasets
    fixed = [variant for variant in results.variants if variant.budget != "auto"]
    panels = [dataclasses.replace(dataset, metric=metric) for metric in MEASURES.values()]
    save_figure(accuracy_chart(dataclasses.replace(results, datasets=panels, variants=fixed)), path)
