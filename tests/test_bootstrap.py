"""Intervals and verdicts, on cases whose answer is plain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.bootstrap import MINIMUM_DIFFERING_PAGES, RESAMPLES, compare, mean_interval, ratio_interval, resample


def pages(count: int) -> list[str]:
    return [f"page {number}" for number in range(count)]


def test_one_page_has_no_interval():
    found = mean_interval([0.0, 1.0], ["a", "a"], seed=0)
    assert (found.mean, found.low, found.high, found.pages) == (0.5, None, None, 1)


def test_equal_seed_equal_interval():
    values = [number / 50 for number in range(50)]
    assert mean_interval(values, pages(50), seed=3) == mean_interval(values, pages(50), seed=3)
    assert mean_interval(values, pages(50), seed=3) != mean_interval(values, pages(50), seed=4)


def test_interval_has_the_width_of_the_binomial():
    # 400 fair coins: standard error 0.025, so 1.96 of them to either side.
    found = mean_interval([0.0, 1.0] * 200, pages(400), seed=0)
    assert found.low == pytest.approx(0.5 - 0.049, abs=0.006)
    assert found.high == pytest.approx(0.5 + 0.049, abs=0.006)


def test_no_spread_is_not_certainty():
    # 20 pages all wrong: a share p of right ones shows none with (1 - p) ** 20 = 2.5%, so p is up to 16.8%.
    wrong = mean_interval([0.0] * 20, pages(20), seed=0)
    assert (wrong.low, wrong.high) == pytest.approx((0.0, 0.1684), abs=1e-4)
    right = mean_interval([1.0] * 20, pages(20), seed=0)
    assert (right.low, right.high) == pytest.approx((0.8316, 1.0), abs=1e-4)
    alike = compare([1.0] * 20, [1.0] * 20, pages(20), seed=0).interval
    assert (alike.low, alike.high) == pytest.approx((-0.1684, 0.1684), abs=1e-4)


def test_questions_on_one_page_count_as_one_draw():
    # Ten questions on each page, all right or all wrong: as wide as one question on each page.
    values, owners = [0.0, 1.0] * 10, pages(20)
    single = mean_interval(values, owners, seed=0)
    repeated = mean_interval(
        [value for value in values for _ in range(10)], [page for page in owners for _ in range(10)], seed=0
    )
    assert repeated.high - repeated.low == pytest.approx(single.high - single.low, rel=0.15)


def test_verdicts():
    zeros, ones = [0.0] * 20, [1.0] * 20
    assert compare(ones, zeros, pages(20), seed=0).verdict == "better"
    assert compare(zeros, ones, pages(20), seed=0).verdict == "worse"
    assert compare(ones, ones, pages(20), seed=0).verdict == "undecided"
    mixed = compare([0.0, 1.0] * 10, [1.0, 0.0] * 10, pages(20), seed=0)
    assert mixed.verdict == "undecided" and mixed.interval.low < 0 < mixed.interval.high


def test_a_few_wins_are_no_verdict():
    few = MINIMUM_DIFFERING_PAGES - 1
    assert compare([1.0] * few, [0.0] * few, pages(few), seed=0).verdict == "undecided"
    assert compare([1.0] * (few + 1), [0.0] * (few + 1), pages(few + 1), seed=0).verdict == "better"
    one_page = compare([1.0] * 50, [0.0] * 50, ["a"] * 50, seed=0)
    assert one_page.verdict == "undecided"


def shares(found: np.ndarray) -> dict[float, float]:
    values, counts = np.unique(found.round(9), return_counts=True)
    return dict(zip(values.tolist(), (counts / found.size).tolist(), strict=True))


def test_trainings_and_pages_are_drawn_independently():
    # Two of each, and one question of the second page is right with the second training alone. The second of two is drawn
    # never, once or twice with 1/4, 1/2, 1/4; the mean is half the one number times half the other.
    found = resample(np.array([[0.0, 0.0], [0.0, 1.0]]), pages(2))
    wanted = {0.0: 7 / 16, 0.25: 1 / 4, 0.5: 1 / 4, 1.0: 1 / 16}
    assert shares(found.draws) == pytest.approx(wanted, abs=0.012)
    assert (found.interval.mean, found.interval.low, found.interval.high) == (0.25, 0.0, 1.0)
    assert found.differing_pages == 1


def test_one_training_is_a_bootstrap_over_pages():
    values, owners = [0.0, 1.0, 1.0] * 40, [number // 2 for number in range(120)]
    ours, theirs = resample(np.array([values]), owners).interval, mean_interval(values, owners, seed=0)
    assert (ours.mean, ours.questions, ours.pages) == (theirs.mean, 120, 60)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert resample(np.zeros((3, 20)), pages(20)).interval == mean_interval([0.0] * 20, pages(20), seed=0)


def test_p_values_are_shares_of_the_resamples_and_two_errors_more():
    # One draw of the two trainings in four has the first alone, so a quarter of the means is at most 0, and three quarters
    # are at least 0.5; the error is sqrt(1/4 * 3/4 / 20,000) = 0.0031.
    found = resample(np.array([[0.0] * 8, [1.0] * 8]), pages(8))
    assert found.p_above(0.0) == pytest.approx((found.draws <= 0).mean() + 0.0061, abs=2e-4)
    assert found.p_below(0.5) == pytest.approx((found.draws >= 0.5).mean() + 0.0061, abs=2e-4)
    assert found.p_above(0.0) == pytest.approx(0.256, abs=0.01) and found.p_below(0.5) == pytest.approx(0.756, abs=0.01)
    assert 0 < found.p_above(-0.1) < 0.001


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="one column"):
        resample(np.zeros((2, 3)), pages(2))
    with pytest.raises(ValueError, match="2 and 1"):
        mean_interval([0.0, 1.0], ["a"], seed=0)
    with pytest.raises(ValueError, match="above zero"):
        mean_interval([], [], seed=0)
    with pytest.raises(ValueError, match="2 and 1"):
        compare([0.0, 1.0], [0.0], ["a", "b"], seed=0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from("abcdef")), min_size=1, max_size=30))
def test_an_interval_stays_within_the_values_and_the_order_of_rows_is_no_matter(pairs):
    values, owners = zip(*pairs, strict=True)
    found = mean_interval(values, owners, seed=0)
    turned = mean_interval(values[::-1], owners[::-1], seed=0)
    assert turned.mean == pytest.approx(found.mean)
    if found.low is None:
        assert len(set(owners)) == 1
    elif len(set(values)) > 1:
        assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
        assert (turned.low, turned.high) == pytest.approx((found.low, found.high))


def test_the_number_of_draws_is_a_choice():
    values = [0.0, 1.0, 1.0, 0.0, 1.0] * 8
    assert mean_interval(values, pages(40), seed=0, resamples=RESAMPLES) == mean_interval(values, pages(40), seed=0)
    few = [mean_interval(values, pages(40), seed=seed, resamples=50).low for seed in range(20)]
    many = [mean_interval(values, pages(40), seed=seed).low for seed in range(20)]
    assert max(many) - min(many) < (max(few) - min(few)) / 2


def test_ratio_is_of_sums_per_column_with_pages_drawn_whole():
    """Columns count alike: 6/4 and 1/2. Two pages, so that every resample is one of three: either page twice, or both."""
    ours, theirs = np.array([[2.0, 0.5], [2.0, 0.25], [2.0, 0.25]]), np.array([[2.0, 1.0], [1.0, 0.5], [1.0, 0.5]])
    found = ratio_interval(ours, theirs, ["a", "b", "b"], seed=0)
    assert (found.mean, found.low, found.high) == (1.0, (1 + 0.5) / 2, (2 + 0.5) / 2)
    assert (found.questions, found.pages) == (3, 2)
    assert ratio_interval(ours, theirs, ["a"] * 3, seed=0).low is None
    for pages in (["a"], []):
        with pytest.raises(ValueError, match="same questions"):
            ratio_interval(ours, theirs, pages, seed=0)
