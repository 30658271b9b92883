"""Typed results and their JSON."""

from __future__ import annotations

import json

import pytest

from shirg.evaluation.results import Answer, Efficiency, Results, Score, from_json, to_json
from shirg.evaluation.variants import Variant


def test_a_whole_run_goes_to_json_and_back(run):
    folder, results, _ = run
    stored = json.loads((folder / "evaluation_results.json").read_text(encoding="utf-8"))
    assert to_json(results) == stored and from_json(Results, stored) == results
    rows = json.loads((folder / "detailed_results.json").read_text(encoding="utf-8"))["predictions"]
    assert to_json(from_json(list[Answer], rows)) == rows


def test_the_form_of_an_answer_is_that_of_the_files():
    row = {"dataset": "documents", "id": "a", "image_id": "p", "question": "What?", "answers": ["1"], "kind": ""}
    row |= {
        "part": None,
        "text_px": 9.5,
        "variant": "shirg-512+adapter",
        "mode": "shirg",
        "budget": 512,
        "adapter": True,
    }
    row |= {"tokens": 513, "prediction": "1", "score": 1.0, "scores": {"anls": 1.0}, "run": "f"}
    found = from_json(Answer, row)
    assert found.variant == Variant("shirg", 512, "adapter") and found.metric == "anls" and found.unanswered == ""
    assert list(to_json(found).items()) == list(row.items())


def test_what_is_empty_is_left_out_and_what_is_missing_has_no_default():
    score = Score(variant="hd", score=0.5, low=None, high=None, questions=2, pages=1)
    assert to_json(score) == {"variant": "hd", "score": 0.5, "low": None, "high": None, "questions": 2, "pages": 1}
    assert from_json(Efficiency | None, None) is None
    with pytest.raises(TypeError, match="pages"):
        from_json(Score, {"variant": "hd", "score": 0.5, "low": None, "high": None, "questions": 2})
