"""Hierarchical clusters: a quadtree over the token grid, split where the cells vary most.

Every axis is divided into `roots` equal parts, and each part, level by level, into `factor` parts. Each split of a cell adds
the same number of cells, so the number of clusters depends on budget and grid alone, and all shapes are static.

Shapes: B images, V views, R x C tokens per view, N = V * R * C, D channels; a level has V x r x c cells ("nodes").
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

ENERGY_NOISE = 2e-6
"""Relative rounding error of a float32 sum of squares; smaller gains count as 0."""


@dataclass(frozen=True)
class Quadtree:
    """The shape of the tree over one grid. Level 0 holds the roots; level `depth` the finest cells."""

    grid: tuple[int, int, int]
    roots: tuple[int, int]
    factors: tuple[int, int]
    depth: int

    def cells(self, level: int) -> tuple[int, int]:
        """Rows and columns of cells in one view at a level."""
        return self.roots[0] * self.factors[0] ** level, self.roots[1] * self.factors[1] ** level

    @property
    def growth(self) -> int:
        """Clusters that one split adds."""
        return self.factors[0] * self.factors[1] - 1

    def nodes(self, level: int) -> int:
        """Number of cells of all views at a level."""
        return self.grid[0] * math.prod(self.cells(level))

    def splits(self, budget: int, clusters_per_budget: float) -> int:
        """Splits for the largest reachable number of clusters <= budget * clusters_per_budget.

        0 if the roots alone are that many or more: roots are never joined, since no cluster may exceed `max_cell`.
        """
        wanted = math.floor(budget * clusters_per_budget + 1e-9)  # 1e-9: 100 * 0.29 is 28.999... in binary
        most = sum(self.nodes(level) for level in range(self.depth))
        return min(max(wanted - self.nodes(0), 0) // max(self.growth, 1), most)

    def count(self, budget: int, clusters_per_budget: float) -> int:
        """Number of clusters at a budget."""
        return self.nodes(0) + self.growth * self.splits(budget, clusters_per_budget)


def plan_quadtree(grid: tuple[int, int, int], max_cell: int) -> Quadtree:
    """The tree for any grid (views, rows, cols). A side of 48 has six roots of 8, halved three times; 27 has nine roots of 3.

    A side that is a power of three is split into thirds, any other into halves. It has the fewest roots of at most `max_cell`
    tokens and as many levels as leave no cell empty. If a side does not divide evenly, its cells differ by one token. The
    shallower side sets the depth, so that all splits add the same number of clusters.
    """
    sides = [_plan_side(side, max_cell) for side in grid[1:]]
    depths = [depth for _, factor, depth in sides if factor > 1]
    depth = min(depths) if depths else 0
    return Quadtree(grid, (sides[0][0], sides[1][0]), (sides[0][1], sides[1][1]), depth)


def _plan_side(side: int, max_cell: int) -> tuple[int, int, int]:
    """Roots, factor and depth of one side; a side of one token is never split (factor 1)."""
    factor, roots = 2, math.ceil(side / max_cell)
    if side == 1:
        return 1, 1, 0
    if 3 ** round(math.log(side, 3)) == side:
        factor, roots = 3, 3 ** math.ceil(math.log(roots, 3) - 1e-9)
    depth = 0
    while roots * factor ** (depth + 1) <= side:
        depth += 1
    return roots, factor, depth


def grow_clusters(tokens: Tensor, squares: Tensor, tree: Quadtree, splits: int) -> tuple[Tensor, Tensor]:
    """Split the tree `splits` times per image, where the within-cell variance falls most.

    Args:
        tokens: [B, V, R, C, D] float32.
        squares: [B, V, R, C], squared norm of every token.

    Returns:
        Cluster id of every token, [B, N] long, 0 to M - 1; and the sum of all tokens, [B, D].
    """
    energies, total = _node_energies(tokens, squares, tree)
    chosen = _choose_splits(_split_gains(energies, tree), splits)
    return _label_tokens(chosen, tree, tokens.shape[0], tokens.device), total


def label_roots(tree: Quadtree, batch: int, device: torch.device) -> Tensor:
    """Cluster id of every token without any split, [B, N] long: its root."""
    return _label_tokens([], replace(tree, depth=0), batch, device)


def _node_energies(tokens: Tensor, squares: Tensor, tree: Quadtree) -> tuple[list[Tensor], Tensor]:
    """|sum|^2 / n of every node, finest level last: the part of its tokens' squared length that the node's mean explains."""
    cells = tree.cells(tree.depth)
    even = cells == tree.grid[1:]
    sums = tokens if even else _gather_cells(tokens, cells)  # [B, V, r, c, D]
    energies = [squares if even else _energy(sums, tree, tree.depth)]
    for level in range(tree.depth - 1, -1, -1):
        sums = _pool(sums, tree.factors)
        energies.append(_energy(sums, tree, level))
    return energies[::-1], sums.sum(dim=(1, 2, 3))


def _pool(values: Tensor, factors: tuple[int, int]) -> Tensor:
    """Sum the children of every node: [B, V, r * f, c * g, ...] -> [B, V, r, c, ...].

    Strided additions are several times faster on a CPU than a reduction over two inner dimensions.
    """
    blocks = values.unflatten(3, (-1, factors[1])).unflatten(2, (-1, factors[0]))  # [B, V, r, f, c, g, ...]
    children = [blocks[:, :, :, i, :, j] for i in range(factors[0]) for j in range(factors[1])]
    return functools.reduce(Tensor.add_, children[2:], children[0] + children[1])


def _energy(sums: Tensor, tree: Quadtree, level: int) -> Tensor:
    """Squared norm of each node's sum over its number of tokens: [B, V, r, c, D] -> [B, V, r, c]."""
    squares = torch.linalg.vector_norm(sums, dim=-1).square_()
    (_, rows, cols), (node_rows, node_cols) = tree.grid, tree.cells(level)
    if rows % node_rows == 0 and cols % node_cols == 0:
        return squares.div_((rows // node_rows) * (cols // node_cols))
    heights = torch.diff(_bounds(rows, node_rows, sums.device))
    widths = torch.diff(_bounds(cols, node_cols, sums.device))
    return squares.div_(heights.unsqueeze(-1) * widths)


def _bounds(side: int, cells: int, device: torch.device) -> Tensor:
    """First token of each of `cells` near-equal parts of a side, and the end: [cells + 1]."""
    return torch.arange(cells + 1, device=device) * side // cells


def _cell_of(side: int, cells: int, device: torch.device) -> Tensor:
    """Part of each token of a side: [side]."""
    return torch.bucketize(torch.arange(side, device=device), _bounds(side, cells, device)[1:], right=True)


def _gather_cells(tokens: Tensor, cells: tuple[int, int]) -> Tensor:
    """Sums over cells; uneven cells by two products with 0/1 matrices: [B, V, R, C, D] -> [B, V, r, c, D]."""
    rows, cols = tokens.shape[2:4]
    if rows % cells[0] == 0 and cols % cells[1] == 0:
        return _pool(tokens, (rows // cells[0], cols // cells[1]))
    row_cell, col_cell = (_cell_of(tokens.shape[axis], cells[axis - 2], tokens.device) for axis in (2, 3))
    row_sums = (torch.arange(cells[0], device=tokens.device).unsqueeze(-1) == row_cell).float()  # [r, R]
    col_sums = (torch.arange(cells[1], device=tokens.device).unsqueeze(-1) == col_cell).float()  # [c, C]
    bands = (row_sums @ tokens.flatten(3)).unflatten(-1, tokens.shape[3:])  # [B, V, r, C, D]
    return col_sums @ bands


def _split_gains(energies: list[Tensor], tree: Quadtree) -> list[Tensor]:
    """Decrease of the within-cell squared error by splitting a node, per level but the finest, at most that of its parent.

    Error before - error after = sum of the children's energies - the node's own (the squared lengths cancel).
    """
    gains: list[Tensor] = []
    for level in range(tree.depth):
        children = _pool(energies[level + 1], tree.factors)
        gain = children - energies[level]
        gain = torch.where(gain > ENERGY_NOISE * children, gain, 0.0)
        if gains:
            gain = torch.minimum(gain, _spread(gains[-1], tree.factors))
        gains.append(gain)
    return gains


def _spread(values: Tensor, factors: tuple[int, int]) -> Tensor:
    """Copy every node's value to its children: [B, V, r, c] -> [B, V, r * f, c * g]."""
    batch, views, rows, cols = values.shape
    wide = values[:, :, :, None, :, None].expand(batch, views, rows, factors[0], cols, factors[1])
    return wide.reshape(batch, views, rows * factors[0], cols * factors[1])


def _choose_splits(gains: list[Tensor], splits: int) -> list[Tensor]:
    """Mark the `splits` nodes of greatest gain, per level, by one stable sort.

    Parents come before their children and gain at least as much, so the ancestors of a chosen node are chosen too.
    """
    if not gains:
        return []
    flat = torch.cat([gain.flatten(1) for gain in gains], dim=1)
    order = flat.sort(dim=1, descending=True, stable=True).indices
    marks = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order[:, :splits], True)
    parts = marks.split([gain[0].numel() for gain in gains], dim=1)
    return [part.view_as(gain) for part, gain in zip(parts, gains, strict=True)]


def _label_tokens(chosen: list[Tensor], tree: Quadtree, batch: int, device: torch.device) -> Tensor:
    """Number the leaves, coarse before fine and in raster order within a level; every token gets its leaf's number."""
    views, rows, cols = tree.grid
    # 1. Nodes that exist in the split tree, per level, and those of them that are leaves
    exists = [torch.ones(batch, views, *tree.roots, dtype=torch.bool, device=device)]
    exists += [_spread(split, tree.factors) for split in chosen]
    leaves = [*(node & ~split for node, split in zip(exists[:-1], chosen, strict=True)), exists[-1]]
    # 2. Running numbers over all levels
    flat = torch.cat([leaf.flatten(1) for leaf in leaves], dim=1)
    numbers = (flat.cumsum(1) - 1).split([tree.nodes(level) for level in range(tree.depth + 1)], dim=1)
    # 3. Every node gets its own number if it exists, else that of the leaf above it
    label = numbers[0].view_as(exists[0])
    for level in range(1, tree.depth + 1):
        label = torch.where(exists[level], numbers[level].view_as(exists[level]), _spread(label, tree.factors))
    row_cell, col_cell = _cell_of(rows, label.shape[2], device), _cell_of(cols, label.shape[3], device)
    return label.index_select(2, row_cell).index_select(3, col_cell).flatten(1)
