"""Functions that several baselines share: indices, directions, relevance.

Shapes: B images, N tokens, D channels, K the budget.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..selectors import Request, Selection
from ..terms import text_cosine

STRIPS = 6
"""Number of strips in `cosines`; more save little work and cost more calls."""


def directions(values: Tensor) -> Tensor:
    """Vectors of unit length: [B, N, D] -> [B, N, D]; a zero vector stays zero."""
    return values / torch.linalg.vector_norm(values, dim=-1, keepdim=True).clamp_min(1e-12)


def cosines(values: Tensor) -> Tensor:
    """Cosine of every two tokens: [B, N, D] -> [B, N, N], exactly symmetric.

    Computed in strips up to the diagonal and mirrored: 7/12 of the work of the whole product.
    """
    unit = directions(values)
    batch, count, _ = unit.shape
    strip = -(-count // STRIPS)
    result = unit.new_empty(batch, count, count)
    for start in range(0, count, strip):
        end = start + strip
        part = unit[:, start:end] @ unit[:, :end].transpose(1, 2)
        result[:, start:end, :end] = part
        result[:, :start, start:end] = part[..., :start].transpose(1, 2)
    return result


def split_places(chosen: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Indices of the `number` chosen and of the other tokens, ascending: [B, N] bool -> [B, number], [B, N - number]."""
    order = chosen.sort(dim=1, descending=True, stable=True).indices
    return order[:, :number], order[:, number:]


def spread(number: int, count: int, device: torch.device) -> Tensor:
    """Middles of `number` equal parts of a row of `count`: [number] long, ascending, each once (number <= count)."""
    return (2 * torch.arange(number, device=device) + 1) * count // (2 * number)


def marked(places: Tensor, count: int) -> Tensor:
    """Whether a token is at one of the indices: [B, M] long -> [B, count] bool."""
    return torch.zeros(places.shape[0], count, dtype=torch.bool, device=places.device).scatter_(1, places, True)


def number_anchors(anchors: Tensor) -> Tensor:
    """From the index of the token that each token joins (its own, if it is an anchor) to the number of that output.

    [B, N] long -> [B, N] long; -1, for tokens that join none, is kept.
    """
    own = anchors == torch.arange(anchors.shape[1], device=anchors.device)
    numbers = own.cumsum(dim=1) - 1
    return torch.where(anchors < 0, -1, numbers.gather(1, anchors.clamp_min(0)))


def question_relevance(request: Request) -> Tensor | None:
    """Cosine of every token to the question, [B, N], or None without a question. The same as in SHIRG's own selector."""
    if request.text is None:
        return request.relevance
    mean_square = request.tokens.square().mean(dim=-1)
    return text_cosine(request.tokens, mean_square, request.tokens.mean(dim=1), request.text)


def min_max(values: Tensor) -> Tensor:
    """Values stretched to [0, 1] per image: [B, N] -> [B, N]; all 0 where all are equal."""
    low, high = values.aminmax(dim=1, keepdim=True)
    return (values - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)


def attended(attention: Tensor, places: Tensor) -> Selection:
    """A selection with scores by attention: [B, N], and indices [B, K] long, ascending.

    Scores are the attention over its maximum, plus 2 for kept tokens, so that they are above the dropped ones.
    """
    peak = attention.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    scores = attention / peak + 2 * marked(places, attention.shape[1])
    return Selection(places, scores, torch.zeros_like(scores, dtype=torch.long))
