"""The ratio of a step: a pure function with the right histogram."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.errors import UserError
from shirg.training.budgets import POOLED, BudgetSampler, ratio_tokens

BUDGETS = [512, 768, 1024]


def histogram(sampler: BudgetSampler, steps) -> Counter:
    return Counter(sampler(step) for step in steps)


def test_uniform_takes_every_ratio_once_per_window():
    sampler = BudgetSampler(BUDGETS, seed=3)
    assert sampler.ratios == (512, 768, 1024, POOLED)
    for window in range(50):
        assert histogram(sampler, range(4 * window, 4 * window + 4)) == Counter(sampler.ratios)
    orders = {tuple(sampler(4 * window + place) for place in range(4)) for window in range(200)}
    assert len(orders) == 24  # all orders occur


@given(seed=st.integers(0, 2**40), step=st.integers(0, 10**6), sampling=st.sampled_from(["uniform", "weighted"]))
@settings(max_examples=50, deadline=None)
def test_a_draw_depends_on_seed_and_step_alone(seed, step, sampling):
    first = BudgetSampler(BUDGETS, sampling=sampling, seed=seed)
    histogram(first, range(5))  # earlier draws leave no trace
    assert first(step) == BudgetSampler(BUDGETS, sampling=sampling, seed=seed, total_steps=9)(step)


def test_seeds_differ():
    draws = {tuple(BudgetSampler(BUDGETS, seed=seed)(step) for step in range(8)) for seed in range(10)}
    assert len(draws) > 5


def test_weighted_histogram_follows_the_weights():
    sampler = BudgetSampler(BUDGETS, include_pooled=False, sampling="weighted", weights=[5, 3, 2], seed=1)
    drawn = histogram(sampler, range(6000))
    for budget, share in zip(BUDGETS, (0.5, 0.3, 0.2), strict=True):
        assert drawn[budget] / 6000 == pytest.approx(share, abs=0.02)


def test_weighted_without_weights_prefers_what_drops_most():
    chances = BudgetSampler(BUDGETS, sampling="weighted").probabilities(0)
    assert chances[512] / chances[1024] == pytest.approx(1025 / 513)
    assert chances[POOLED] / chances[512] == pytest.approx(513 / 980)
    assert sum(chances.values()) == pytest.approx(1)
    with_newlines = BudgetSampler(BUDGETS, sampling="weighted", pooled_tokens=1008).probabilities(0)
    assert with_newlines[POOLED] / with_newlines[512] == pytest.approx(513 / 1008)


def test_curriculum_opens_from_gentle_to_hard():
    sampler = BudgetSampler(BUDGETS, sampling="curriculum", total_steps=800, seed=2)
    assert histogram(sampler, range(100)).keys() == {POOLED}
    assert histogram(sampler, range(100, 200)).keys() == {POOLED, 1024}
    assert histogram(sampler, range(200, 300)).keys() == {POOLED, 1024, 768}
    late = histogram(sampler, range(400, 800))
    assert set(late) == set(sampler.ratios)
    assert max(late.values()) - min(late.values()) <= 4


def test_curriculum_without_the_pooled_path_begins_with_the_largest_budget():
    sampler = BudgetSampler([16, 64], include_pooled=False, sampling="curriculum", total_steps=40)
    assert histogram(sampler, range(10)).keys() == {64}


def test_one_ratio_is_always_drawn():
    assert histogram(BudgetSampler([100], include_pooled=False), range(20)) == {100: 20}


def test_tokens_of_a_ratio():
    assert ratio_tokens(768, 1008) == 769
    assert ratio_tokens(POOLED, 1008) == 1008


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"budgets": []}, "empty"),
        ({"budgets": [0]}, "0 is not a budget"),
        ({"budgets": [512.0]}, "512.0 is not a budget"),
        ({"budgets": [8, 8]}, "twice"),
        ({"budgets": [8], "sampling": "sometimes"}, "uniform, weighted, curriculum"),
        ({"budgets": [8], "weights": [1, 1]}, "only ratio_sampling='weighted'"),
        ({"budgets": [8], "sampling": "weighted", "weights": [1]}, "1 given for 2 ratios"),
        ({"budgets": [8], "sampling": "weighted", "weights": [1, 0]}, "positive"),
    ],
)
def test_mistakes_are_named(keywords, message):
    with pytest.raises(UserError, match=message):
        BudgetSampler(**keywords)
