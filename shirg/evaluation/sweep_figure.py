"""The heat map of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shirg.evaluation.markdown import count, points
from shirg.evaluation.sweep import ALPHAS, BETAS, DEFAULT, grid_name
from shirg.evaluation.sweep_summary import stopped_after
from shirg.files import atomic_path
from shirg.gate import GateConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {"answer_asked": "with the question", "answer": "without a question: only beta / alpha matters"}
OUTLINE = "#D55E00"
"""Okabe and Ito's vermilion, which stands out of cividis."""
DARK, BRIGHT = "#0b0b0b", "#fcfcfc"
"""Colours of the numbers, chosen by the cell they stand in; not black and white, which a page replaces by its own."""


def heat_map(path: Path, record: dict[str, Any]) -> None:
    """Recall of the answers' patches over alpha and beta at the smallest budget, with and without the question.

    The map is cividis (Nunez et al. 2018), which colour-blind readers see alike; every cell also tells its number.

    Args:
        record: what `sweep.json` holds.
    """
    panels, counts = _panels(record), record["counts"]
    figure = _drawn(record, panels, (1.0 + 5.0 * len(panels), 4.9))
    shown = figure.axes[0].collections[0]
    bar = figure.colorbar(shown, ax=figure.axes, label="patches of the answer that are kept, %", pad=0.02)
    bar.outline.set_visible(False)
    cases = f"{count(counts['pages'], 'rendered page')}, {count(counts['questions'], 'question')}"
    figure.suptitle(f"Patches of the answer kept at K = {_budget(record)}, % ({cases})", fontsize=12)
    small = "small: paired difference to the default (outlined) in points; no word: undecided"
    stopped = any(stopped_after(entry) is not None for entry in record["results"])
    figure.supxlabel(small + ("; in brackets: stopped after so many" if stopped else ""), fontsize=9)
    with atomic_path(path) as fresh:
        figure.savefig(fresh, format="png", dpi=130, metadata={"Software": None})


def heat_panels(record: dict[str, Any]) -> list[Figure]:
    """The panels of `heat_map` one by one in the same colours, small, so that their words can be read on a narrow page."""
    return [_drawn(record, [key], (4.6, 4.2)) for key in _panels(record)]


def _budget(record: dict[str, Any]) -> int:
    return min(record["run"]["token_budgets"])


def _entries(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["setting"]: entry for entry in record["results"] if entry["budget"] == _budget(record)}


def _panels(record: dict[str, Any]) -> list[str]:
    default = _entries(record)[DEFAULT]
    return [key for key in PANELS if default[key] is not None]


def _drawn(record: dict[str, Any], panels: Sequence[str], size: tuple[float, float]) -> Figure:
    """A figure of some panels, in the colours of all; its size is in inches."""
    from matplotlib.figure import Figure

    entries = _entries(record)
    values = {key: 100 * _grid(entries, key) for key in _panels(record)}
    least, most = min(map(np.min, values.values())), max(map(np.max, values.values()))
    figure = Figure(figsize=size, layout="constrained")
    for axes, key in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        scale = {"cmap": "cividis", "vmin": least, "vmax": max(most, least + 1)}
        axes.pcolormesh(values[key], **scale, edgecolors="white", linewidth=2)
        _annotate(axes, entries, key, (least + most) / 2)
        _label(axes, PANELS[key])
    return figure


def _label(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xticks(np.arange(len(BETAS)) + 0.5, [f"{beta:g}" for beta in BETAS])
    axes.set_yticks(np.arange(len(ALPHAS)) + 0.5, [f"{alpha:g}" for alpha in ALPHAS])
    axes.invert_yaxis()
    axes.set(xlabel="beta, weight of the edges", ylabel="alpha, weight of the variance")
    axes.label_outer(remove_inner_ticks=True)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _grid(entries: dict[str, dict[str, Any]], key: str) -> np.ndarray:
    return np.array([[entries[grid_name(alpha, beta)][key]["mean"] for beta in BETAS] for alpha in ALPHAS])


def _annotate(axes: Axes, entries: dict[str, dict[str, Any]], key: str, middle: float) -> None:
    from matplotlib.patches import Rectangle

    default = GateConfig.preset("shirg-v2")
    for row, alpha in enumerate(ALPHAS):
        for column, beta in enumerate(BETAS):
            entry = entries[grid_name(alpha, beta)]
            value = entry[key]
            is_default = (alpha, beta) == (default.alpha, default.beta)
            below = "default" if is_default else _against(value["difference"], stopped_after(entry))
            colour = DARK if 100 * value["mean"] > middle else BRIGHT
            level = f"{100 * value['mean']:.1f}"
            centre = column + 0.5
            axes.text(centre, row + 0.52, level, ha="center", va="bottom", color=colour, fontsize=13, weight="bold")
            axes.text(centre, row + 0.60, below, ha="center", va="top", color=colour, fontsize=9)
            if is_default:
                corner = (column + 0.03, row + 0.04)
                axes.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, edgecolor=OUTLINE, linewidth=3))


def _against(difference: dict[str, Any], stopped: int | None) -> str:
    """ "-38.1 worse", and below it how many pages a stopped setting had."""
    verdict = difference["verdict"]
    said = points(difference["mean"]) + (f" {verdict}" if verdict in ("better", "worse") else "")
    if not difference["differing_pages"]:
        said = "the same"
    return said if stopped is None else f"{said}\n({count(stopped, 'page')})"
