"""The figure of docs/method.md: one page on its way through the gate.   python scripts/method_figure.py [FILE]"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shirg import GateConfig, Lavida
from shirg.data.render import render_page
from shirg.files import atomic_path
from shirg.gate.terms import pixel_edges, relevance_term, squashed_z, variance_term

KIND, SEED, TEXT_PX, BUDGET = "receipt", 11, (14, 20), 512
LABEL = "Total"
SIDE = 48
"""Patches on a side."""


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/method.png")
    page = render_page(KIND, seed=SEED, text_px=TEXT_PX, split="heldout").image
    question = f"What is the {LABEL}?"
    model = Lavida.from_pretrained("nano")
    model.vision = replace(model.vision, gate=GateConfig.preset("shirg-v2"))
    features = model.image_features(page, "shirg")
    ids = model.question_ids(model.prompt_ids(question))
    kept = model.select(features, BUDGET, ids)

    tokens = features.tokens.float()  # [1, 2304, 128]
    cosine = model.relevance(features, ids)
    assert cosine is not None and kept.indices is not None
    maps = {
        "1. page, 48 x 48 patches": None,
        "3a. variance of the token": variance_term(tokens.mean(-1), tokens.square().mean(-1)),
        f'3b. likeness to "{LABEL}"': relevance_term(cosine),
        "3c. edges in the patch": squashed_z(pixel_edges(features.pixels[None], SIDE, SIDE)).clamp_min(0),
        "3. score, and 2. clusters": kept.scores,
        f"4. and 5.: {BUDGET} kept, one for the rest": torch.zeros(1, SIDE**2).scatter_(1, kept.indices, 1.0),
    }
    figure = draw(np.asarray(page.convert("RGB")) / 255, maps, kept.clusters[0].view(SIDE, SIDE).numpy())
    with atomic_path(target) as fresh:
        figure.savefig(fresh, format="png")


def draw(page: np.ndarray, maps: dict[str, torch.Tensor | None], clusters: np.ndarray) -> Figure:
    """Six panels: the page, the terms, the score with the clusters' borders, what is kept."""
    figure = Figure(figsize=(12, 8.5), dpi=110, layout="constrained", facecolor="white")
    for number, (title, values) in enumerate(maps.items()):
        axes = figure.add_subplot(2, 3, number + 1)
        axes.set_title(title, fontsize=13, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
        box = (0, SIDE, SIDE, 0)
        if values is None:
            axes.imshow(page, extent=box)
        elif number == len(maps) - 1:
            bright = np.kron(values.view(SIDE, SIDE).numpy(), np.ones((14, 14)))[..., None]
            axes.imshow(np.where(bright > 0, page, 0.3 * page + 0.25), extent=box)
        else:
            axes.imshow(values.view(SIDE, SIDE).numpy(), cmap="viridis", extent=box, vmin=0)
        if title.endswith("clusters"):
            borders(axes, clusters)
    return figure


def borders(axes: Axes, clusters: np.ndarray) -> None:
    """A line wherever two neighbours belong to different clusters."""
    for row, column in np.argwhere(clusters[:, 1:] != clusters[:, :-1]):
        axes.plot([column + 1] * 2, [row, row + 1], color="white", linewidth=0.6)
    for row, column in np.argwhere(clusters[1:] != clusters[:-1]):
        axes.plot([column, column + 1], [row + 1] * 2, color="white", linewidth=0.6)


if __name__ == "__main__":
    main()
