"""Pictures: what they show is in their pixels."""

from __future__ import annotations

import sys

from shirg.evaluation import figures


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
