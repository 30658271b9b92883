"""Metrics worked by hand from the benchmarks' papers and scorers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shirg.evaluation.metrics import (
    METRICS,
    anls,
    contains_match,
    exact_match,
    formula_contains,
    normalise_evalai,
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
        ("Blue", "blue", 1.0),
        (" Blue", "blue", 0.0),  # white space counts in a word,
        (" 105", "100 ", 1.0),  # and not in a number
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
        ("abcdefgx", ["abcdefgh "], 1 - 1 / 9),  # the blank counts for the length,
        ("abcdefgx", [" abcdefgh"], 1 - 1 / 9),  # on either side,
        ("abc", ["a  b c"], 1 - 2 / 6),  # and in runs: two blanks to put in, by six
        ("stra\u00dfx", ["stra\u00dfy"], 1 - 1 / 7),  # in upper case the sharp s counts two
        ("", [""], 1.0),
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
        ("." * 40, "." * 8),  # 32 are removed at most
        ("a\tb\nan", "b"),
    ],
)
def test_normalise_evalai(text, normal):
    assert normalise_evalai(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("mcdonald 's", "mcdonald's", 1.0),
        ("ab", "a?b", 1.0),
        ("xy", "x,y", 1.0),
        ("x y", "x,y", 0.0),
        ("1,234 x-y", "1234 x y", 1.0),
        ("x y", "x-y", 1.0),
        ("x y", "x - y", 1.0),  # beside a space it goes; elsewhere it becomes one
        ("xz y", "x-z- y", 1.0),  # and one that stands beside a space decides for all of its kind
    ],
)
def test_vqa_accuracy_compares_by_evalais_rules(prediction, answer, score):
    assert vqa_accuracy(prediction, [answer] * 10) == score


_MENDED = (
    "aint arent cant couldve couldnt couldn'tve couldnt've didnt doesnt dont hadnt hadnt've hadn'tve hasnt havent hed "
    "hed've he'dve hes howd howll hows isnt itd itd've it'dve itll maam mightnt mightnt've mightn'tve mightve mustnt "
    "mustve neednt notve oclock oughtnt 'ows'at shant shed've she'dve shouldve shouldnt shouldnt've shouldn'tve "
    "somebodyd've somebody'dve somebodyll somebodys someoned someoned've someone'dve someonell someones somethingd "
    "somethingd've something'dve somethingll thats thered thered've there'dve therere theres theyd theyd've they'dve "
    "theyll theyre theyve twas wasnt wed've we'dve weve werent whatll whatre whats whatve whens whered wheres whereve "
    "whod whod've who'dve wholl whos whove whyll whyre whys wont wouldve wouldnt wouldnt've wouldn'tve yall yall'll "
    "y'allll yall'd've y'alld've y'all'dve youd youd've you'dve youll youre youve"
)
CONTRACTIONS = _MENDED.split()
"""Words that the published table mends, by putting one apostrophe in."""
NUMBERS = dict(
    none="0",
    zero="0",
    one="1",
    two="2",
    three="3",
    four="4",
    five="5",
    six="6",
    seven="7",
    eight="8",
    nine="9",
    ten="10",
)


def restated(text: str) -> str:
    """EvalAI's rule once more, sign by sign, as the comments of the published processor give it."""
    text = text.lower()
    text = "".join(sign for sign in text if sign not in ",?")
    text = " 's".join(text.split("'s")).strip()
    text = "".join(" " if sign in "\n\t" else sign for sign in text).strip()
    lonely = {sign for sign, after in pairwise(text) if after == " "} | {
        sign for ahead, sign in pairwise(text) if ahead == " "
    }
    kept, removed = [], 0
    for sign in text:
        if sign in ';/[]"{}()=+\\_-><@`!':
            kept += [] if sign in lonely else [" "]
        else:
            kept.append(sign)
    text, kept = "".join(kept), []
    for place, sign in enumerate(text):
        if sign == "." and not text[place + 1 : place + 2].isdecimal() and removed < 32:
            removed += 1
        else:
            kept.append(sign)
    words = [NUMBERS.get(word, word) for word in "".join(kept).lower().split()]
    words = [word for word in words if word not in ("a", "an", "the")]
    return " ".join("somebodyd" if word == "somebody'd" else word for word in words)


answers_of_any_kind = st.one_of(
    st.text(max_size=30),
    st.text("aAtT sxy.,?!'-/();12\n\t\u00df\u0130", max_size=60),
    st.lists(st.sampled_from(["the", "Two", "none", "3.5", "...", "x-y", "O'Neill's", "somebody'd", " - "])).map(
        "".join
    ),
)


@settings(deadline=None, max_examples=60)
@given(text=answers_of_any_kind)
def test_normalise_evalai_is_the_published_rule_restated(text):
    assume(not set(restated(text).split()) & set(CONTRACTIONS))
    assert normalise_evalai(text) == restated(text)


@pytest.mark.parametrize("word", CONTRACTIONS)
def test_contractions_of_the_table_get_one_apostrophe(word):
    mended = normalise_evalai(word)
    assert mended.count("'") == word.count("'") + 1 and mended.replace("'", "") == word.replace("'", "")


@settings(deadline=None)
@given(
    prediction=answers_of_any_kind, answers=st.lists(answers_of_any_kind, min_size=1, max_size=3), near=st.booleans()
)
def test_anls_is_the_formula_with_the_lengths_as_given(prediction, answers, near):
    answers = [prediction + answer[:2] for answer in answers] if near else answers
    shares = []
    for answer in answers:
        ours, theirs = " ".join(prediction.lower().split()), " ".join(answer.lower().split())
        row = list(range(len(theirs) + 1))  # edit distance, Wagner and Fischer 1974
        for i, left in enumerate(ours, 1):
            row, above = [i], row
            for j, right in enumerate(theirs, 1):
                row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (left != right)))
        longest = max(len(prediction.upper()), len(answer.upper()))
        shares.append(row[-1] / longest if longest else 0.0)
    score = 1 - min(shares)
    assert anls(prediction, answers) == (score if score >= 0.5 else 0)


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
