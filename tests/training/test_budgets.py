"""The component of a step: a pure function with the right histogram."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.errors import UserError
from shirg.training.budgets import POOLED, BudgetSampler, Component, components_of

BUDGETS = [512, 768, 1024]


def histogram(sampler: BudgetSampler, steps) -> Counter:
    return Counter(sampler(step).name for step in steps)


def by_name(sampler: BudgetSampler) -> dict:
    """The chances of a step by the components' names."""
    return {component.name: chance for component, chance in sampler.probabilities(0).items()}


def test_uniform_takes_every_component_once_per_window():
    sampler = BudgetSampler(BUDGETS, seed=3)
    assert sampler.components == (*(Component("shirg", budget) for budget in BUDGETS), POOLED)
    for window in range(50):
        assert histogram(sampler, range(4 * window, 4 * window + 4)) == Counter([*BUDGETS, "pooled"])
    orders = {tuple(sampler(4 * window + place).name for place in range(4)) for window in range(200)}
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
    chances = by_name(BudgetSampler(BUDGETS, sampling="weighted"))
    assert chances[512] / chances[1024] == pytest.approx(1025 / 513)
    assert chances["pooled"] / chances[512] == pytest.approx(513 / 980)
    assert sum(chances.values()) == pytest.approx(1)
    with_newlines = by_name(BudgetSampler(BUDGETS, sampling="weighted", pooled_tokens=1008))
    assert with_newlines["pooled"] / with_newlines[512] == pytest.approx(513 / 1008)


def test_curriculum_opens_from_gentle_to_hard():
    sampler = BudgetSampler(BUDGETS, sampling="curriculum", total_steps=800, seed=2)
    assert histogram(sampler, range(100)).keys() == {"pooled"}
    assert histogram(sampler, range(100, 200)).keys() == {"pooled", 1024}
    assert histogram(sampler, range(200, 300)).keys() == {"pooled", 1024, 768}
    late = histogram(sampler, range(400, 800))
    assert set(late) == {*BUDGETS, "pooled"}
    assert max(late.values()) - min(late.values()) <= 4


def test_curriculum_without_the_pooled_path_begins_with_the_largest_budget():
    sampler = BudgetSampler([16, 64], include_pooled=False, sampling="curriculum", total_steps=40)
    assert histogram(sampler, range(10)).keys() == {64}


def test_one_component_is_always_drawn():
    assert histogram(BudgetSampler([100], include_pooled=False), range(20)) == {100: 20}


def test_a_component_is_a_path_and_a_budget():
    fixed, auto, pooled = components_of([768, "auto"])
    assert [(one.path, one.name, str(one)) for one in (fixed, auto, pooled)] == [
        ("shirg", 768, "768"),
        ("shirg", "auto", "auto"),
        ("hd", "pooled", "pooled"),
    ]
    assert [one.tokens(1008) for one in (fixed, auto, pooled)] == [769, 1025, 1008]  # auto by its upper bound
    assert components_of([8], include_pooled=False) == (Component("shirg", 8),)


def test_early_is_a_component_at_every_budget_that_continuous_leaves_alone():
    mixture = components_of([8, "auto"], include_early=True)
    assert [(one.path, one.name) for one in mixture] == [
        *(("shirg", 8), ("shirg", "auto"), ("early", "early-8"), ("early", "early-auto"), ("hd", "pooled")),
    ]
    assert [one.tokens(980) for one in mixture] == [9, 1025, 9, 1025, 980]
    sampler = BudgetSampler([512], include_early=True, sampling="continuous", budget_range=(8, 64), seed=1)
    drawn = [sampler(step) for step in range(300)]
    assert Counter(map(sampler.group, drawn)) == {"8-64": 100, "early-512": 100, "pooled": 100}
    assert (
        sampler.micro_batches(next(i for i, one in enumerate(drawn) if one.path == "early"), 2)
        == [Component("early", 512)] * 2
    )


def test_auto_is_weighted_and_opened_by_its_upper_bound():
    weighted = by_name(BudgetSampler(["auto", 512], sampling="weighted"))
    assert weighted["auto"] / weighted[512] == pytest.approx(513 / 1025)
    sampler = BudgetSampler([512, "auto"], include_pooled=False, sampling="curriculum", total_steps=40)
    assert histogram(sampler, range(10)).keys() == {"auto"}


def test_continuous_draws_log_uniformly_and_keeps_the_other_components():
    sampler = BudgetSampler([512, "auto", 768], sampling="continuous", budget_range=(128, 1024), seed=2)
    drawn = [sampler(step) for step in range(4000)]
    assert Counter(map(sampler.group, drawn)) == {"128-1024": 2000, "auto": 1000, "pooled": 1000}
    budgets = sorted(one.budget for one in drawn if isinstance(one.budget, int))
    assert budgets[0] >= 128 and budgets[-1] <= 1024
    for share, expected in ((1 / 3, 256), (2 / 3, 512)):  # every doubling is as likely as another
        assert budgets[int(share * 2000)] == pytest.approx(expected, rel=0.03)
    for window in range(0, 4000, 4):  # the two draws of a window are from its two halves, 362 in the middle
        low, high = sorted(one.budget for one in drawn[window : window + 4] if isinstance(one.budget, int))
        assert low <= 362 <= high
    assert sampler.groups == ["128-1024", "auto", "pooled"]


def test_chances_of_continuous_stand_for_its_draws():
    sampler = BudgetSampler([512, 768], sampling="continuous", budget_range=(64, 1024))
    chances = sampler.probabilities(0)
    assert sum(chances.values()) == pytest.approx(1) and chances[POOLED] == pytest.approx(1 / 3)
    mean = sum(chance * one.most for one, chance in chances.items() if one.most)
    assert mean == pytest.approx(2 / 3 * (1024 - 64) / math.log(1024 / 64), rel=0.01)  # of a log-uniform number
    assert max(one.most for one in sampler.bounds if one.most) == 1024


def test_sandwich_gives_every_third_micro_batch_the_smallest_and_the_largest():
    sampler = BudgetSampler([512], include_pooled=False, sampling="continuous", budget_range=(8, 64), seed=1)
    assert [one.budget for one in sampler.micro_batches(5, 3)[:2]] == [8, 64]
    drawn = [one.budget for step in range(300) for one in sampler.micro_batches(step, 2)]
    assert drawn[0::3] == [8] * 200 and drawn[1::3] == [64] * 200
    assert len(set(drawn[2::3])) > 30 and min(drawn) == 8 and max(drawn) == 64
    assert sampler.micro_batches(7, 1) == [sampler(7)]
    assert sampler.micro_batches(7, 4) == sampler.micro_batches(7, 4)
    fixed = BudgetSampler([512, 768], seed=1)
    assert fixed.micro_batches(3, 4) == [fixed(3)] * 4


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"budgets": []}, "empty"),
        ({"budgets": [0]}, "0 is not a budget"),
        ({"budgets": [512.0]}, "512.0 is not a budget"),
        ({"budgets": [8, 8]}, "twice"),
        ({"budgets": ["auto", 8, "auto"]}, "twice"),
        ({"budgets": ["all"]}, "'all' is not a budget; .* or 'auto'"),
        ({"budgets": [8], "sampling": "sometimes"}, "uniform, weighted, curriculum"),
        ({"budgets": ["auto"], "sampling": "continuous"}, "at least one number"),
        ({"budgets": [8], "budget_range": (64, 8)}, r"budget_range: got \[64, 8\]"),
        ({"budgets": [8], "budget_range": (8, 16, 32)}, "smallest and the largest"),
        ({"budgets": [8], "weights": [1, 1]}, "only ratio_sampling='weighted'"),
        ({"budgets": [8], "sampling": "weighted", "weights": [1]}, "1 given for 2 components"),
        ({"budgets": [8], "sampling": "weighted", "weights": [1, 0]}, "positive"),
    ],
)
def test_mistakes_are_named(keywords, message):
    with pytest.raises(UserError, match=message):
        BudgetSampler(**keywords)
