"""The charts of a run, in the colour-blind safe palette of Okabe and Ito; markers differ as well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shirg.evaluation.markdown import count, milliseconds
from shirg.evaluation.results import Cost, DatasetInfo, Efficiency, Results, Score
from shirg.evaluation.tasks import METRIC_TITLES
from shirg.evaluation.variants import BASELINES, SELECTING_MODES, Variant
from shirg.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLES = {
    "lowres": ("#E69F00", "v"),
    "hd": ("#D55E00", "s"),
    "highres": ("#CC79A7", "D"),
    "shirg": ("#0072B2", "o"),
    "early": ("#332288", "*"),
    "multiview": ("#009E73", "^"),
    "hd-flat": ("#56B4E9", "P"),
    "multiview-all": ("#000000", "X"),
}
"""Vision path -> colour and marker."""
OTHER_COLOUR = "0.6"
OTHER_MARKERS = ("1", "2", "3", "4", "+", "x", "<", ">", "p", "h", "*")
"""Of other selectors."""
STAGES = {
    "tower": "#0072B2",
    "selection": "#D55E00",
    "pooling and projector": "#E69F00",
    "prefill": "#009E73",
    "denoising": "#56B4E9",
}
"""Stages of an answer, in their order, and their colours."""

ACCURACY = "accuracy_against_tokens.png"


def charts(results: Results) -> dict[str, Figure]:
    """The charts of a report by their file names."""
    found = {}
    if any(dataset.questions for dataset in results.datasets):
        found[ACCURACY] = accuracy_chart(results)
    if results.efficiency:
        found["latency.png"] = latency_chart(results.efficiency)
        found["kv_cache.png"] = kv_chart(results.efficiency)
    return found


def loss_figure(path: Path, steps: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]] = ()) -> None:
    """Training loss of every optimizer step, coloured by mixture component, with a running mean.

    Args:
        steps: `step`, `loss` and `budget` (or "pooled") of every optimizer step; steps without a loss are left out.
        validations: `step` and `mean` (over the components) of every validation.
    """
    figure = _figure(7.6, 4.4)
    axes = figure.add_subplot()
    steps = [step for step in steps if step["loss"] is not None]
    steps = [{**step, "budget": step.get("component", step["budget"])} for step in steps]
    components = sorted({str(step["budget"]) for step in steps}, key=lambda name: (not name.isdigit(), name.zfill(6)))
    for number, name in enumerate(components):
        own = [step for step in steps if str(step["budget"]) == name]
        axes.scatter(
            [step["step"] for step in own],
            [step["loss"] for step in own],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            s=22,
            alpha=0.75,
            linewidths=0,
            label={"pooled": "pooled (hd)"}.get(name, name if name.startswith("early") else f"K = {name}"),
        )
    losses = np.array([step["loss"] for step in steps])
    window = max(1, min(len(losses) // 5, 50))
    if window > 1:
        means = np.convolve(losses, np.ones(window) / window, mode="valid")
        axes.plot(
            [step["step"] for step in steps][window // 2 :][: len(means)],
            means,
            color="0.35",
            label=f"mean of {window} steps",
        )
    if validations:
        axes.plot(
            [entry["step"] for entry in validations],
            [entry["mean"] for entry in validations],
            color="black",
            marker="*",
            markersize=10,
            linestyle="--",
            label="validation, mean of components",
        )
    axes.set(xlabel="optimizer step", ylabel="loss (mean cross-entropy of a target)")
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _plain(axes)
    save_figure(figure, path)


def accuracy_chart(results: Results) -> Figure:
    """Score against visual tokens with 95% intervals, one panel for each data set; filled: with an adapter."""
    datasets = [dataset for dataset in results.datasets if dataset.questions]
    columns = min(len(datasets), 3)
    rows = -(-len(datasets) // columns)
    figure = _figure(0.6 + 4.4 * columns + 1.6, 4.4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"hspace": 0.4}).flatten()
    for axes in panels[len(datasets) :]:
        axes.set_axis_off()
    for axes, dataset in zip(panels, datasets, strict=False):
        _score_panel(axes, results, dataset)
    panels[columns - 1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def accuracy_panels(results: Results) -> list[Figure]:
    """The panels one by one, with the legend below."""
    found = []
    for dataset in (dataset for dataset in results.datasets if dataset.questions):
        found.append(_figure(5.6, 4.4))
        axes = found[-1].add_subplot()
        _score_panel(axes, results, dataset)
        axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return found


def _score_panel(axes: Axes, results: Results, dataset: DatasetInfo) -> None:
    tokens = results.visual_tokens(dataset.name)
    series: dict[tuple[str, str | None], list[Variant]] = {}
    for variant in sorted(results.variants, key=lambda one: results.config.modes.index(one.mode)):
        series.setdefault((variant.mode, variant.adapter), []).append(variant)
    for (mode, adapter), variants in series.items():
        name = "without adapter" if adapter is None else f"with {adapter}"
        label = f"{mode}, {name}" if results.adapters else mode
        points = [(tokens[one.name].mean, results.score(dataset.name, one.name, dataset.metric)) for one in variants]
        shift = (6 if adapter else -6) if results.adapters else 0  # side by side, not on top of each other
        _score_series(axes, variants[0], points, label, shift)
    title = f"{dataset.name} ({count(dataset.questions, 'question')}, {count(dataset.pages, 'page')})"
    axes.set(xlabel="visual tokens in the prompt", title=title, ylabel=f"{METRIC_TITLES[dataset.metric]}, %")
    axes.set_ylim(0, max(axes.get_ylim()[1], 5))
    _plain(axes)


def _score_series(
    axes: Axes, variant: Variant, points: Sequence[tuple[float, Score]], label: str, shift: float
) -> None:
    points = sorted(points, key=lambda point: point[0])
    x = np.array([tokens for tokens, _ in points]) + shift
    y = 100 * np.array([entry.score for _, entry in points])
    low = [100 * (entry.score if entry.low is None else entry.low) for _, entry in points]
    high = [100 * (entry.score if entry.high is None else entry.high) for _, entry in points]
    other, selects = variant.mode in BASELINES, variant.mode in SELECTING_MODES
    marker = OTHER_MARKERS[BASELINES.index(variant.mode) % len(OTHER_MARKERS)] if other else ""
    colour, marker = STYLES.get(variant.mode, (OTHER_COLOUR, marker))
    axes.errorbar(
        x,
        y,
        yerr=None if other else np.maximum([y - low, high - y], 0),  # theirs are in the table
        zorder=2 if other else 3,
        color=colour,
        marker=marker,
        markerfacecolor=colour if variant.adapter else "white",
        linestyle="-" if selects and variant.adapter else ":" if selects else "none",
        capsize=3,
        clip_on=False,  # a score of zero is on the edge
        elinewidth=1,
        label=label,
    )


def stage_times(row: Cost) -> dict[str, float]:
    """Milliseconds of every stage; denoising is the step's time times the steps."""
    selection = row.selection_ms or 0.0
    rest = max(row.embedding_ms - selection, 0.0)
    times = (row.tower_ms, selection, rest, row.prefill_ms, row.steps * row.step_ms)
    return dict(zip(STAGES, times, strict=True))


def latency_chart(efficiency: Efficiency) -> Figure:
    """Time of an answer stage by stage, one bar for each vision path; a tick marks the whole answer as it was timed."""
    rows = efficiency.rows
    figure = _figure(7.2, 1.5 + 0.42 * len(rows))
    axes = figure.add_subplot()
    names = [row.variant.name for row in rows]
    left = np.zeros(len(rows))
    for stage, colour in STAGES.items():
        width = np.array([stage_times(row)[stage] for row in rows])
        axes.barh(names, width, left=left, color=colour, label=stage)
        left += width
    whole = [row.total_ms for row in rows]
    axes.scatter(whole, names, marker="|", s=160, color="black", label="whole answer, timed", zorder=3)
    for place, row in enumerate(rows):
        _label(axes, max(left[place], row.total_ms), place, f"{milliseconds(row.total_ms)} ms")
    axes.set_xlim(0, 1.18 * max(*left, *whole))
    axes.set_xlabel("ms, median, one page, one question")
    axes.legend(
        frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.6 / (0.5 + 0.42 * len(rows))), ncols=3
    )
    _bars(axes)
    return figure


def kv_chart(efficiency: Efficiency) -> Figure:
    """Bytes of the KV cache of the prefix by vision path; the prompt's text has its own colour."""
    rows = [row for row in efficiency.rows if row.variant.mode not in BASELINES]  # their caches are those of `shirg`
    figure = _figure(7.2, 1.2 + 0.5 * len(rows))
    axes = figure.add_subplot()
    names = [row.variant.name for row in rows]
    image = [row.kv_image_bytes / 1e6 for row in rows]
    prompt = [(row.kv_bytes - row.kv_image_bytes) / 1e6 for row in rows]
    axes.barh(names, image, color=[STYLES[row.variant.mode][0] for row in rows])
    axes.barh(names, prompt, left=image, color="0.75", label="prompt text")
    for place, row in enumerate(rows):
        _label(axes, row.kv_bytes / 1e6, place, f"{row.tokens} tokens")
    axes.set_xlim(right=1.22 * max([row.kv_bytes for row in rows], default=1) / 1e6)
    axes.set_xlabel("keys and values of the prefix, MB (coloured: the page; grey: the prompt's text)")
    _bars(axes)
    return figure


def _label(axes: Axes, x: float, y: float, text: str) -> None:
    """Text at a bar's end."""
    axes.annotate(text, (x, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)


def _figure(width: float, height: float) -> Figure:
    """A figure outside pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="none")  # type: ignore[arg-type]  # the stub leaves "none" out


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def _bars(axes: Axes) -> None:
    """Horizontal bars, the first one on top."""
    axes.invert_yaxis()
    _plain(axes)
    axes.grid(False, axis="y")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, complete or not at all; the same figure gives the same bytes."""
    with atomic_path(path) as fresh:
        figure.savefig(fresh, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})
