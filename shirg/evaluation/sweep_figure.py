"""The heat map of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shirg.evaluation.markdown import count, points
from shirg.evaluation.sweep import ALPHAS, BETAS, DEFAULT, grid_name
from shirg.evaluation.sweep_summary import stopped_after
from shirg.files import atomic_path
from shirg.gate import GateConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {"answer_asked": "with the question", "answer": "without a question: only beta / alpha matters"}
OUTLINE = "#D55E00"
"""Okabe and Ito's vermilion, which stands out of cividis."""


def heat_map(path: Path, record: dict) -> None:
    """Recall of the answers' patches over alpha and beta at the smallest budget, with and without the question.

    The map is cividis (Nunez et al. 2018), which colour-blind readers see alike; every cell also tells its number.

    Args:
        record: what `sweep.json` holds.
    """
    from matplotlib.figure import Figure

    budget, counts = min(record["run"]["token_budgets"]), record["counts"]
    entries = {entry["setting"]: entry for entry in record["results"] if entry["budget"] == budget}
    panels = {key: title for key, title in PANELS.items() if entries[DEFAULT][key] is not None}
    values = {key: 100 * _grid(entries, key) for key in panels}
    least, most = min(map(np.min, values.values())), max(map(np.max, values.values()))
    figure = Figure(figsize=(1.0 + 5.0 * len(panels), 4.9), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        shown = axes.imshow(values[key], cmap="cividis", vmin=least, vmax=max(most, least + 1), aspect="auto")
        _annotate(axes, entries, key, (least + most) / 2)
        _label(axes, title)
    bar = figure.colorbar(shown, ax=figure.axes, label="patches of the answer that are kept, %", pad=0.02)
    bar.outline.set_visible(False)
    cases = f"{count(counts['pages'], 'rendered page')}, {count(counts['questions'], 'question')}"
    figure.suptitle(f"Patches of the answer kept at K = {budget}, % ({cases})", fontsize=12)
    figure.supxlabel(
        "small: paired difference to the default (outlined) in points; no word: not distinguishable", fontsize=9
    )
    with atomic_path(path) as fresh:
        figure.savefig(fresh, format="png", dpi=130, metadata={"Software": None})


def _label(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xticks(range(len(BETAS)), [f"{beta:g}" for beta in BETAS])
    axes.set_yticks(range(len(ALPHAS)), [f"{alpha:g}" for alpha in ALPHAS])
    axes.set(xlabel="beta, weight of the edges", ylabel="alpha, weight of the variance")
    axes.label_outer(remove_inner_ticks=True)
    axes.set_xticks(np.arange(1, len(BETAS)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(ALPHAS)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _grid(entries: dict[str, dict], key: str) -> np.ndarray:
    return np.array([[entries[grid_name(alpha, beta)][key]["mean"] for beta in BETAS] for alpha in ALPHAS])


def _annotate(axes: Axes, entries: dict[str, dict], key: str, middle: float) -> None:
    from matplotlib.patches import Rectangle

    default = GateConfig()
    for row, alpha in enumerate(ALPHAS):
        for column, beta in enumerate(BETAS):
            entry = entries[grid_name(alpha, beta)]
            value = entry[key]
            is_default = (alpha, beta) == (default.alpha, default.beta)
            below = "default" if is_default else _against(value["difference"], stopped_after(entry))
            place = {"ha": "center", "color": "black" if 100 * value["mean"] > middle else "white"}
            axes.text(
                column, row + 0.02, f"{100 * value['mean']:.1f}", va="bottom", fontsize=13, weight="bold", **place
            )
            axes.text(column, row + 0.10, below, va="top", fontsize=9, **place)
            if is_default:
                frame = {"fill": False, "edgecolor": OUTLINE, "linewidth": 3}
                axes.add_patch(Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, **frame))


def _against(difference: dict, stopped: int | None) -> str:
    """ "-38.1 worse", and below it how many pages a stopped setting had."""
    verdict = difference["verdict"]
    said = points(difference["mean"]) + ("" if verdict == "not distinguishable" else f" {verdict}")
    if not difference["differing_pages"]:
        said = "the same"
    return said if stopped is None else f"{said}\nafter {count(stopped, 'page')}"
