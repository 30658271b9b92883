"""Rules that keep tokens unlike those already kept. Their K steps are serial by nature; a step costs O(N) or O(K N)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..merge import take
from ..selectors import Request, Selection, register
from .common import cosines, marked, min_max, question_relevance, split_places

JITTER = 1e-4
"""Added to the diagonal of CDPruner's similarity matrix, whose rank is at most D: a budget may be larger. Beyond the rank
gains are of this size, and float32 keeps two digits of them: tokens in float64 (the gate itself gives float32) order them as the
formula says. LaViDa-nano's tokens are 128 wide, so most of a budget of 256 or more is chosen beyond the rank."""
LEAST_RELEVANCE = 1e-6
"""Of the token least relevant to the question: its product with diversity must not be 0 (CDPruner's released code)."""
DUPLICATE_SHARE = 72
"""VisPruner removes 8 of 576 tokens per round; we one in 72, so that larger maps take no more rounds."""


@register("divprune")
def select_divprune(request: Request) -> Selection:
    """DivPrune (Alvar et al., CVPR 2025, arXiv 2503.02175), algorithm 1: greedy max-min diversity, 1 - cosine.

    First the token that is farthest from its nearest neighbour, then always the one farthest from all kept. Its
    released code compares tokens behind the projector.
    """
    closeness = cosines(request.tokens)
    batch, count, _ = closeness.shape
    diagonal = closeness.diagonal(dim1=1, dim2=2)
    diagonal.fill_(-1)  # a lone token is as far from the others as can be
    nearest = closeness.amax(dim=1)  # for the first step among all tokens
    diagonal.fill_(math.inf)  # a row that is taken in closes its own token
    rows, offsets = closeness.view(batch * count, count), torch.arange(batch, device=closeness.device) * count
    picks, values = _record(request)
    torch.min(nearest, dim=1, out=(values[0], picks[0]))
    nearest = rows.index_select(0, picks[0] + offsets)
    for value, pick in zip(values[1:], picks[1:], strict=True):
        torch.min(nearest, dim=1, out=(value, pick))
        torch.maximum(nearest, rows.index_select(0, pick + offsets), out=nearest)
    values[0] -= 3  # the later values never fall, but the first had another meaning; the others are within [-1, 1]
    return _in_order(picks, 1 - values, 1 - nearest)


@register("cdpruner")
def select_cdpruner(request: Request) -> Selection:
    """CDPruner (Zhang et al., NeurIPS 2025, arXiv 2506.10967): MAP of a determinantal point process given the question.

    Kernel diag(r) S diag(r), S the cosines of the tokens, r the relevance min-max scaled per image; all 1 without a
    question, which is the paper's plain DPP. Greedy MAP is algorithm 1 of Chen et al. (NeurIPS 2018, arXiv 1709.05135):
    one row of the Cholesky factor per step.

    Ours: r multiplies the gain and stays out of the factor (det(diag(r) S diag(r)) = det(diag(r))^2 det(S)), so small
    relevance costs no precision; `JITTER` on the diagonal of S lets K exceed the rank; and r is the cosine that the
    gate's own selector takes, where the paper has CLIP's, negated.
    """
    relevance = question_relevance(request)
    similarity = cosines(request.tokens)
    batch, count, _ = similarity.shape
    similarity.diagonal(dim1=1, dim2=2).fill_(1 + JITTER)  # equal to the bit: the first of equals is the lowest
    residual = similarity.diagonal(dim1=1, dim2=2).clone()  # [B, N], what the kept tokens do not explain, squared
    quality = torch.ones_like(residual)
    if relevance is not None:
        quality = (min_max(relevance) + LEAST_RELEVANCE).square_()
    factor = similarity.new_empty(batch, request.budget, count)  # rows of the Cholesky factor
    picks, gains = _record(request)
    for step, (gain, pick) in enumerate(zip(gains, picks, strict=True)):
        torch.max(residual * quality, dim=1, out=(gain, pick))
        place = pick.view(batch, 1)
        row = _factor_row(similarity, factor[:, :step], place, residual.gather(1, place))
        factor[:, step] = row
        residual.addcmul_(row, row, value=-1).scatter_(1, place, -math.inf)
    return _in_order(picks, gains, residual * quality)


def _factor_row(similarity: Tensor, factor: Tensor, place: Tensor, pivot: Tensor) -> Tensor:
    """Next row of the Cholesky factor: [B, N, N], [B, s, N], two [B, 1] -> [B, N].

    (S_j - sum_t c_tj c_t) / d_j with d_j^2 = `pivot`, which is at least JITTER but for rounding.
    """
    batch, steps, count = factor.shape
    row = similarity.gather(1, place.unsqueeze(-1).expand(batch, 1, count))
    known = factor.gather(2, place.unsqueeze(-1).expand(batch, steps, 1))  # [B, s, 1]
    row = torch.baddbmm(row, known.transpose(1, 2), factor, alpha=-1)
    return row.squeeze(1) * pivot.clamp_min(JITTER).rsqrt()


def _record(request: Request) -> tuple[Tensor, Tensor]:
    """Where K steps write what they picked and how much it was worth: [K, B] long and in the tokens' precision."""
    worth = request.tokens.new_empty(request.budget, request.tokens.shape[0])
    return torch.empty_like(worth, dtype=torch.long), worth


def _in_order(picks: Tensor, gains: Tensor, left: Tensor) -> Selection:
    """The picks [K, B]; scores are the gains [K, B] when they were picked, and what is `left` [B, N] for the others."""
    scores = left.scatter(1, picks.T, gains.T)
    return Selection(picks.T.sort(dim=1).values, scores, torch.zeros_like(scores, dtype=torch.long))


@register("vispruner", needs=("attention",))
def select_vispruner(request: Request) -> Selection:
    """VisPruner (Zhang et al., ICCV 2025, arXiv 2412.01818), section 4: important tokens and diverse tokens.

    Half of K are those that receive most attention. The rest, most attended first, lose their duplicates in rounds:
    dealt alternately into A and B, those of A that have the greatest cosine to one of B go, until K in all are left.

    Ours: attention from all queries, as there is no class token; a round removes one token in 72, which is the paper's
    8 at its 576 tokens; cosines are computed once for all rounds.
    """
    count, budget, attention = request.tokens.shape[1], request.budget, request.needed("attention")
    important = (budget + 1) // 2
    order = attention.sort(dim=1, descending=True, stable=True).indices
    chosen = marked(order[:, :important], count)
    if budget > important:
        rest = order[:, important:]
        diverse = _without_duplicates(take(request.tokens, rest), budget - important, count)
        chosen = chosen.scatter(1, rest.gather(1, diverse), True)
    peak = attention.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    scores = attention / peak + 2 * chosen  # attention is within [-1, 1]: kept tokens stand above the dropped
    return Selection(split_places(chosen, budget)[0], scores, torch.zeros_like(order))


def _without_duplicates(tokens: Tensor, number: int, count: int) -> Tensor:
    """Places of the tokens left when duplicates have been removed down to `number`: [B, R, D] -> [B, number] long."""
    cosine = cosines(tokens)
    batch, left, _ = cosine.shape
    places = torch.arange(left, device=cosine.device).expand(batch, left)
    while left > number:
        removed = min(max(count // DUPLICATE_SHARE, 1), left - number, (left + 1) // 2)
        first, second = places[:, ::2], places[:, 1::2]
        pairs = take(cosine, first).gather(2, second.unsqueeze(1).expand(-1, first.shape[1], -1))
        distinct = pairs.amax(dim=-1).sort(dim=1, descending=True, stable=True).indices[:, removed:]
        places = torch.cat([first.gather(1, distinct), second], dim=1)
        left -= removed
    return places
