"""The registry and the two blind selectors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.gate import SELECTORS, GateConfig, Selection, ShirgGate, register
from shirg.gate.selectors import even_places

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
    kept = ShirgGate(GateConfig(selector=name))(tokens, 11, (5, 6), text=torch.randn(2, 3, 4))
    assert kept.tokens.shape == (2, 12, 4) and kept.scores.shape == (2, 30) and kept.clusters.eq(0).all()
    assert torch.equal(kept.indices[0], kept.indices[1])  # they look at nothing
    dropped = torch.ones(30, dtype=torch.bool).index_fill(0, kept.indices[0], False)  # higher is kept
    assert kept.scores[0, kept.indices[0]].min() > kept.scores[0, dropped].max()


def test_random_follows_its_seed():
    tokens = torch.randn(1, 100, 4)
    first, again, other = (
        ShirgGate(GateConfig(selector="random", seed=seed))(tokens, 20, (10, 10)).indices for seed in (1, 1, 2)
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

    assert ShirgGate(GateConfig(selector="last"))(torch.randn(1, 6, 2), 2, (2, 3)).indices.tolist() == [[4, 5]]
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

    gate = ShirgGate(GateConfig(selector="attended"))
    attention = torch.tensor([[0.1, 0.5, 0.2, 0.3]], dtype=torch.float16)
    kept = gate(torch.randn(1, 4, 2), 2, (2, 2), attention=attention, keys=torch.randn(1, 4, 7))
    assert gate.needs == ("attention",) and seen == [(torch.float32, None)]
    assert kept.indices.tolist() == [[1, 3]] and kept.assignment.tolist() == [[-1, 0, -1, 1]]


def test_a_need_that_nobody_can_meet_is_refused():
    with pytest.raises(ValueError, match="needs: values: a selector may need attention and keys"):
        register("greedy", needs=("attention", "values"))


def test_an_unknown_selector_is_refused_with_the_list():
    with pytest.raises(ValueError, match="'magic' is unknown; there are .*random.*shirg.*uniform"):
        ShirgGate(GateConfig(selector="magic"))
