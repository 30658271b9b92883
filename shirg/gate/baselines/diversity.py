"""Baselines that keep tokens unlike those already kept.

Most take K serial steps of O(N) or O(K N) each; `select_dart` has four steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..groups import take
from ..ranking import rank_tokens
from ..selectors import Request, Selection, register
from .common import attended, cosines, directions, marked, min_max, question_relevance, split_places

JITTER = 1e-4
"""Added to the diagonal of CDPruner's similarity matrix, whose rank is at most D, so that a budget may exceed it. Beyond the rank
gains are of this size and have two digits in float32; float64 tokens (the gate passes float32) give the formula's order.
LaViDa-nano's tokens are 128 wide, so most of a budget of 256 or more is chosen beyond the rank."""
LEAST_RELEVANCE = 1e-6
"""Smallest scaled relevance, so that its product with diversity is not 0 (CDPruner's released code)."""
DUPLICATE_SHARE = 72
"""VisPruner removes 8 of 576 tokens per round; here one in 72, so that larger maps take no more rounds."""

PIVOTS = 4
"""DART's pivots among the image's tokens, the default of its paper's code and of TensorRT-Edge-LLM."""
DIVERSITY, COVERAGE = 0.5, 0.5
"""TOPS's weights of diversity and of coverage; attention has 1. Alpha and lambda of its stage I (appendix C.2)."""
DUPLICATE = 1e-4
"""Smallest mean by which TOPS's diversity or coverage is divided; below it they are rounding noise."""


@register("divprune")
def select_divprune(request: Request) -> Selection:
    """DivPrune (Alvar et al., CVPR 2025, arXiv 2503.02175), algorithm 1: greedy max-min diversity, 1 - cosine.

    The first token is the one farthest from its nearest neighbour, each next one the farthest from all kept. The released code
    compares tokens after the projector.
    """
    closeness = cosines(request.tokens)
    batch, count, _ = closeness.shape
    diagonal = closeness.diagonal(dim1=1, dim2=2)
    diagonal.fill_(-1)  # the greatest distance, in case of a single token
    nearest = closeness.amax(dim=1)  # first step: nearest among all tokens
    diagonal.fill_(math.inf)  # a kept token is never chosen again
    rows, offsets = closeness.view(batch * count, count), torch.arange(batch, device=closeness.device) * count
    picks, values = _record(request)
    torch.min(nearest, dim=1, out=(values[0], picks[0]))
    nearest = rows.index_select(0, picks[0] + offsets)
    for value, pick in zip(values[1:], picks[1:], strict=True):
        torch.min(nearest, dim=1, out=(value, pick))
        torch.maximum(nearest, rows.index_select(0, pick + offsets), out=nearest)
    values[0] -= 3  # the first value is of another kind; it must be below all others, which are in [-1, 1]
    return _in_order(picks, 1 - values, 1 - nearest)


@register("cdpruner")
def select_cdpruner(request: Request) -> Selection:
    """CDPruner (Zhang et al., NeurIPS 2025, arXiv 2506.10967): MAP of a determinantal point process given the question.

    Kernel diag(r) S diag(r), S the cosines of the tokens, r the relevance min-max scaled per image; r = 1 without a question,
    which is the paper's plain DPP. Greedy MAP is algorithm 1 of Chen et al. (NeurIPS 2018, arXiv 1709.05135): one row of the
    Cholesky factor per step.

    Ours: r multiplies the gain and is not in the factor (det(diag(r) S diag(r)) = det(diag(r))^2 det(S)), so that small
    relevance costs no precision; `JITTER` on the diagonal of S lets K exceed the rank; r is the cosine that SHIRG's selector
    uses, where the paper has CLIP's, negated.
    """
    relevance = question_relevance(request)
    similarity = cosines(request.tokens)
    batch, count, _ = similarity.shape
    similarity.diagonal(dim1=1, dim2=2).fill_(1 + JITTER)  # exactly equal, so that ties go to the lowest index
    residual = similarity.diagonal(dim1=1, dim2=2).clone()  # [B, N], squared part that the kept tokens do not explain
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

    (S_j - sum_t c_tj c_t) / d_j with d_j^2 = `pivot`, which is at least JITTER up to rounding.
    """
    batch, steps, count = factor.shape
    row = similarity.gather(1, place.unsqueeze(-1).expand(batch, 1, count))
    known = factor.gather(2, place.unsqueeze(-1).expand(batch, steps, 1))  # [B, s, 1]
    row = torch.baddbmm(row, known.transpose(1, 2), factor, alpha=-1)
    return row.squeeze(1) * pivot.clamp_min(JITTER).rsqrt()


@register("tops", needs=("attention",))
def select_tops(request: Request) -> Selection:
    """TOPS (Wang et al., 2026, arXiv 2606.27161), algorithm 1: attention, diversity and coverage, one token per step.

    The first token is the most attended, each next one that of greatest a + 0.5 d + 0.5 c, each term divided by its mean over
    the tokens left. d is 1 - the greatest cosine to a kept token; c is the increase, summed over all tokens left, of their
    greatest cosine to a kept one. This is the paper's stage I, which its table 6 measures alone; stage II prunes again inside
    the language model.

    Ours: attention is the mean over all queries, since there is no class token; similarity, which the paper does not define,
    is the cosine; terms are divided by their means as in the algorithm, where section 4.1 has min-max; `DUPLICATE`; tokens are
    before the projector; coverage is updated by the change of each step, where the algorithm sums it again.
    """
    attention = request.needed("attention").clamp_min(0)
    similarity = cosines(request.tokens)
    batch, count, _ = similarity.shape
    rows, offsets = similarity.view(batch * count, count), torch.arange(batch, device=similarity.device) * count
    picks, values = _record(request)
    torch.max(attention, dim=1, out=(values[0], picks[0]))
    left = torch.ones_like(attention).scatter_(1, picks[0].unsqueeze(1), 0)
    nearest = rows.index_select(0, picks[0] + offsets).masked_fill_(left == 0, math.inf)  # kept: all terms are 0
    coverage = _gain(similarity, nearest)
    for step in range(1, request.budget):
        worth = _over_mean(attention * left)
        worth.add_(_over_mean((1 - nearest).clamp_min_(0), DUPLICATE), alpha=DIVERSITY)
        worth.add_(_over_mean(coverage, DUPLICATE), alpha=COVERAGE).masked_fill_(left == 0, -math.inf)
        torch.max(worth, dim=1, out=(values[step], picks[step]))
        left.scatter_(1, picks[step].unsqueeze(1), 0)
        before = nearest
        nearest = torch.maximum(before, rows.index_select(0, picks[step] + offsets)).masked_fill_(left == 0, math.inf)
        risen = _risen(before, nearest)
        part = similarity[:, risen]
        coverage -= _gain(part.mT, before[:, risen]) - _gain(part.mT, nearest[:, risen])
    order = torch.arange(request.budget, 0, -1, device=attention.device, dtype=torch.float32)
    return _in_order(picks, (1 + order).unsqueeze(1).expand_as(picks), attention)


def _over_mean(term: Tensor, least: float = torch.finfo(torch.float32).tiny) -> Tensor:
    """A term divided by its mean, at least `least`: [B, N] -> [B, N].

    The mean is over all tokens, with 0 for kept ones; the mean over the tokens left would scale all terms by the same factor.
    """
    return term / term.mean(dim=1, keepdim=True).clamp_min_(least)


def _gain(similarity: Tensor, nearest: Tensor) -> Tensor:
    """Increase of the greatest cosines of M others by every token: [B, N, M], [B, M] -> [B, N]."""
    return (similarity - nearest.unsqueeze(1)).clamp_min_(0).sum(dim=-1)


def _risen(before: Tensor, after: Tensor) -> Tensor | slice:
    """Indices where any image's value increased (few of N after the first steps): two [B, N] -> [M] long, or a full slice.

    A full slice on a GPU, where the number would need a synchronisation, and in compiled calls.
    """
    if before.device.type != "cpu" or torch.compiler.is_compiling():
        return slice(None)
    return (after > before).any(dim=0).nonzero().squeeze(1)


def _record(request: Request) -> tuple[Tensor, Tensor]:
    """Buffers for the K picked indices and their gains: [K, B] long and in the tokens' precision."""
    worth = request.tokens.new_empty(request.budget, request.tokens.shape[0])
    return torch.empty_like(worth, dtype=torch.long), worth


def _in_order(picks: Tensor, gains: Tensor, left: Tensor) -> Selection:
    """A selection of the picks [K, B]; scores are their gains [K, B] when picked, and `left` [B, N] for the other tokens."""
    scores = left.scatter(1, picks.T, gains.T)
    return Selection(picks.T.sort(dim=1).values, scores, torch.zeros_like(scores, dtype=torch.long))


@register("dart")
def select_dart(request: Request) -> Selection:
    """DART (Wen et al., EMNLP 2025, arXiv 2502.11494) before the language model, as in TensorRT-Edge-LLM's `--visualPrune`.

    Pivots are the four tokens of greatest L1 norm. Each in turn keeps its share of the remaining budget, rounded up: the
    remaining tokens of least cosine to it.

    The paper prunes after the language model's second layer, by norms of its keys and cosines of its states; TensorRT-Edge-LLM
    uses the model's input for both, as here.

    Ours: no pivots among the words of the question (four in the paper), which are not in the tower's space; views share one
    budget.
    """
    tokens, budget = request.tokens, request.budget
    number = min(PIVOTS, budget)
    pivots = (
        torch.linalg.vector_norm(tokens, ord=1, dim=-1).sort(dim=1, descending=True, stable=True).indices[:, :number]
    )
    unit = directions(tokens)
    closeness = take(unit, pivots) @ unit.transpose(1, 2)  # [B, pivots, N]
    chosen = marked(pivots, tokens.shape[1])
    left = budget - number
    for turn in range(number):
        share = -(-left // (number - turn))
        chosen = chosen | (rank_tokens(-closeness[:, turn].masked_fill(chosen, math.inf)) < share)
        left -= share
    scores = 1 - closeness.amax(dim=1) + 3 * chosen  # kept tokens above dropped ones
    return Selection(split_places(chosen, budget)[0], scores, torch.zeros_like(scores, dtype=torch.long))


@register("vispruner", needs=("attention",))
def select_vispruner(request: Request) -> Selection:
    """VisPruner (Zhang et al., ICCV 2025, arXiv 2412.01818), section 4: important tokens and diverse tokens.

    Half of K are the tokens that receive most attention. Duplicates are removed from the rest, most attended first, in rounds:
    tokens are divided alternately into A and B, and those of A with the greatest cosine to one of B are removed, until K in
    all are left.

    Ours: attention is the mean over all queries, since there is no class token; a round removes one token in 72, which is the
    paper's 8 of 576; cosines are computed once for all rounds.
    """
    count, budget, attention = request.tokens.shape[1], request.budget, request.needed("attention")
    important = (budget + 1) // 2
    order = attention.sort(dim=1, descending=True, stable=True).indices
    chosen = marked(order[:, :important], count)
    if budget > important:
        rest = order[:, important:]
        diverse = _without_duplicates(take(request.tokens, rest), budget - important, count)
        chosen = chosen.scatter(1, rest.gather(1, diverse), True)
    return attended(attention, split_places(chosen, budget)[0])


def _without_duplicates(tokens: Tensor, number: int, count: int) -> Tensor:
    """Indices of the tokens left after removing duplicates down to `number`: [B, R, D] -> [B, number] long."""
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
