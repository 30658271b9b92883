"""The quadtree: its shape for any grid, its cuts by hand and against a plain greedy reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.gate.clusters import grow_clusters, plan_quadtree

grids = st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 30))


def grow(tokens: torch.Tensor, budget: int, share: float = 0.25, max_cell: int = 8) -> tuple[torch.Tensor, int]:
    tree = plan_quadtree(tuple(tokens.shape[1:4]), max_cell)
    clusters, total = grow_clusters(tokens, tokens.square().sum(-1), tree, tree.splits(budget, share))
    torch.testing.assert_close(total, tokens.sum((1, 2, 3)), rtol=1e-4, atol=1e-3)
    return clusters, tree.count(budget, share)


@pytest.mark.parametrize(
    ("grid", "budget", "count"),
    [
        ((1, 48, 48), 768, 192),  # 36 + 3 * 52
        ((1, 48, 48), 512, 126),  # 36 + 3 * 30 <= 128
        ((1, 48, 48), 1024, 255),  # 36 + 3 * 73 <= 256
        ((1, 48, 48), 100, 36),  # 25 wanted, 36 roots
        ((1, 27, 27), 512, 121),  # 81 + 8 * 5 <= 128
        ((1, 27, 27), 729, 177),  # 81 + 8 * 12 <= 182
        ((5, 27, 27), 768, 405),  # the roots of five views
        ((5, 27, 27), 2048, 509),  # 405 + 8 * 13 <= 512
        ((1, 36, 36), 1296, 322),  # 5 x 5 uneven roots: 25 + 3 * 99 <= 324
        ((1, 1, 100), 100, 25),  # 13 roots, each split adds one
        ((1, 1, 1), 1, 1),
    ],
)
def test_number_of_clusters(grid, budget, count):
    assert plan_quadtree(grid, 8).count(budget, 0.25) == count


def test_a_share_that_is_not_exact_in_binary_loses_no_cluster():
    assert 100 * 0.29 < 29  # 28.999...
    assert plan_quadtree((1, 1, 100), 8).count(100, 0.29) == 29


def test_cuts_by_hand():
    # 4 x 4 grid of one channel. Quadrants: TL has two 1s, TR nothing, BL is 8 throughout, BR has one 4.
    #   gain of the root: (2^2 + 0 + 32^2 + 4^2) / 4 - 38^2 / 16 = 261 - 90.25
    #   gain of BR: 16 - 16 / 4 = 12;   of TL: 2 - 4 / 4 = 1;   of TR and BL: 0
    tokens = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [8, 8, 4, 0], [8, 8, 0, 0]]).float()[None, None, :, :, None]
    labels = {
        share: grow(tokens, 16, share, max_cell=4)[0].view(4, 4).tolist() for share in (1 / 16, 4 / 16, 7 / 16, 0.7)
    }
    assert labels[1 / 16] == [[0] * 4] * 4
    assert labels[4 / 16] == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
    assert labels[7 / 16] == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 4], [2, 2, 5, 6]]  # BR first
    assert labels[0.7] == [[2, 3, 0, 0], [4, 5, 0, 0], [1, 1, 6, 7], [1, 1, 8, 9]]  # then TL; 11.2 wanted, 10 reachable


def greedy(tokens: torch.Tensor, splits: int, max_cell: int) -> set[frozenset[int]]:
    """The same tree by recursion in float64: cut the open cell of greatest gain, never above its parent's gain."""
    tree = plan_quadtree((1, *tokens.shape[:2]), max_cell)
    index = torch.arange(tokens.shape[0] * tokens.shape[1]).view(tokens.shape[:2])
    values = tokens.double()

    def cell(level, row, col):
        (rows, cols), (height, width) = tree.cells(level), tokens.shape[:2]
        return (
            slice(row * height // rows, (row + 1) * height // rows),
            slice(col * width // cols, (col + 1) * width // cols),
        )

    def children(level, row, col):
        (f, g) = tree.factors
        return [(level + 1, row * f + i, col * g + j) for i in range(f) for j in range(g)]

    def error(*node):
        part = values[cell(*node)].flatten(0, 1)
        return float((part - part.mean(0)).square().sum())

    def gain(bound, *node):
        if node[0] == tree.depth:
            return -1.0
        return min(bound, error(*node) - sum(error(*child) for child in children(*node)))

    roots = [(0, row, col) for row in range(tree.roots[0]) for col in range(tree.roots[1])]
    leaves = {node: gain(math.inf, *node) for node in roots}
    for _ in range(splits):
        best = max(leaves, key=leaves.get)
        bound = leaves.pop(best)
        leaves |= {child: gain(bound, *child) for child in children(*best)}
    return {frozenset(index[cell(*node)].flatten().tolist()) for node in leaves}


@pytest.mark.parametrize(("side", "max_cell"), [((16, 24), 8), ((9, 27), 9), ((11, 13), 8), ((6, 9), 4)])
def test_cuts_equal_those_of_a_greedy_search(side, max_cell):
    torch.manual_seed(0)
    tokens = torch.randn(*side, 5) + 2
    tokens[: side[0] // 2] *= torch.linspace(0, 3, side[1])[:, None]  # something to find
    budget = side[0] * side[1]
    clusters, _ = grow(tokens[None, None], budget, 0.3, max_cell)
    found = {frozenset((clusters[0] == label).nonzero().flatten().tolist()) for label in clusters.unique()}
    tree = plan_quadtree((1, *side), max_cell)
    assert tree.splits(budget, 0.3) > 1
    assert found == greedy(tokens, tree.splits(budget, 0.3), max_cell)


@settings(max_examples=60, deadline=None)
@given(grid=grids, fraction=st.floats(0, 1), share=st.sampled_from([0.25, 0.5, 1.0]), max_cell=st.integers(1, 9))
def test_any_grid_has_the_planned_number_of_connected_clusters(grid, fraction, share, max_cell):
    views, rows, cols = grid
    torch.manual_seed(rows * 31 + cols)
    budget = max(1, round(fraction * math.prod(grid)))
    clusters, count = grow(torch.randn(2, *grid, 3), budget, share, max_cell)
    for image in clusters.view(2, *grid):
        assert image.unique().tolist() == list(range(count))
        view, row, col = torch.meshgrid(torch.arange(views), torch.arange(rows), torch.arange(cols), indexing="ij")
        for label in range(count):
            inside = image == label
            extents = [(place[inside].max() - place[inside].min() + 1).item() for place in (view, row, col)]
            # A full rectangle inside one view: connected, and no longer than the cap
            assert extents[0] == 1 and extents[1] * extents[2] == inside.sum() and max(extents[1:]) <= max_cell


@settings(max_examples=60, deadline=None)
@given(grid=grids, budget=st.integers(1, 2700))
def test_the_count_is_the_largest_the_tree_can_reach(grid, budget):
    tree = plan_quadtree(grid, 8)
    reachable = range(tree.nodes(0), tree.nodes(tree.depth) + 1, max(tree.growth, 1))
    below = [count for count in reachable if 4 * count <= budget]
    assert tree.count(budget, 0.25) == (below[-1] if below else tree.nodes(0))


def test_a_uniform_image_is_cut_from_the_top_left():
    # No gain anywhere: the stable sort takes coarse cells in raster order, whatever rounding says.
    tokens = torch.full((1, 1, 16, 16, 7), 0.1)
    clusters, count = grow(tokens, 28)
    assert count == 7
    assert clusters.view(16, 16)[8:].unique().tolist() == [1, 2]  # below: two whole roots; top left: four quarters
    assert clusters.view(16, 16)[:8, :8].unique().tolist() == [3, 4, 5, 6]
