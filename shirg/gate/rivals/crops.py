"""Rules that share the budget out over parts of the picture."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ranking import keep_best, rank_tokens
from ..selectors import Request, Selection, register
from .common import attended, directions

VARIANCE = 0.09
"""HoloV's weight of the variance of cosines beside attention's 1."""
LEAST_VARIANCE = 1e-6
"""Added to the mean variance that HoloV divides by."""


@register("holov", needs=("attention",))
def select_holov(request: Request) -> Selection:
    """HoloV (Zou et al., NeurIPS 2025, arXiv 2510.02912), section 4.1: every crop keeps its most attended tokens.

    Crops are equal stretches of the raster order. A crop's share of the budget is by the mean over its tokens of
    attention + 0.09 variance, the variance of a token's cosines to the others of its crop (equations 1 and 2), scaled
    per crop to the mean of attention (equation 3). Shares are rounded down; what is left goes to the greatest, one each.

    So in the released code, here and there unlike the paper: 0.09 (equation 3 has 1), and selection within a crop by
    attention alone (equation 5 adds the variance, which by its scale is next to nothing in a crop's mean). Of N tokens
    16 N / (9 K) crops, rounded down, at least one: its 16 at 64 of 576, by its rule for Qwen.

    Ours: attention from all queries, as there is no class token; what a full crop cannot take goes to the most attended
    tokens of all others, where the paper shares it out again and the released code leaves zeros; a crop of one token is
    weighed like the others, where the released code forgets a factor; tokens before the projector.
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
    """Tokens of every crop, and the slot of every token where each crop has as many as the greatest, M.

    The first crops have a token more where they cannot all be equal. [number] long, [count] long within number * M.
    """
    size, larger = -(-count // number), count % number or number
    members = size - (torch.arange(number, device=device) >= larger).long()
    token = torch.arange(count, device=device)
    empty = (token - larger * size).clamp_min(0) // max(size - 1, 1)  # slots before the token
    return members, token + empty


def _cut(values: Tensor, slots: Tensor, number: int) -> Tensor:
    """Crops, the last slot of the smaller ones empty, hence 0: [B, N, D], [N] long -> [B * number, M, D]."""
    batch, count, width = values.shape
    size = -(-count // number)
    padded = values.new_zeros(batch, number * size, width).index_copy_(1, slots, values)
    return padded.view(batch * number, size, width)


def _mean_variance(unit: Tensor, members: Tensor) -> Tensor:
    """Mean over a crop's n tokens of the variance of their cosines: [C, M, D], [C] long -> [C]; 0 of a lone token.

    (sum_j S_ij^2 - (n - 2) mu_i^2) / (n - 1) with S_ii = 0 and mu_i = sum_j S_ij / (n - 1): equation 2, in which j = i
    counts among the squares and not in the mean, as in the released code.
    """
    cosine = unit @ unit.transpose(1, 2)
    cosine.diagonal(dim1=1, dim2=2).zero_()
    others = (members - 1).clamp_min(1).unsqueeze(1)  # [C, 1]
    mean = cosine.sum(dim=-1) / others
    variance = (cosine.square().sum(dim=-1) - (others - 1) * mean.square()) / others
    return variance.sum(dim=1) / members


def _share_out(weights: Tensor, budget: int) -> Tensor:
    """Whole shares of the budget, in proportion: [B, C] at least 0 -> [B, C] long, summing to the budget or less."""
    exact = weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) * budget
    shares = exact.floor().long()
    return shares + (rank_tokens(weights) < budget - shares.sum(dim=1, keepdim=True))
