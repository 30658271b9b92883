"""Rules that merge what they do not keep."""

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

    Dominant tokens receive most attention; for towers without a class token the paper, too, takes the mean over all
    queries. Among the rest, evenly spaced ones become contextual tokens, and every other joins the one whose key has
    the greatest cosine. Of 64 tokens 54 are dominant and 10 contextual, here as there, to the nearest whole number.

    Ours: the contextual token is the mean of itself and those that join it (the paper's average; its released code adds
    the mean of the joining to it, which doubles its length); spacing is even to the last token.
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

    Kept are the tokens that receive most attention and, as the paper's "+", evenly spaced ones of the rest; every
    dropped token is merged into the kept one whose key is nearest, weighted by its attention.

    Ours: the number is K, a quarter of it by attention, where the paper cuts by interquartile range and adds about
    three even ones for each; a dropped token joins its nearest kept token, where the paper gives every kept one its 32
    nearest neighbours, so that some are merged many times and some never; the kept token weighs 1 as in the released
    code, and the sum is divided by the weights, so that lengths stay what the projector knows. No class token:
    attention is received from all queries.
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

    Tokens are dealt alternately into A and B, each of A is linked to the most similar of B (cosine of keys), the r most
    similar links are merged, averages weighted by size. The paper merges r in every block of the tower; here all is
    done behind it, in rounds of at most half, until exactly K are left. A merged group's key is the sum of its tokens',
    whose direction is that of their mean. Keys are compared whole, not averaged over heads.
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
    """Group that each of n groups joins, its own unless it is one of the `merged`: [B, n, D] -> [B, n] long."""
    batch, count, _ = keys.shape
    unit = directions(keys)
    best, partner = (unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)).max(dim=-1)  # [B, A]
    joining = best.sort(dim=1, descending=True, stable=True).indices[:, :merged]
    own = torch.arange(count, device=keys.device).expand(batch, count)
    return own.scatter(1, 2 * joining, 2 * partner.gather(1, joining) + 1)


def _join_nearest(anchors: Tensor, keys: Tensor, targets: Tensor, others: Tensor) -> Tensor:
    """Let `others` [B, M] join the target [B, T] whose key has the greatest cosine; targets join themselves.

    Others that are targets meet themselves; `anchors` [B, N] gives what all remaining tokens join.
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
