"""Metrics worked by hand from the benchmarks' papers and scorers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.evaluation.metrics import (
    METRICS,
    anls,
    contains_match,
    exact_match,
    formula_contains,
    normalise_vqa,
    numeric_match,
    option_letter,
    relaxed_accuracy,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("105", "100", 1.0),  # exactly 5% off
        ("105.01", "100", 0.0),
        ("95", "100", 1.0),
        ("-100", "100", 0.0),
        ("12%", "0.12", 1.0),
        ("12", "12%", 0.0),  # 12 against 0.12
        ("0.0", "0", 0.0),  # a gold zero is compared as a string
        ("0", "0", 1.0),
        (" Blue ", "blue", 1.0),
        ("light blue", "blue", 0.0),
        ("1,234", "1234", 0.0),  # thousands separators make it a string
        ("nan", "NaN", 1.0),  # a word, not a number
        ("inf", "3", 0.0),
        ("", "3", 0.0),
    ],
)
def test_relaxed_accuracy(prediction, answer, score):
    assert relaxed_accuracy(prediction, [answer]) == score


def test_relaxed_accuracy_takes_any_answer():
    assert relaxed_accuracy("7", ["six", "7.1"]) == 1.0


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("invoice 42", ["Invoice  42"], 1.0),
        ("abcd", ["abcx"], 0.75),
        ("abcd", ["abxy"], 0.5),  # a distance of exactly one half, as the DocVQA scorer has it
        ("abcd", ["axyz"], 0.0),
        ("abcde", ["abcxy"], 0.6),
        ("paris", ["london", "pariss"], 1 - 1 / 6),
        ("", ["x"], 0.0),
        ("x", [], 0.0),
    ],
)
def test_anls(prediction, answers, score):
    assert anls(prediction, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("agreeing", "score"),
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_vqa_accuracy_of_ten_answers(agreeing, score):
    # One of ten: left out once (0 matches among the others), counted nine times as 1/3: 9 * (1/3) / 10 = 0.3.
    answers = ["stop"] * agreeing + [f"other {number}" for number in range(10 - agreeing)]
    assert vqa_accuracy("Stop", answers) == pytest.approx(score)


def test_vqa_accuracy_of_few_answers():
    assert vqa_accuracy("stop", ["stop"]) == 1.0
    assert vqa_accuracy("stop", ["go"]) == 0.0
    assert vqa_accuracy("stop", ["stop", "go"]) == 0.5
    assert vqa_accuracy("stop", []) == 0.0


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat", "cat"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("shouldn'tve", "shouldn't've"),
        ("shouldntve", "shouldntve"),  # the scorer's table mends one apostrophe at a time
        ("lets", "lets"),  # not in it
        ("itdve it'dve", "itdve it'd've"),
        ("somebody'd", "somebodyd"),
        ("1,000", "1000"),
        ("3.5 miles.", "3.5 miles"),
        ("rock-n-roll", "rock n roll"),
        ("yes!", "yes"),
        ("a\tb\nan", "b"),
    ],
)
def test_normalise_vqa(text, normal):
    assert normalise_vqa(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("$1,234.50", "1234.5", 1.0),
        ("3/4", "0.75", 1.0),
        ("0.3333", "1/3", 1.0),
        ("5.", "5", 1.0),
        ("-7", "7", 0.0),
        ("Yes", "yes", 1.0),
        ("5/0", "5/0", 1.0),
        ("monday", "tuesday", 0.0),
        ("1234.51", "1,234.50", 0.0),
    ],
)
def test_numeric_match(prediction, answer, score):
    assert numeric_match(prediction, [answer]) == score


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        ("The sign says STOP.", ["stop"], 1.0),
        ("centre", ["center", "cent"], 1.0),
        ("two\nlines", ["two lines"], 1.0),
        ("\uff21\uff22\uff23\uff11", ["abc1"], 1.0),  # full-width letters
        ("two  lines", ["two lines"], 0.0),
        ("", ["x"], 0.0),
        ("x", [], 0.0),
    ],
)
def test_contains_match(prediction, answers, score):
    assert contains_match(prediction, answers) == score


def test_exact_match_ignores_case_and_white_space_only():
    assert exact_match(" Total  12.50", ["total 12.50"]) == 1.0
    assert exact_match("total 12.5", ["total 12.50"]) == 0.0


@pytest.mark.parametrize("name", METRICS)
@settings(deadline=None, max_examples=40)
@given(prediction=st.text(max_size=20), others=st.lists(st.text(max_size=20), max_size=4))
def test_every_metric_stays_in_its_range_and_marks_the_truth_right(name, prediction, others):
    assert 0.0 <= METRICS[name](prediction, others) <= 1.0
    if name != "vqa_accuracy":
        assert METRICS[name](prediction, [*others, prediction]) == pytest.approx(1.0)
    assert METRICS[name](prediction, [prediction] * 10) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("B", 1.0),
        ("b", 1.0),
        ("(B)", 1.0),
        ("B. larva", 1.0),
        ("B.", 1.0),
        ("b. larva", 0.0),  # only a capital and a full stop are taken apart from what follows
        ("B larva", 0.0),
        ("larva", 0.0),
        ("A", 0.0),
        ("", 0.0),
    ],
)
def test_option_letter(prediction, score):
    assert option_letter(prediction, ["B"]) == score


@pytest.mark.parametrize(
    ("prediction", "score"), [(r"the answer: \frac { a }{ b }", 1.0), (r"\frac{a}\n{b}", 0.0), (r"\frac{A}{b}", 0.0)]
)
def test_formulas_match_without_blanks(prediction, score):
    assert formula_contains(prediction, [r"\frac {a} {b}"]) == score
