"""Runs: neighbouring printed patches of a row, ranked as one, so that a word is kept whole.

Shapes: B images, V views, R x C tokens per view, N = V * R * C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .groups import sum_groups
from .terms import pixel_edges, spread_edges

PRINTED = 0.09
"""A patch belongs to a run if its edge of kind "print", spread to the neighbours, is above this. Half of it includes ruled paper,
twice as much breaks pale lines; chosen on the tuning pages of `benchmarks/gate_recall.py`."""

SPREAD = 0.2
"""Share of its print that a patch adds to the patches left and right of it, see `GateConfig.edge_spread`."""

VERTICAL = 0.75
"""Share added above and below, relative to the share added left and right: letters are often two patches high."""


def runs_of(pixels: Tensor, grid: tuple[int, int, int], share: float = SPREAD) -> tuple[Tensor, Tensor]:
    """Print of every patch, spread to its neighbours, and the number of its run: [B, V, 3, H, W] -> two [B, N]."""
    edges = spread_edges(pixel_edges(pixels, *grid[1:], "runs"), grid, share, VERTICAL)
    return edges, number_runs(edges > PRINTED, grid)


def number_runs(printed: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Number of every token's run, 0 for none: [B, N] bool -> [B, N] long.

    A run is a maximal sequence of adjacent printed tokens of a row; runs are numbered from 1 in raster order.
    """
    rows = printed.unflatten(1, grid)  # [B, V, R, C]
    starts = rows & ~torch.nn.functional.pad(rows, (1, 0))[..., :-1]
    return starts.flatten(1).cumsum(1) * printed


def run_means(values: Tensor, runs: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Mean over every token's run, its own value if it is in none: `values` and `runs` [B, N] -> [B, N]."""
    sums, sizes = sum_groups(torch.stack([values, torch.ones_like(values)], dim=-1), runs, _max_runs(grid)).unbind(-1)
    return torch.where(runs > 0, (sums / sizes.clamp_min(1)).gather(1, runs), values)


def run_peaks(values: Tensor, runs: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Maximum over every token's run, its own value if it is in none: `values` (at least 0) and `runs` [B, N] -> [B, N]."""
    peaks = values.new_zeros(values.shape[0], _max_runs(grid)).scatter_reduce(1, runs, values, "amax")
    return torch.where(runs > 0, peaks.gather(1, runs), values)


def _max_runs(grid: tuple[int, int, int]) -> int:
    """Largest possible number of runs, plus one for "none": every second token of a row can begin a run."""
    views, rows, cols = grid
    return views * rows * ((cols + 1) // 2) + 1
