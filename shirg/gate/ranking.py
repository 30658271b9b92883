"""From scores to kept tokens. Ranks are integers, so that the order is total and the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def rank_tokens(scores: Tensor) -> Tensor:
    """Rank of every token by descending score, ties to the lower index: [B, N] -> [B, N] long, each row 0 to N - 1."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def cluster_tops(ranks: Tensor, clusters: Tensor, count: int) -> Tensor:
    """Whether a token is the best of its cluster: two [B, N] -> [B, N] bool, `count` of them true in each row."""
    worst = ranks.new_full((ranks.shape[0], count), ranks.shape[1])
    best = worst.scatter_reduce(1, clusters, ranks, "amin")
    return best.gather(1, clusters) == ranks


def keep_best(ranks: Tensor, budget: int, first: Tensor | None = None) -> Tensor:
    """Indices of the `budget` best tokens in raster order: [B, N] -> [B, budget] long.

    The language model's positions follow this order. Ranks are unique, so the undefined order of ties in `topk` has no effect.

    Args:
        ranks: [B, N] from `rank_tokens`.
        budget: tokens to keep, at most N.
        first: [B, N] bool, tokens that are kept before all others; if they exceed the budget, the best of them are kept.
    """
    key = ranks if first is None else ranks - first * ranks.shape[1]
    return key.topk(budget, dim=1, largest=False, sorted=False).indices.sort(dim=1).values
