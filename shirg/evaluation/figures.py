"""The pictures of a run. Colours are Okabe and Ito's, which stay apart for colour-blind readers; markers differ as
well."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from shirg.evaluation.markdown import count
from shirg.evaluation.tasks import METRIC_TITLES
from shirg.evaluation.variants import BUDGETED_MODES
from shirg.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from shirg.gate import Kept

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MODE_COLOURS = {
    "lowres": "#E69F00",
    "hd": "#D55E00",
    "highres": "#CC79A7",
    "shirg": "#0072B2",
    "multiview": "#009E73",
}
MODE_MARKERS = {"lowres": "v", "hd": "s", "highres": "D", "shirg": "o", "multiview": "^"}

OUTLINE = (230, 159, 0)
DIMMED = (0.50, 0.52, 0.60)
"""What is left of a dropped patch's red, green and blue: darker and colder than kept on every ground, its text still there."""


def draw_kept(image: Image.Image, kept: Kept, grid: tuple[int, int], *, side: int = 1152, outlines: bool = True):
    """The page as the tower sees it, stretched to a square, kept patches bright, dropped ones dimmed.

    Args:
        image: the page as the tower sees it, or one that is stretched to a square as it does.
        kept: the gate's result for this page; its first row is drawn.
        grid: rows and columns of patches, `kept.scores.shape[1]` in all.
        side: least side of the picture in pixels; it is rounded up so that every patch has the same size.
        outlines: draw the borders of the clusters.

    Returns:
        An RGB image.
    """
    rows, columns = grid
    patch = -(-side // max(rows, columns))
    page = np.asarray(image.convert("RGB").resize((columns * patch, rows * patch), Image.Resampling.LANCZOS))
    bright = (kept.assignment[0] >= 0).cpu().numpy()
    dropped = ~_enlarged(bright.reshape(grid), patch)[..., None]
    faded = page * np.array(DIMMED)
    picture = np.where(dropped, faded, page).astype(np.uint8)
    if outlines:
        picture[_borders(_enlarged(kept.clusters[0].cpu().numpy().reshape(grid), patch))] = OUTLINE
    return Image.fromarray(picture)


def kept_page_figure(
    path: Path,
    image: Image.Image,
    kept: Kept,
    grid: tuple[int, int],
    *,
    question: str = "",
    answer: str = "",
    truth: str = "",
) -> None:
    """Save `draw_kept` with how much was kept above it and the question, the model's answer and the truth below."""
    total, chosen = kept.scores.shape[1], int(kept.assignment[0].max()) + 1
    lines = [("question", question), ("answer", answer), ("truth", truth)]
    caption = [_wrapped(f"{name}: {text}") for name, text in lines if text]
    height = 7.6 + 0.22 * sum(text.count("\n") + 1 for text in caption)
    figure = _figure(7.2, height)
    axes = figure.add_axes((0.02, 1 - 7.4 / height, 0.96, 6.9 / height))
    axes.imshow(draw_kept(image, kept, grid), interpolation="nearest")
    axes.set_axis_off()
    clusters = kept.clusters[0].unique().numel()
    axes.set_title(
        f"{chosen} of {total} patches kept ({chosen / total:.0%}); orange: borders of {clusters} clusters", fontsize=11
    )
    figure.text(0.03, 1 - 7.5 / height, "\n".join(caption), va="top", fontsize=10, parse_math=False, linespacing=1.4)
    _save(figure, path)


def loss_figure(path: Path, steps: Sequence[dict], validations: Sequence[dict] = ()) -> None:
    """Training loss of every optimizer step, coloured by the ratio it trained, with a running mean.

    Args:
        steps: `step`, `loss` and `budget` (or "pooled") of every optimizer step; steps without a loss are left out.
        validations: `step` and `mean` (over the ratios) of every validation.
    """
    figure = _figure(7.6, 4.4)
    axes = figure.add_subplot()
    steps = [step for step in steps if step["loss"] is not None]
    ratios = sorted({str(step["budget"]) for step in steps}, key=lambda name: (not name.isdigit(), name.zfill(6)))
    for number, ratio in enumerate(ratios):
        own = [step for step in steps if str(step["budget"]) == ratio]
        axes.scatter(
            [step["step"] for step in own],
            [step["loss"] for step in own],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            s=22,
            alpha=0.75,
            linewidths=0,
            label=f"K = {ratio}" if ratio.isdigit() else "pooled (hd)",
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
            label="validation, mean of ratios",
        )
    axes.set(xlabel="optimizer step", ylabel="loss (mean cross-entropy of a target)")
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _plain(axes)
    _save(figure, path)


def accuracy_figure(path: Path, results: dict) -> None:
    """Score against visual tokens with 95% intervals, one panel for each data set; filled: with the adapter."""
    datasets = [dataset for dataset in results["datasets"] if dataset["questions"]]
    tokens = visual_tokens(results)
    columns = min(len(datasets), 3)
    rows = -(-len(datasets) // columns)
    figure = _figure(0.6 + 4.4 * columns + 1.6, 4.4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"hspace": 0.4}).flatten()
    for axes in panels[len(datasets) :]:
        axes.set_axis_off()
    for axes, dataset in zip(panels, datasets, strict=False):
        of_dataset = {
            entry["variant"]: entry
            for entry in results["scores"]
            if (entry["dataset"], entry["metric"]) == (dataset["name"], dataset["metric"])
        }
        for mode in results["config"]["modes"]:
            for adapter in (False, True):
                run = [v for v in results["variants"] if (v["mode"], v["adapter"]) == (mode, adapter)]
                if run:
                    _score_series(axes, mode, adapter, [(tokens[v["variant"]], of_dataset[v["variant"]]) for v in run])
        title = f"{dataset['name']} ({count(dataset['questions'], 'question')}, {count(dataset['pages'], 'page')})"
        axes.set(xlabel="visual tokens in the prompt", title=title, ylabel=f"{METRIC_TITLES[dataset['metric']]}, %")
        axes.set_ylim(0, max(axes.get_ylim()[1], 5))
        _plain(axes)
    panels[columns - 1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _save(figure, path)


def visual_tokens(results: dict) -> dict[str, float]:
    """Mean number of visual tokens of every variant over the questions of the run."""
    return {entry["variant"]: entry["mean"] for entry in results["tokens"]}


def kv_figure(path: Path, efficiency: dict) -> None:
    """Bytes of the prefix cache by vision path, prompt and picture apart."""
    rows = efficiency["rows"]
    figure = _figure(7.2, 1.2 + 0.5 * len(rows))
    axes = figure.add_subplot()
    names = [row["variant"] for row in rows]
    image = [row["kv_image_bytes"] / 1e6 for row in rows]
    prompt = [(row["kv_bytes"] - row["kv_image_bytes"]) / 1e6 for row in rows]
    axes.barh(names, image, color=[MODE_COLOURS[row["mode"]] for row in rows])
    axes.barh(names, prompt, left=image, color="0.75", label="prompt text")
    for place, row in enumerate(rows):
        axes.text(row["kv_bytes"] / 1e6, place, f" {row['tokens']} tokens", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(right=1.22 * max(row["kv_bytes"] for row in rows) / 1e6)
    axes.set_xlabel("keys and values of the prefix, MB (coloured: the page; grey: the prompt's text)")
    _plain(axes)
    axes.grid(False, axis="y")
    _save(figure, path)


def _score_series(axes: Axes, mode: str, adapter: bool, points: Sequence[tuple[float, dict]]) -> None:
    points = sorted(points, key=lambda point: point[0])
    x = np.array([tokens for tokens, _ in points]) + (6 if adapter else -6)  # side by side, not on top of each other
    y = 100 * np.array([entry["score"] for _, entry in points])
    low = [100 * (entry["score"] if entry["low"] is None else entry["low"]) for _, entry in points]
    high = [100 * (entry["score"] if entry["high"] is None else entry["high"]) for _, entry in points]
    axes.errorbar(
        x,
        y,
        yerr=np.maximum([y - low, high - y], 0),
        color=MODE_COLOURS[mode],
        marker=MODE_MARKERS[mode],
        markerfacecolor=MODE_COLOURS[mode] if adapter else "white",
        linestyle="-" if mode in BUDGETED_MODES and adapter else ":" if mode in BUDGETED_MODES else "none",
        capsize=3,
        clip_on=False,  # a score of zero lies on the edge
        elinewidth=1,
        label=f"{mode}, {'with' if adapter else 'without'} adapter",
    )


def _wrapped(text: str, width: int = 92, limit: int = 400) -> str:
    line = " ".join(text.split())
    return "\n".join(textwrap.wrap(line if len(line) <= limit else line[: limit - 3] + "...", width))


def _enlarged(cells: np.ndarray, patch: int) -> np.ndarray:
    return cells.repeat(patch, axis=0).repeat(patch, axis=1)


def _borders(clusters: np.ndarray) -> np.ndarray:
    """True on the pixel before every change of cluster, to the right and downwards."""
    border = np.zeros(clusters.shape, dtype=bool)
    border[:, :-1] |= clusters[:, :-1] != clusters[:, 1:]
    border[:-1] |= clusters[:-1] != clusters[1:]
    return border


def _figure(width: float, height: float) -> Figure:
    """A figure of its own, outside pyplot's global state; saving it as PNG uses Agg, whatever the display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="none")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as fresh, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # questions come in every script
        figure.savefig(fresh, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})
