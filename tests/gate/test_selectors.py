"""The registry and the two selectors that read no values."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.gate import SELECTORS, GateConfig, Selection, ShirgGate, register
from shirg.gate.selectors import even_places
from tests.tiny import formula

CPU = torch.device("cpu")


def test_uniform_is_the_middle_of_equal_parts():
    # 4 of 4 x 4: rows 1 and 3, columns 1 and 3
    assert even_places(4, (1, 4, 4), CPU).tolist() == [5, 7, 13, 15]
    # 3 of 4 x 4: two lines; three slots over two lines are 2 + 1, the single one in the middle of its line
    assert even_places(3, (1, 4, 4), CPU).tolist() == [5, 7, 14]
    # one per view of 1 x 3
    assert even_places(2, (2, 1, 3), CPU).tolist() == [1, 4]
    # three in a column of nine: no more lines than tokens
    assert even_places(3, (1, 9, 1), CPU).tolist() == [1, 4, 7]


def test_uniform_at_576_of_2304_is_every_second_token_of_every_second_row():
    rows = even_places(576, (1, 48, 48), CPU)
    assert rows.tolist() == [48 * row + col for row in range(1, 48, 2) for col in range(1, 48, 2)]


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)), st.data())
def test_uniform_keeps_exactly_the_budget_in_any_grid(grid, data):
    count = math.prod(grid)
    budget = data.draw(st.integers(1, count))
    places = even_places(budget, grid, CPU).tolist()
    assert len(set(places)) == budget and places == sorted(places) and places[0] >= 0 and places[-1] < count
    per_view = torch.bincount(torch.tensor(places) // (count // grid[0]), minlength=grid[0])
    assert per_view.max() - per_view.min() <= max(1, math.ceil(budget / grid[0] / 4))


@pytest.mark.parametrize("name", ["random", "uniform"])
def test_blind_selectors_answer_the_same_call(name):
    torch.manual_seed(0)
    tokens = torch.randn(2, 30, 4)
    kept = ShirgGate(formula(selector=name))(tokens, 11, (5, 6), text=torch.randn(2, 3, 4))
    assert kept.tokens.shape == (2, 12, 4) and kept.scores.shape == (2, 30) and kept.clusters.eq(0).all()
    assert torch.equal(kept.indices[0], kept.indices[1])  # they look at nothing
    dropped = torch.ones(30, dtype=torch.bool).index_fill(0, kept.indices[0], False)  # higher is kept
    assert kept.scores[0, kept.indices[0]].min() > kept.scores[0, dropped].max()


def test_random_follows_its_seed():
    tokens = torch.randn(1, 100, 4)
    first, again, other = (
        ShirgGate(formula(selector="random", seed=seed))(tokens, 20, (10, 10)).indices for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.unique().numel() == 20


def test_a_selector_of_ones_own(monkeypatch):
    monkeypatch.setitem(SELECTORS, "last", None)  # so that the entry made below is taken out again
    del SELECTORS["last"]

    @register("last")
    def select_last(request):
        places = torch.arange(request.tokens.shape[1])
        scores = places.float().expand(request.tokens.shape[:2])
        return Selection(places[-request.budget :][None], scores, torch.zeros_like(scores, dtype=torch.long))

    assert ShirgGate(formula(selector="last"))(torch.randn(1, 6, 2), 2, (2, 3)).indices.tolist() == [[4, 5]]
    with pytest.raises(ValueError, match="'last' exists"):
        register("last")(select_last)


def test_a_selector_is_given_what_it_needs_and_nothing_else(monkeypatch):
    monkeypatch.setitem(SELECTORS, "attended", None)
    del SELECTORS["attended"]
    seen = []

    @register("attended", needs=["attention"])
    def select_attended(request):
        seen.append((request.attention.dtype, request.keys))
        places = request.attention.topk(request.budget).indices.sort().values
        return Selection(places, request.attention, torch.zeros_like(request.attention, dtype=torch.long))

    gate = ShirgGate(formula(selector="attended"))
    attention = torch.tensor([[0.1, 0.5, 0.2, 0.3]], dtype=torch.float16)
    kept = gate(torch.randn(1, 4, 2), 2, (2, 2), attention=attention, keys=torch.randn(1, 4, 7))
    assert gate.needs == ("attention",) and seen == [(torch.float32, None)]
    assert kept.indices.tolist() == [[1, 3]] and kept.assignment.tolist() == [[-1, 0, -1, 1]]


def test_a_need_that_nobody_can_meet_is_refused():
    with pytest.raises(ValueError, match="needs: values: a selector may need attention and keys"):
        register("greedy", needs=("attention", "values"))


def test_an_unknown_selector_is_refused_with_the_list():
    with pytest.raises(ValueError, match="'magic' is unknown; there are .*random.*shirg.*uniform"):
        ShirgGate(formula(selector="magic"))


# ---------------------------------------------------------------- settings of the gate's own selector


def page_of_words() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [2, 576, 8] and pixels of 24 x 24 patches: strokes in some patches, nothing in the others."""
    torch.manual_seed(0)
    pixels = torch.ones(2, 3, 24 * 14, 24 * 14)
    strokes = torch.ones(14 * 24, 14 * 24)
    strokes[:, ::3] = -1
    printed = (torch.rand(2, 1, 24, 24) < 0.3).repeat_interleave(14, 2).repeat_interleave(14, 3)
    return torch.randn(2, 576, 8), torch.where(printed, strokes, pixels)


def test_new_settings_at_their_defaults_change_no_bit():
    tokens, pixels = page_of_words()
    plain = ShirgGate(formula())(tokens, 144, (24, 24), pixels=pixels)
    named = ShirgGate(formula(edge="gradient", edge_spread=0.0, relevance_spread=0.0, min_cell=1))
    named = named(tokens, 144, (24, 24), pixels=pixels)
    assert torch.equal(plain.indices, named.indices) and torch.equal(plain.scores, named.scores)


@pytest.mark.parametrize("change", [{"edge": "density"}, {"edge": "variance"}, {"edge_spread": 0.3}])
def test_settings_of_the_edge_change_scores_only_where_there_are_edges(change):
    tokens, pixels = page_of_words()
    gates = ShirgGate(formula()), ShirgGate(formula(**change))
    plain, changed = (gate(tokens, 144, (24, 24), pixels=pixels) for gate in gates)
    assert not torch.equal(plain.scores, changed.scores) and torch.equal(plain.clusters, changed.clusters)
    alone = (
        ShirgGate(dataclasses.replace(gate.config, beta=0.0))(tokens, 144, (24, 24), pixels=pixels) for gate in gates
    )
    assert torch.equal(next(alone).indices, next(alone).indices)


def test_relevance_spread_brings_the_printed_tokens_of_a_lifted_row():
    tokens, pixels = page_of_words()
    relevance = torch.zeros(2, 576)
    relevance[:, 100] = 1.0  # row 4
    plain, spread = (
        ShirgGate(formula(relevance_spread=share))(tokens, 100, (24, 24), pixels=pixels, relevance=relevance)
        for share in (0.0, 0.5)
    )
    lifted = spread.scores > plain.scores
    row = torch.arange(576) // 24 == 4
    assert torch.equal(lifted, (row & (relevance == 0)).expand(2, -1))
    printed = pixels[:, 0, ::14, ::14].flatten(1) < 0  # a patch's first column is a stroke where it is printed
    kept = torch.zeros(2, 576, dtype=torch.bool).scatter_(1, spread.indices, True)
    assert kept[row.expand(2, -1) & printed].all()


def test_edge_spread_needs_no_pixels():
    tokens, _ = page_of_words()
    plain, spread = (ShirgGate(formula(edge_spread=share))(tokens, 144, (24, 24)) for share in (0.0, 0.3))
    assert not torch.equal(plain.scores, spread.scores)


@pytest.mark.parametrize(("least", "clusters"), [(1, 36), (2, 36), (3, 36), (4, 36), (6, 9), (8, 9)])
def test_no_cluster_is_cut_below_its_least_side(least, clusters):
    # 24 x 24: nine cells of 8, halved to 4, 2 and 1. 144 * 0.25 = 36 clusters are wished for: all cells of 4, or a mixture.
    tokens, _ = page_of_words()
    gate = ShirgGate(formula(min_cell=least))
    kept = gate(tokens, 144, (24, 24))
    counts = [image.bincount() for image in kept.clusters]
    assert all(len(count) == clusters and count.min() >= least**2 for count in counts)
    if least == 4:
        assert all(count.eq(16).all() for count in counts)
        tiles = kept.clusters.view(2, 6, 4, 6, 4)
        assert tiles.amax((2, 4)).equal(tiles.amin((2, 4)))


def test_clusters_with_a_least_side_are_the_upper_levels_of_those_without():
    tokens, _ = page_of_words()
    tokens[:, :300] *= torch.linspace(1, 5, 300)[:, None]
    fine, coarse = (ShirgGate(formula(min_cell=least))(tokens, 96, (24, 24)).clusters for least in (1, 4))
    assert fine[0].bincount().min() < 16  # so there is something to be held back
    assert coarse[0].bincount().tolist().count(16) == 20 and coarse[0].unique().numel() == 24  # (24 - 9) / 3 splits


def test_the_ocr_preset_leaves_no_tile_empty_where_the_budget_allows():
    torch.manual_seed(0)
    tokens, gate = torch.randn(1, 2304, 16), ShirgGate(GateConfig.preset("ocr"))
    for budget, empty in ((480, 0), (512, 0), (1024, 0)):
        kept = gate(tokens, budget, (48, 48))
        tiles = (kept.assignment[0] >= 0).view(12, 4, 12, 4).any(3).any(1)
        assert int((~tiles).sum()) == empty and kept.clusters.unique().numel() == 144
    assert gate(tokens, 256, (48, 48)).clusters.unique().numel() == 75  # 36 + 13 * 3, of 76
