"""Pictures: what they show is in their pixels."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from shirg.evaluation import figures
from shirg.gate import Kept


def kept_of(indices: list[int], clusters: list[int]) -> Kept:
    count = len(clusters)
    return Kept(
        tokens=torch.zeros(1, len(indices) + 1, 4),
        indices=torch.tensor([indices]),
        scores=torch.zeros(1, count),
        clusters=torch.tensor([clusters]),
    )


def test_kept_patches_stay_and_dropped_ones_dim():
    page = Image.new("RGB", (80, 40), "white")
    kept = kept_of([1, 2], [0, 0, 1, 1])
    picture = np.asarray(figures.draw_kept(page, kept, (2, 2), side=40, outlines=False))
    assert picture.shape == (40, 40, 3)
    assert (picture[:20, 20:] == 255).all() and (picture[20:, :20] == 255).all()
    assert (picture[:20, :20] < 160).all() and (picture[20:, 20:] < 160).all()


def test_dimming_is_darker_on_any_ground():
    kept = kept_of([0], [0, 0, 0, 0])
    for grey in (60, 128, 255):
        picture = figures.draw_kept(Image.new("RGB", (40, 40), (grey,) * 3), kept, (2, 2), side=40, outlines=False)
        bright, dim = picture.getpixel((5, 5)), picture.getpixel((35, 35))
        assert all(above > below for above, below in zip(bright, dim, strict=True))


def test_outlines_run_between_clusters_only():
    kept = kept_of([0, 1, 2, 3], [0, 0, 1, 1])
    picture = np.asarray(figures.draw_kept(Image.new("RGB", (40, 40), "white"), kept, (2, 2), side=40))
    orange = (picture == figures.OUTLINE).all(axis=2)
    assert orange[19].all() and orange.sum() == 40


def test_sides_are_whole_patches():
    kept = kept_of([0], [0] * 9)
    assert figures.draw_kept(Image.new("RGB", (10, 10)), kept, (3, 3), side=100).size == (102, 102)


@pytest.mark.filterwarnings("error")
def test_captions_take_any_text(tmp_path):
    kept = kept_of([0, 3], [0, 0, 1, 1])
    path = tmp_path / "kept.png"
    figures.kept_page_figure(
        path, Image.new("RGB", (30, 30)), kept, (2, 2), question="Cost in $x_1^$? " * 40, answer="\u4e2d", truth="a\nb"
    )
    with Image.open(path) as picture:
        assert picture.height > 700


def test_loss_figure_without_some_losses(tmp_path):
    steps = [
        {"step": number, "loss": None if number == 3 else 1 / (number + 1), "budget": [512, "pooled"][number % 2]}
        for number in range(12)
    ]
    figures.loss_figure(tmp_path / "loss.png", steps, [{"step": 0, "mean": 1.0}, {"step": 12, "mean": 0.2}])
    first = (tmp_path / "loss.png").read_bytes()
    figures.loss_figure(tmp_path / "loss.png", steps, [{"step": 0, "mean": 1.0}, {"step": 12, "mean": 0.2}])
    assert (tmp_path / "loss.png").read_bytes() == first and len(first) > 5000


def test_figures_leave_pyplot_alone(run):
    assert "matplotlib.pyplot" not in sys.modules
