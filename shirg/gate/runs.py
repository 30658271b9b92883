"""Runs: neighbouring printed patches of a row, ranked as one, because a word can be read only whole.

Shapes: B images, V views, R x C tokens per view, N = V * R * C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .groups import sum_groups
from .terms import pixel_edges, spread_edges

PRINTED = 0.09
"""Edge of kind "print", spread to the neighbours, from which on a patch belongs to a run. Half of it lets ruled paper in, twice
as much cuts pale lines into pieces; chosen on the tuning pages of `benchmarks/gate_recall.py`."""

LENT = 0.2
"""Share of its print that a patch lends to the patches left and right of it, see `GateConfig.edge_spread`."""

STACKED = 0.75
"""Of what print lends to the patches beside it, the share that it lends to those above and below: letters are often as high as
two patches, and the weaker one is theirs, too."""


def runs_of(pixels: Tensor, grid: tuple[int, int, int], lent: float = LENT) -> tuple[Tensor, Tensor]:
    """Print of every patch, lent to its neighbours, and the number of the run that it is in: [B, V, 3, H, W] -> two [B, N]."""
    edges = spread_edges(pixel_edges(pixels, *grid[1:], "runs"), grid, lent, STACKED)
    return edges, number_runs(edges > PRINTED, grid)


def number_runs(printed: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Number of the run that every token is in, 0 for none: [B, N] bool -> [B, N] long.

    A run is a longest row of printed tokens side by side; runs are counted from 1 on in raster order.
    """
    rows = printed.unflatten(1, grid)  # [B, V, R, C]
    starts = rows & ~torch.nn.functional.pad(rows, (1, 0))[..., :-1]
    return starts.flatten(1).cumsum(1) * printed


def run_means(values: Tensor, runs: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Mean of its run for every token, its own value where it is in none: two [B, N] -> [B, N]."""
    sums, sizes = sum_groups(torch.stack([values, torch.ones_like(values)], dim=-1), runs, _most(grid)).unbind(-1)
    return torch.where(runs > 0, (sums / sizes.clamp_min(1)).gather(1, runs), values)


def run_peaks(values: Tensor, runs: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Greatest of its run for every token, its own value where it is in none: two [B, N], at least 0 -> [B, N]."""
    peaks = values.new_zeros(values.shape[0], _most(grid)).scatter_reduce(1, runs, values, "amax")
    return torch.where(runs > 0, peaks.gather(1, runs), values)


def _most(grid: tuple[int, int, int]) -> int:
    """Most numbers of runs, 0 among them: every other token of a row may begin one."""
    views, rows, cols = grid
    return views * rows * ((cols + 1) // 2) + 1
