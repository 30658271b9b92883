"""Plain pooling: means over cells, and a token map of lower resolution."""

from __future__ import annotations

import torch
from torch import Tensor

from ..selectors import Request, Selection, lattice_lines, lattice_slots, line_slots, register


@register("pool")
def select_pool(request: Request) -> Selection:
    """Average pooling to exactly K near-square cells.

    LaViDa pools its views 2 x 2; here cells have unequal sizes, so that any K is possible: every view is divided into bands of
    rows, and every band into its share of the K cells.
    """
    batch, count, _ = request.tokens.shape
    cells = _cells(request.budget, request.grid, request.tokens.device).expand(batch, count)
    return Selection(None, *_blank(request), assignment=cells)


@register("downsample")
def select_downsample(request: Request) -> Selection:
    """Bilinear down-sampling of the token map to exactly K points.

    The points are the middles of the cells of "pool", interpolated between the (up to four) tokens around them. If K is a
    whole lattice, that is `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`. There is no anti-aliasing:
    tokens between points are dropped.
    """
    batch, count, _ = request.tokens.shape
    tokens, weights = _bilinear(request.budget, request.grid, request.tokens.device)
    share = request.tokens.new_zeros(count).index_add_(0, tokens.flatten(), weights.flatten())
    cells = torch.where(share > 0, _cells(request.budget, request.grid, request.tokens.device), -1)
    tokens, weights = (part.expand(batch, *part.shape) for part in (tokens, weights))
    return Selection(None, *_blank(request), assignment=cells.expand(batch, count), interpolation=(tokens, weights))


def _blank(request: Request) -> tuple[Tensor, Tensor]:
    """Scores and clusters of a selector without either: two [B, N] of zeros."""
    scores = request.tokens.new_zeros(request.tokens.shape[:2])
    return scores, torch.zeros_like(scores, dtype=torch.long)


def _cells(budget: int, grid: tuple[int, int, int], device: torch.device) -> Tensor:
    """Cell of every token, [N] long: the slot of `even_places`' lattice that contains the token's middle."""
    views, rows, cols = grid
    lines = lattice_lines(budget, grid)
    total = views * lines
    view, row, col = (torch.arange(side, device=device) for side in grid)
    line = view[:, None] * lines + (2 * row + 1) * lines // (2 * rows)  # [V, R]
    if total > budget:  # more views than cells: lines without a slot join the one before
        return (((line + 1) * budget - 1) // total).unsqueeze(-1).expand(grid).flatten()
    start, end = (slots.unsqueeze(-1) for slots in line_slots(line, budget, total))
    return (start + (2 * col + 1) * (end - start) // (2 * cols)).flatten()


def _bilinear(budget: int, grid: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The four tokens around every slot's middle and their weights: [budget, 4] long and float32."""
    _, rows, cols = grid
    lines = lattice_lines(budget, grid)
    line, place, places = lattice_slots(budget, grid, device)
    (top, bottom, down), (left, right, across) = (
        _between(line % lines, torch.full_like(line, lines), rows),
        _between(place, places, cols),
    )
    first = line // lines * rows * cols
    corners = [first + row * cols + col for row in (top, bottom) for col in (left, right)]
    weights = [y * x for y in (1 - down, down) for x in (1 - across, across)]
    return torch.stack(corners, dim=-1), torch.stack(weights, dim=-1)


def _between(part: Tensor, parts: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens before and after the middle of a part of a side, and its fractional position between them: [budget] each."""
    middle = (2 * part + 1) * side - parts  # over 2 * parts, in tokens; at least 0, since parts <= side
    before = middle // (2 * parts)
    return before, (before + 1).clamp_max(side - 1), (middle % (2 * parts)) / (2 * parts)
