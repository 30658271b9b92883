"""Baselines that merge the tokens that they do not keep."""

from __future__ import annotations

import torch
from torch import Tensor

from ..groups import sum_groups, take
from ..ranking import keep_best, rank_tokens
from ..selectors import Request, Selection, register
from .common import directions, marked, number_anchors, split_places, spread


@register("visionzip", needs=("attention", "keys"))
def select_visionzip(request: Request) -> Selection:
    """VisionZip (Yang et al., CVPR 2025, arXiv 2412.04467), section 3.2: dominant tokens and contextual tokens.

    Dominant tokens receive most attention; without a class token the paper also uses the mean over all queries. Among the
    rest, evenly spaced ones become contextual tokens, and every other token joins the one whose key has the greatest cosine.
    54/64 of the budget are dominant and 10/64 contextual, as in the paper, rounded.

    Ours: the contextual token is the mean of itself and those that join it (the paper's average; its released code adds the
    mean of the joining tokens to it, which doubles its length); spacing is even up to the last token.
    """
    count, budget = request.tokens.shape[1], request.budget
    attention, keys = request.needed("attention"), request.needed("keys")
    contextual = round(budget * 10 / 64)
    dominant = keep_best(rank_tokens(attention), budget - contextual)
    _, rest = split_places(marked(dominant, count), budget - contextual)
    anchors = torch.full_like(attention, -1, dtype=torch.long).scatter_(1, dominant, dominant)
    if contextual:
        targets = rest[:, spread(contextual, rest.shape[1], rest.device)]
        anchors = _join_nearest(anchors, keys, targets, rest)
    return _merged(request, number_anchors(anchors))


@register("prumerge", needs=("attention", "keys"))
def select_prumerge(request: Request) -> Selection:
    """PruMerge+ (LLaVA-PruMerge, Shang et al., ICCV 2025, arXiv 2403.15388), section 3 and algorithm 1.

    It keeps the tokens that receive most attention and, as the paper's "+", evenly spaced ones of the rest. Every dropped
    token is merged into the kept one whose key is nearest, weighted by its attention.

    Ours: the number is K, a quarter of it by attention, where the paper selects outliers by interquartile range and adds about
    three evenly spaced tokens for each; a dropped token joins its nearest kept token, where the paper merges every kept one
    with its 32 nearest neighbours; the kept token has weight 1, as in the released code, and the sum is divided by the
    weights, so that lengths do not change; attention is the mean over all queries, since there is no class token.
    """
    count, budget = request.tokens.shape[1], request.budget
    attention, keys = request.needed("attention"), request.needed("keys")
    by_attention = (budget + 3) // 4
    salient = keep_best(rank_tokens(attention), by_attention)
    chosen = marked(salient, count)
    _, others = split_places(chosen, by_attention)
    even = others[:, spread(budget - by_attention, others.shape[1], others.device)] if budget > by_attention else None
    kept, dropped = split_places(chosen if even is None else chosen.scatter(1, even, True), budget)
    anchors = torch.full_like(attention, -1, dtype=torch.long)
    anchors = _join_nearest(anchors, keys, kept, dropped)
    weights = attention.clamp_min(0).scatter(1, kept, 1.0)
    return _merged(request, number_anchors(anchors), weights)


@register("tome", needs=("keys",))
def select_tome(request: Request) -> Selection:
    """ToMe (Bolya et al., ICLR 2023, arXiv 2210.09461), section 3: bipartite soft matching on keys.

    Tokens are divided alternately into A and B. Each token of A is linked to the most similar of B (cosine of keys), and the r
    most similar links are merged by averages weighted by size.

    Ours: the paper merges r tokens in every block of the tower; here all merging is after the tower, in rounds of at most half
    of the tokens, until exactly K are left. The key of a merged group is the sum of its tokens' keys, which has the direction
    of their mean. Keys of all heads are concatenated, not averaged.
    """
    keys = request.needed("keys")
    batch, count, _ = keys.shape
    groups = torch.arange(count, device=keys.device).expand(batch, count)
    left = count
    while left > request.budget:
        merged = min(left - request.budget, (left + 1) // 2)
        parents = _match(keys, merged)
        numbers = number_anchors(parents)
        groups = numbers.gather(1, groups)
        left -= merged
        keys = sum_groups(keys, numbers, left)
    return _merged(request, groups, scores=torch.zeros_like(groups, dtype=torch.float32))


def _match(keys: Tensor, merged: int) -> Tensor:
    """Group that each of n groups joins; its own, unless it is one of the `merged`: [B, n, D] -> [B, n] long."""
    batch, count, _ = keys.shape
    unit = directions(keys)
    best, partner = (unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)).max(dim=-1)  # [B, A]
    joining = best.sort(dim=1, descending=True, stable=True).indices[:, :merged]
    own = torch.arange(count, device=keys.device).expand(batch, count)
    return own.scatter(1, 2 * joining, 2 * partner.gather(1, joining) + 1)


def _join_nearest(anchors: Tensor, keys: Tensor, targets: Tensor, others: Tensor) -> Tensor:
    """Assign `others` [B, M] to the target [B, T] whose key has the greatest cosine, and targets to themselves.

    `others` may contain targets. `anchors` [B, N] has what all remaining tokens join.
    """
    unit = directions(keys)
    nearest = (take(unit, others) @ take(unit, targets).transpose(1, 2)).argmax(dim=-1)  # [B, M]
    return anchors.scatter(1, others, targets.gather(1, nearest)).scatter(1, targets, targets)


def _merged(
    request: Request, assignment: Tensor, weights: Tensor | None = None, scores: Tensor | None = None
) -> Selection:
    scores = request.needed("attention") if scores is None else scores
    clusters = torch.zeros_like(assignment)
    return Selection(None, scores, clusters, assignment=assignment, weights=weights)
