"""Selectors by name: functions from a `Request` to a `Selection`.

    @register("mine", needs=("attention",))
    def select_mine(request: Request) -> Selection: ...

A selector receives float32 values without gradients and a budget of at most N. It returns the indices of the tokens to keep
(`Selection.indices`) or, if it merges tokens, the output that each token goes to (`Selection.assignment`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .clusters import Quadtree, grow_clusters, label_roots, plan_quadtree
from .config import GateConfig
from .ranking import cluster_tops, keep_best, rank_tokens
from .runs import VERTICAL, run_means, run_peaks, runs_of
from .terms import (
    PRINT,
    pixel_edges,
    relevance_term,
    spread_edges,
    spread_relevance,
    squashed_z,
    text_cosine,
    token_edges,
    variance_term,
)


@dataclass
class Request:
    """Input of a selector: B images of V views of R x C tokens, N = V * R * C."""

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
    """[B, N] float32, replaces the cosine to the text."""
    config: GateConfig
    attention: Tensor | None = None
    """[B, N] float32, attention that each token receives; given to selectors that need it."""
    keys: Tensor | None = None
    """[B, N, Dk] float32, keys of the same layer; given to selectors that need them."""

    def needed(self, name: Literal["attention", "keys"]) -> Tensor:
        """An input that the selector declared in `needs`; the gate refuses a call without it."""
        value = self.attention if name == "attention" else self.keys
        assert value is not None, f"the selector does not declare that it needs {name}"
        return value


@dataclass
class Selection:
    """Output of a selector."""

    indices: Tensor | None
    """[B, budget] long, ascending; None if the selector merges tokens."""
    scores: Tensor
    """[B, N] float32, tokens of higher score are kept first; all 0 if the selector does not rank."""
    clusters: Tensor
    """[B, N] long, cluster of every token; all 0 if the selector has no clusters."""
    total: Tensor | None = None
    """[B, D], sum of all tokens, if the selector computed it."""
    assignment: Tensor | None = None
    """[B, N] long, if the selector merges tokens: the output, 0 to budget - 1, that every token goes to, or -1 for none. Every
    output has at least one token. Outputs are in raster order of their first token, or of the token that the others joined."""
    weights: Tensor | None = None
    """[B, N] float32 above 0, weight of a token in the mean of its output; None means equal weights."""
    interpolation: tuple[Tensor, Tensor] | None = None
    """[B, budget, S] long and float32, if an output is interpolated between S tokens: their indices, and weights that sum to 1.
    `assignment` then has the output to which a token contributes most, and is not used for merging."""


Selector = Callable[[Request], Selection]
NEEDS = ("attention", "keys")
"""Inputs of `Request` that are expensive and therefore computed only for selectors that declare them."""


@dataclass(frozen=True)
class RegisteredSelector:
    """A selector and the inputs that it needs."""

    select: Selector
    needs: tuple[str, ...] = ()
    """A subset of `NEEDS`."""


SELECTORS: dict[str, RegisteredSelector] = {}


def register(name: str, needs: Sequence[str] = ()) -> Callable[[Selector], Selector]:
    """Decorator that registers a selector under a name.

    Args:
        needs: inputs that it requires in addition to the tokens: "attention", "keys" or both.

    Raises:
        ValueError: if the name is taken, or a need is neither of the two.
    """
    if unknown := set(needs) - set(NEEDS):
        raise ValueError(f"needs: {', '.join(sorted(unknown))}: a selector may need {' and '.join(NEEDS)}")

    def decorate(selector: Selector) -> Selector:
        if name in SELECTORS:
            raise ValueError(f"a selector named {name!r} exists already")
        SELECTORS[name] = RegisteredSelector(selector, tuple(needs))
        return selector

    return decorate


@register("shirg")
def select_shirg(request: Request) -> Selection:
    """Saliency, quadtree clusters, the best token of each cluster, then the best of the rest."""
    tokens, config = request.tokens, request.config
    grid_tokens = tokens.unflatten(1, request.grid)
    # 1. Squared length of every token, if a later step needs it
    tree = plan_quadtree(request.grid, config.max_cell)
    if config.min_cell > 1:
        tree = _limit_depth(tree, config.min_cell)
    splits = tree.splits(request.budget, config.clusters_per_budget)
    squares = None
    if splits or config.alpha or request.text is not None:
        squares = torch.linalg.vector_norm(tokens, dim=-1).square_()
    # 2. Clusters
    if squares is not None and splits:
        clusters, total = grow_clusters(grid_tokens, squares.unflatten(1, request.grid), tree, splits)
    else:
        clusters, total = label_roots(tree, tokens.shape[0], tokens.device), tokens.sum(dim=1)
    # 3. Saliency
    edges, runs = _edges(request, grid_tokens)
    scores = _saliency(request, edges, runs, squares, total / tokens.shape[1])
    # 4. Coverage and global rank
    ranks = rank_tokens(scores)
    tops = None
    if config.coverage:
        tops = cluster_tops(ranks, clusters, tree.count(request.budget, config.clusters_per_budget))
        if runs is not None:  # clusters without a run get no token, unless the whole page has no print
            printed = runs > 0
            tops &= printed | ~printed.any(dim=1, keepdim=True)
    return Selection(keep_best(ranks, request.budget, tops), scores, clusters, total)


def _limit_depth(tree: Quadtree, least: int) -> Quadtree:
    """The tree without the levels whose cells have a side of fewer than `least` tokens."""
    sides = tree.grid[1:]
    depth = tree.depth
    while depth and any(side // cells < least for side, cells in zip(sides, tree.cells(depth), strict=True)):
        depth -= 1
    return dataclasses.replace(tree, depth=depth)


def _edges(request: Request, grid_tokens: Tensor) -> tuple[Tensor, Tensor | None]:
    """Edge of every token [B, N] and, for edges of kind "runs", its run [B, N]; None for other kinds."""
    config, grid, pixels = request.config, request.grid, request.pixels
    if config.edge == "runs" and pixels is not None:
        edges, runs = runs_of(pixels, grid, config.edge_spread)
        return run_means(edges, runs, grid), runs
    edges = token_edges(grid_tokens) if pixels is None else pixel_edges(pixels, *grid[1:], config.edge)
    if config.edge_spread:
        vertical = VERTICAL if config.edge in PRINT else 1 / 3
        edges = spread_edges(edges, grid, config.edge_spread, vertical)
    return edges, None


def _saliency(request: Request, edges: Tensor, runs: Tensor | None, squares: Tensor | None, centre: Tensor) -> Tensor:
    """a * Var(v_i) + (1 - a) * max_j cos(v_i, t_j) + b * Edge(v_i), over the sum of the weights present: [B, N].

    SHIRG-v2's saliency. Var and Edge are scaled by `squashed_z`, the cosine by `relevance_term`. All tokens of a run get the
    greatest relevance among them.
    """
    alpha, beta, tokens = request.config.alpha, request.config.beta, request.tokens
    score = beta * squashed_z(edges)
    mean_square = None if squares is None else squares / tokens.shape[-1]
    if alpha and mean_square is not None:
        score = score + alpha * variance_term(tokens.mean(dim=-1), mean_square)
    cosine = request.relevance
    if request.text is not None and mean_square is not None:
        cosine = text_cosine(tokens, mean_square, centre, request.text)
    if cosine is None:
        return score / (alpha + beta)
    relevance = relevance_term(cosine)
    if runs is not None:
        relevance = run_peaks(relevance, runs, request.grid)
    if request.config.relevance_spread:
        relevance = spread_relevance(relevance, request.grid, request.config.relevance_spread)
    return (score + (1 - alpha) * relevance) / (1 + beta)


@register("random")
def select_random(request: Request) -> Selection:
    """Random tokens, drawn from `config.seed`: the same indices in every image and on every device."""
    batch, count, _ = request.tokens.shape
    ranks = _draw(count, request.config.seed).to(request.tokens.device).expand(batch, count)
    return Selection(keep_best(ranks, request.budget), 1 - ranks / count, torch.zeros_like(ranks))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # a generator cannot be traced
def _draw(count: int, seed: int) -> Tensor:
    """The permutation of a seed, [count] long; drawn on the CPU, so that every device gets the same."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


@register("uniform")
def select_uniform(request: Request) -> Selection:
    """Tokens spread evenly over rows and columns of all views, exactly `budget` of them."""
    batch, count, _ = request.tokens.shape
    places = even_places(request.budget, request.grid, request.tokens.device).expand(batch, request.budget)
    scores = request.tokens.new_zeros(batch, count).scatter_(1, places, 1.0)
    return Selection(places, scores, scores.new_zeros(batch, count, dtype=torch.long))


def even_places(budget: int, grid: tuple[int, int, int], device: torch.device) -> Tensor:
    """Indices of `budget` tokens on a lattice of near-square pitch: [budget] long, ascending.

    The lattice has the same number of lines in every view and divides the budget over the lines as evenly as whole numbers
    allow. Tokens are in the middle of equal parts of their line, lines in the middle of equal parts of their view.
    """
    _, rows, cols = grid
    lines = lattice_lines(budget, grid)
    line, place, places = lattice_slots(budget, grid, device)
    col = (2 * place + 1) * cols // (2 * places)
    row = (2 * (line % lines) + 1) * rows // (2 * lines)
    return (line // lines * rows + row) * cols + col


def lattice_lines(budget: int, grid: tuple[int, int, int]) -> int:
    """Lines per view that make the lattice's cells nearest to squares; a line is empty only if there are too few slots.

    Views that are too narrow for so many slots get more lines than there are slots; a cell then reaches into the next view.
    """
    views, rows, cols = grid
    lines = min(round(math.sqrt(budget / views * rows / cols)), budget // views)
    return min(max(lines, math.ceil(budget / (views * cols)), 1), rows)


def lattice_slots(budget: int, grid: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Line of every slot (numbered over all views), its index in that line, and the line's number of slots: [budget] each."""
    total = grid[0] * lattice_lines(budget, grid)
    slot = torch.arange(budget, device=device)
    line = slot * total // budget
    start, end = line_slots(line, budget, total)
    return line, slot - start, end - start


def line_slots(line: Tensor, budget: int, total: int) -> tuple[Tensor, Tensor]:
    """First slot of a line and of the next one, for `total` lines and `budget` slots: ceil(line * budget / total)."""
    start, end = (((line + extra) * budget + total - 1) // total for extra in (0, 1))
    return start, end
