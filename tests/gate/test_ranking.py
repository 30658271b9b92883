"""Ranks, cluster tops and the choice, with ties."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.gate.ranking import cluster_tops, keep_best, rank_tokens


def test_ties_go_to_the_lower_index():
    assert rank_tokens(torch.tensor([[1.0, 2.0, 2.0, 1.0], [0.0, -0.0, 0.0, 5.0]])).tolist() == [
        [2, 0, 1, 3],
        [1, 2, 3, 0],
    ]
    assert keep_best(rank_tokens(torch.zeros(1, 1000)), 300).tolist() == [list(range(300))]


def test_tops_of_clusters_come_first():
    scores = torch.tensor([[9.0, 8.0, 7.0, 1.0, 1.0, 6.0]])
    clusters = torch.tensor([[0, 0, 0, 1, 1, 2]])
    ranks = rank_tokens(scores)
    tops = cluster_tops(ranks, clusters, 3)
    assert tops.tolist() == [[True, False, False, True, False, True]]
    assert keep_best(ranks, 4, tops).tolist() == [[0, 1, 3, 5]]
    assert keep_best(ranks, 2, tops).tolist() == [[0, 5]]  # fewer than clusters: the best tops, never a second token


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.data())
def test_choice_equals_sorting_in_python(values, data):
    labels = data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)))
    budget = data.draw(st.integers(1, len(values)))
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    tops = {min((i for i in order if labels[i] == label), key=order.index) for label in labels}
    wanted = sorted(sorted(range(len(values)), key=lambda i: (i not in tops, order.index(i)))[:budget])
    ranks = rank_tokens(torch.tensor([values], dtype=torch.float32))
    found = keep_best(ranks, budget, cluster_tops(ranks, torch.tensor([labels]), 4))
    assert found.tolist() == [wanted]
