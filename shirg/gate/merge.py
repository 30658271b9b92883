"""Merging of tokens: outputs are means of the tokens assigned to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .groups import sum_groups, take

if TYPE_CHECKING:
    from .selectors import Selection


def merge_tokens(tokens: Tensor, selection: Selection, budget: int, summary: bool) -> Tensor:
    """The merged tokens, then the mean of the unassigned ones (of all, if none is unassigned).

    Args:
        tokens: [B, N, D], any precision; sums are taken in float32.
        selection: with `assignment`.
        budget: number of outputs, K.

    Returns:
        [B, K + 1, D], or [B, K, D] without the summary, in the dtype of the tokens; differentiable in them.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        values = tokens.float()
        merged = (
            _mix(values, *selection.interpolation)
            if selection.interpolation
            else _group_means(values, selection, budget)
        )
        if summary:
            dropped = _assigned(selection) < 0
            counted = torch.where(dropped.any(dim=1, keepdim=True), dropped, True).float().unsqueeze(1)  # [B, 1, N]
            merged = torch.cat([merged, counted @ values / counted.sum(dim=-1, keepdim=True)], dim=1)
        return merged.to(tokens.dtype)


def _assigned(selection: Selection) -> Tensor:
    assert selection.assignment is not None, "a selector that merges tokens returns the assignment"
    return selection.assignment


def _mix(values: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of S tokens each: [B, N, D], two [B, K, S] -> [B, K, D]."""
    sources = take(values, tokens.flatten(1)).unflatten(1, tokens.shape[1:])  # [B, K, S, D]
    return (sources * weights.unsqueeze(-1)).sum(dim=2)


def _group_means(values: Tensor, selection: Selection, budget: int) -> Tensor:
    """Weighted mean of every output's tokens: [B, N, D] -> [B, K, D]."""
    # Unassigned tokens are summed into one extra group, which is cut off, so that shapes are static.
    assignment = _assigned(selection)
    groups = torch.where(assignment < 0, budget, assignment)
    weights = torch.ones_like(groups, dtype=torch.float32) if selection.weights is None else selection.weights
    weights = weights.unsqueeze(-1)
    weighted = values if selection.weights is None else values * weights
    sums, sizes = (sum_groups(part, groups, budget + 1)[:, :budget] for part in (weighted, weights))
    return sums / sizes
