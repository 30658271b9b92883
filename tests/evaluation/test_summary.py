"""Rows to scores, by hand."""

from __future__ import annotations

import pytest

from shirg.evaluation import summary
from shirg.evaluation.variants import Variant, list_variants, references

LOWRES, SHIRG, TRAINED = Variant("lowres"), Variant("shirg", 512), Variant("shirg", 512, True)


def rows_of(variant: Variant, marks: list[float], tokens: int = 10) -> list[dict]:
    return [
        {
            "dataset": "documents",
            "id": str(number),
            "image_id": f"page {number}",
            "kind": "form" if number % 2 else "",
            "text_px": [0.0, 7.9, 8.0, 19.0, 20.0][number % 5],
            "variant": variant.name,
            "tokens": tokens + number,
            "score": mark,
            "scores": {"exact_match": mark, "anls": (1 + mark) / 2},
        }
        for number, mark in enumerate(marks)
    ]


def test_variants_and_their_names():
    found = list_variants(["lowres", "shirg"], [768, 512, 512], with_adapter=True)
    assert [variant.name for variant in found] == [
        "lowres",
        "shirg-512",
        "shirg-768",
        "lowres+adapter",
        "shirg-512+adapter",
        "shirg-768+adapter",
    ]
    assert SHIRG.features == Variant("highres").features != LOWRES.features


def test_a_selection_is_compared_with_what_was_run_of_its_references():
    run = list_variants(["lowres", "hd", "shirg"], [512], with_adapter=True)
    names = [reference.name for reference in references(TRAINED, run)]
    assert names == ["lowres", "hd", "shirg-512", "lowres+adapter", "hd+adapter"]
    assert [reference.name for reference in references(Variant("hd"), [*run, LOWRES])] == ["lowres"]
    assert references(LOWRES, [*run, LOWRES]) == []
    assert references(Variant("lowres", None, True), [LOWRES]) == [LOWRES]


def test_scores_hold_every_metric():
    entries = summary.scores(rows_of(SHIRG, [0.0, 1.0, 1.0, 0.0]), seed=0)
    found = {entry["metric"]: (entry["score"], entry["questions"], entry["pages"]) for entry in entries}
    assert found == {"exact_match": (0.5, 4, 4), "anls": (0.75, 4, 4)}


def test_comparisons_are_paired():
    rows = rows_of(LOWRES, [0.0] * 10) + rows_of(SHIRG, [1.0] * 9 + [0.0])
    (entry,) = summary.comparisons(rows, [LOWRES, SHIRG], seed=0)
    assert (entry["variant"], entry["against"], entry["verdict"]) == ("shirg-512", "lowres", "better")
    assert entry["difference"] == pytest.approx(0.9) and entry["differing_pages"] == 9
    assert 0 < entry["low"] < 0.9 < entry["high"] <= 1


def test_breakdown_leaves_out_what_the_data_do_not_tell():
    entries = summary.breakdown(rows_of(SHIRG, [0.0, 1.0, 0.0, 1.0, 1.0]), seed=0)
    found = {(entry["by"], entry["group"]): (entry["score"], entry["questions"]) for entry in entries}
    assert found == {
        ("text_px", "under 8 px"): (1.0, 1),
        ("text_px", "8 to 10 px"): (0.0, 1),
        ("text_px", "14 to 20 px"): (1.0, 1),
        ("text_px", "20 px and more"): (1.0, 1),
        ("kind", "form"): (1.0, 2),
    }


def test_groups_of_text_height_are_in_order():
    assert summary.text_height_groups() == [
        "under 8 px",
        "8 to 10 px",
        "10 to 14 px",
        "14 to 20 px",
        "20 px and more",
    ]


def test_token_counts():
    (entry,) = summary.token_counts(rows_of(SHIRG, [0.0, 0.0, 0.0], tokens=100))
    assert entry == {"variant": "shirg-512", "mean": 101, "fewest": 100, "most": 102}
