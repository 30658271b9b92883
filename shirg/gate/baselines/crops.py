"""Baselines that divide the budget over parts of the image."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ranking import keep_best, rank_tokens
from ..selectors import Request, Selection, register
from .common import attended, directions

VARIANCE = 0.09
"""HoloV's weight of the variance of cosines; attention has 1."""
LEAST_VARIANCE = 1e-6
"""Added to the mean variance that HoloV divides by."""


@register("holov", needs=("attention",))
def select_holov(request: Request) -> Selection:
    """HoloV (Zou et al., NeurIPS 2025, arXiv 2510.02912), section 4.1: every crop keeps its most attended tokens.

    Crops are equal stretches of the raster order. A crop's share of the budget is proportional to the mean over its tokens of
    attention + 0.09 variance: the variance of a token's cosines to the others of its crop (equations 1 and 2), scaled per crop
    to the mean of attention (equation 3). Shares are rounded down; the remainder goes to the crops of greatest weight, one each.

    As in the released code, which differs from the paper: the weight 0.09 (equation 3 has 1), and selection within a crop by
    attention alone (equation 5 adds the variance). The number of crops is floor(16 N / (9 K)), at least one, which is the
    code's 16 for 64 of 576 tokens (its formula for Qwen).

    Ours: attention is the mean over all queries, since there is no class token; the budget that a full crop cannot use goes to
    the most attended tokens of all others, where the paper divides it again and the released code leaves zeros; a crop of one
    token has the same weight formula as the others, where the released code omits a factor; tokens are before the projector.
    """
    attention = request.needed("attention").clamp_min(0)
    batch, count = attention.shape
    number = min(max(16 * count // (9 * request.budget), 1), count)
    members, slots = _crops(count, number, attention.device)
    members = members.repeat(batch)
    by_crop = _cut(attention.unsqueeze(-1), slots, number).squeeze(-1)  # [B * C, M]
    variance = _mean_variance(_cut(directions(request.tokens), slots, number), members)
    weights = by_crop.sum(dim=1) / members * (1 + VARIANCE * variance / (variance + LEAST_VARIANCE))
    quotas = _share_out(weights.view(batch, number), request.budget)
    first = (rank_tokens(by_crop) < quotas.view(-1, 1)).view(batch, -1)[:, slots]
    return attended(attention, keep_best(rank_tokens(attention), request.budget, first))


def _crops(count: int, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Number of tokens of every crop, and the slot of every token if each crop has as many slots as the largest, M.

    If crops cannot be equal, the first ones have one token more. [number] long, [count] long below number * M.
    """
    size, larger = -(-count // number), count % number or number
    members = size - (torch.arange(number, device=device) >= larger).long()
    token = torch.arange(count, device=device)
    empty = (token - larger * size).clamp_min(0) // max(size - 1, 1)  # slots before the token
    return members, token + empty


def _cut(values: Tensor, slots: Tensor, number: int) -> Tensor:
    """Tokens by crop; the last slot of smaller crops is 0: [B, N, D], [N] long -> [B * number, M, D]."""
    batch, count, width = values.shape
    size = -(-count // number)
    padded = values.new_zeros(batch, number * size, width).index_copy_(1, slots, values)
    return padded.view(batch * number, size, width)


def _mean_variance(unit: Tensor, members: Tensor) -> Tensor:
    """Mean over a crop's n tokens of the variance of their cosines: [C, M, D], [C] long -> [C]; 0 if n = 1.

    (sum_j S_ij^2 - (n - 2) mu_i^2) / (n - 1) with S_ii = 0 and mu_i = sum_j S_ij / (n - 1): equation 2, where j = i counts in
    the squares and not in the mean, as in the released code.
    """
    cosine = unit @ unit.transpose(1, 2)
    cosine.diagonal(dim1=1, dim2=2).zero_()
    others = (members - 1).clamp_min(1).unsqueeze(1)  # [C, 1]
    mean = cosine.sum(dim=-1) / others
    variance = (cosine.square().sum(dim=-1) - (others - 1) * mean.square()) / others
    return variance.sum(dim=1) / members


def _share_out(weights: Tensor, budget: int) -> Tensor:
    """Integer shares of the budget, in proportion to weights [B, C] of at least 0: [B, C] long, sum at most the budget."""
    exact = weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) * budget
    shares = exact.floor().long()
    return shares + (rank_tokens(weights) < budget - shares.sum(dim=1, keepdim=True))
