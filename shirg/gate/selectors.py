"""Rules that choose tokens, by name. Each takes a `Request` and gives a `Selection`, so comparing rules is one setting.

    @register("mine")
    def select_mine(request: Request) -> Selection: ...

A selector sees float32 values, gradients off, and a budget that is at most N.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .clusters import grow_clusters, plan_quadtree
from .config import GateConfig
from .ranking import cluster_tops, keep_best, rank_tokens
from .terms import pixel_edges, relevance_term, text_cosine, token_edges, unusualness, variance_term


@dataclass
class Request:
    """What a selector may look at: B images of V views of R x C tokens, N = V * R * C."""

    tokens: Tensor
    """[B, N, D] float32."""
    budget: int
    """Tokens to keep per image (all views together), 1 to N."""
    grid: tuple[int, int, int]
    """(V, R, C)."""
    text: Tensor | None
    """[B, L, D] float32."""
    pixels: Tensor | None
    """[B, V, 3, H, W]."""
    relevance: Tensor | None
    """[B, N] float32, stands in for the cosine to the text."""
    config: GateConfig


@dataclass
class Selection:
    """What a selector decided."""

    indices: Tensor
    """[B, budget] long, ascending."""
    scores: Tensor
    """[B, N] float32, higher is kept sooner."""
    clusters: Tensor
    """[B, N] long, cluster of every token; all 0 for rules without clusters."""
    total: Tensor | None = None
    """[B, D], sum of all tokens, from rules that computed it on the way."""


Selector = Callable[[Request], Selection]
SELECTORS: dict[str, Selector] = {}


def register(name: str) -> Callable[[Selector], Selector]:
    """Decorator that enters a selector under a name. Raises ValueError if the name is taken."""

    def enter(selector: Selector) -> Selector:
        if name in SELECTORS:
            raise ValueError(f"a selector named {name!r} exists already")
        SELECTORS[name] = selector
        return selector

    return enter


@register("shirg")
def select_shirg(request: Request) -> Selection:
    """Saliency, quadtree clusters, the best token of each cluster, then the best of the rest."""
    tokens, config = request.tokens, request.config
    grid_tokens = tokens.unflatten(1, request.grid)
    # 1. Moments of every token, one pass each
    mean = tokens.mean(dim=-1)
    mean_square = torch.linalg.vector_norm(tokens, dim=-1).square_() / tokens.shape[-1]
    # 2. Clusters
    tree = plan_quadtree(request.grid, config.max_cell)
    splits = tree.splits(request.budget, config.clusters_per_budget)
    squares = (mean_square * tokens.shape[-1]).unflatten(1, request.grid)
    clusters, total = grow_clusters(grid_tokens, squares, tree, splits)
    # 3. Saliency
    scores = _saliency(request, grid_tokens, mean, mean_square, total / tokens.shape[1])
    # 4. Coverage and global rank
    ranks = rank_tokens(scores)
    count = tree.count(request.budget, config.clusters_per_budget)
    tops = cluster_tops(ranks, clusters, count) if config.coverage else None
    return Selection(keep_best(ranks, request.budget, tops), scores, clusters, total)


def _saliency(request: Request, grid_tokens: Tensor, mean: Tensor, mean_square: Tensor, centre: Tensor) -> Tensor:
    """a * Var(v_i) + (1 - a) * max_j cos(v_i, t_j) + b * Edge(v_i), over the sum of the weights present: [B, N].

    SHIRG-v2's saliency. Var and Edge are scaled by `unusualness`, the cosine by `relevance_term`.
    """
    alpha, beta = request.config.alpha, request.config.beta
    pixels = request.pixels
    edges = token_edges(grid_tokens) if pixels is None else pixel_edges(pixels, *request.grid[1:])
    score = alpha * variance_term(mean, mean_square) + beta * unusualness(edges)
    cosine = request.relevance
    if request.text is not None:
        cosine = text_cosine(request.tokens, mean_square, centre, request.text)
    if cosine is None:
        return score / (alpha + beta)
    return (score + (1 - alpha) * relevance_term(cosine)) / (1 + beta)


@register("random")
def select_random(request: Request) -> Selection:
    """Tokens drawn without looking, by `config.seed` alone: the same places in every image, on every device."""
    batch, count, _ = request.tokens.shape
    draw = torch.randperm(count, generator=torch.Generator().manual_seed(request.config.seed))
    ranks = draw.to(request.tokens.device).expand(batch, count)
    return Selection(keep_best(ranks, request.budget), 1 - ranks / count, torch.zeros_like(ranks))


@register("uniform")
def select_uniform(request: Request) -> Selection:
    """Tokens spread evenly over rows and columns of all views, exactly `budget` of them."""
    batch, count, _ = request.tokens.shape
    places = even_places(request.budget, request.grid, request.tokens.device).expand(batch, request.budget)
    scores = request.tokens.new_zeros(batch, count).scatter_(1, places, 1.0)
    return Selection(places, scores, scores.new_zeros(batch, count, dtype=torch.long))


def even_places(budget: int, grid: tuple[int, int, int], device: torch.device) -> Tensor:
    """Indices of `budget` tokens on a lattice of near-square pitch: [budget] long, ascending.

    The lattice takes the same number of rows from every view, and shares the budget out over its lines as evenly as
    whole numbers allow; tokens stand in the middle of equal parts of their line, and lines in the middle of equal parts
    of their view.
    """
    views, rows, cols = grid
    lines = round(math.sqrt(budget / views * rows / cols))
    lines = min(max(lines, math.ceil(budget / (views * cols)), 1), rows)
    total = views * lines
    slot = torch.arange(budget, device=device)
    line = slot * total // budget
    # First slot of the line and of the next: ceil(line * K / total)
    start, end = (((line + extra) * budget + total - 1) // total for extra in (0, 1))
    col = (2 * (slot - start) + 1) * cols // (2 * (end - start))
    row = (2 * (line % lines) + 1) * rows // (2 * lines)
    return (line // lines * rows + row) * cols + col
