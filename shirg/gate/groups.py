"""Rows of every image, taken or summed by their numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def take(values: Tensor, places: Tensor) -> Tensor:
    """Rows at the given indices of every image: [B, N, D], [B, M] long -> [B, M, D]."""
    batch, count, width = values.shape
    offsets = torch.arange(batch, device=values.device).unsqueeze(1) * count
    return values.flatten(0, 1).index_select(0, (places + offsets).flatten()).view(batch, -1, width)


def sum_groups(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Sum of every group's rows: [B, N, D] float32, [B, N] long in 0 to count - 1 -> [B, count, D].

    Deterministic: on a GPU `index_put` sorts and `index_add` does not; on a CPU it is the other way round.
    """
    batch, _, width = values.shape
    offsets = torch.arange(batch, device=values.device).unsqueeze(1) * count
    rows, flat = (groups + offsets).flatten(), values.flatten(0, 1)
    zeros = values.new_zeros(batch * count, width)
    sums = zeros.index_put((rows,), flat, accumulate=True) if values.is_cuda else zeros.index_add(0, rows, flat)
    return sums.view(batch, count, width)
