"""Causes and examples by hand."""

from __future__ import annotations

import pytest

from shirg.evaluation.failures import CAUSES, EXAMPLES, examples, failures, headline
from shirg.evaluation.summary import Draws, group_comparisons
from shirg.evaluation.variants import Variant, list_variants

LOWRES, HIGHRES, SHIRG = Variant("lowres"), Variant("highres"), Variant("shirg", 512)
RUN = [LOWRES, HIGHRES, SHIRG]


def answered(number: int, marks: dict[Variant, float], prediction: str = "12.80") -> list[dict]:
    """One question's rows, with a score for each variant."""
    return [
        {
            "dataset": "documents",
            "id": f"q{number}",
            "image_id": f"page {number}",
            "question": f"What {number}?",
            "answers": ["12.50"],
            "kind": "form",
            "text_px": 9.0,
            "variant": variant.name,
            "prediction": prediction,
            "score": mark,
        }
        for variant, mark in marks.items()
    ]


@pytest.mark.parametrize(
    ("lowres", "highres", "prediction", "cause"),
    [
        (1, 1, "", "nothing answered"),
        (1, 1, "x", "lost by selecting"),
        (0, 1, "x", "lost by selecting"),
        (1, 0, "x", "lost by the view"),
        (0, 0, "12.80", "nearly right"),
        (0, 0, "x", "not read by any path"),
    ],
)
def test_every_wrong_answer_has_one_cause(lowres, highres, prediction, cause):
    rows = answered(0, {LOWRES: lowres, HIGHRES: highres, SHIRG: 0}, prediction)
    rows += answered(1, {LOWRES: 0, HIGHRES: 0, SHIRG: 1})
    counted = {entry["cause"]: entry["questions"] for entry in failures(rows, RUN)}
    assert counted == {name: int(name == cause) for name in CAUSES}
    assert {(entry["variant"], entry["asked"]) for entry in failures(rows, RUN)} == {("shirg-512", 2)}


def test_paths_are_taken_with_the_adapter_where_the_selection_is():
    trained, shipped = Variant("shirg", 512, True), Variant("highres", None, False)
    rows = answered(0, {shipped: 1, Variant("highres", None, True): 0, trained: 0}, "x")
    (cause,) = (entry["cause"] for entry in failures(rows, [shipped, trained]) if entry["questions"])
    assert cause == "not read by any path"


def test_headline_is_the_middle_budget_in_its_most_trained_state():
    run = list_variants(["lowres", "shirg", "uniform"], [256, 512, 768], with_adapter=True)
    assert headline(run) == Variant("shirg", 512, True)
    assert headline([LOWRES]) is None


def test_examples_are_the_largest_differences_first_asked_first():
    rows = []
    for number in range(2 * EXAMPLES):
        rows += answered(number, {LOWRES: 1.0, SHIRG: 0.0 if number % 2 else 0.25})
    rows += answered(98, {LOWRES: 0.5, SHIRG: 0.5}) + answered(99, {LOWRES: 0.0, SHIRG: 1.0})
    shown = examples(rows, RUN)
    assert [example["id"] for example in shown["losses"]] == [f"q{number}" for number in range(1, 2 * EXAMPLES, 2)]
    assert [(example["id"], example["their_score"]) for example in shown["wins"]] == [("q99", 0.0)]
    assert examples(rows, [SHIRG]) is None and examples(rows, [LOWRES]) is None


def test_groups_are_compared_in_pairs():
    rows = []
    for number in range(8):
        rows += answered(number, {LOWRES: 0.0, HIGHRES: 1.0, SHIRG: number % 2})
    found = {(e["by"], e["variant"], e["against"]): e for e in group_comparisons(rows, RUN, Draws(seed=0))}
    assert set(found) == {
        (by, *pair)
        for by in ("text_px", "kind")
        for pair in (("highres", "lowres"), ("shirg-512", "lowres"), ("shirg-512", "highres"))
    }
    assert found["kind", "highres", "lowres"]["difference"] == 1.0
    assert found["kind", "shirg-512", "highres"]["difference"] == -0.5
    assert {entry["group"] for entry in found.values()} == {"form", "8 to 10 px"}
