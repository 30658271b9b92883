"""Rows to scores, by hand."""

from __future__ import annotations

import pytest

from shirg.evaluation import summary
from shirg.evaluation.summary import Draws
from shirg.evaluation.variants import Variant, list_variants, references

DRAWS = Draws(seed=0)
LOWRES, SHIRG, TRAINED = Variant("lowres"), Variant("shirg", 512), Variant("shirg", 512, True)


def rows_of(variant: Variant, marks: list[float], tokens: int = 10, dataset: str = "documents") -> list[dict]:
    return [
        {
            "dataset": dataset,
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
    entries = summary.scores(rows_of(SHIRG, [0.0, 1.0, 1.0, 0.0]), DRAWS)
    found = {entry["metric"]: (entry["score"], entry["questions"], entry["pages"]) for entry in entries}
    assert found == {"exact_match": (0.5, 4, 4), "anls": (0.75, 4, 4)}


def test_comparisons_are_paired():
    rows = rows_of(LOWRES, [0.0] * 10) + rows_of(SHIRG, [1.0] * 9 + [0.0])
    (entry,) = summary.comparisons(rows, [LOWRES, SHIRG], DRAWS)
    assert (entry["variant"], entry["against"], entry["verdict"]) == ("shirg-512", "lowres", "better")
    assert entry["difference"] == pytest.approx(0.9) and entry["differing_pages"] == 9
    assert 0 < entry["low"] < 0.9 < entry["high"] <= 1


def test_breakdown_leaves_out_what_the_data_do_not_tell():
    entries = summary.breakdown(rows_of(SHIRG, [0.0, 1.0, 0.0, 1.0, 1.0]), DRAWS)
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


def test_data_sets_that_share_a_metric_are_taken_together_and_their_pages_stay_apart():
    # Of 6 questions `lowres` has 1 right and the selection 4, of the 4 others none and 3: 1 and 7 of 10. Both sets have pages
    # of the same names, which are ten pages; the two differ on 3 + 3 of them.
    rows = rows_of(LOWRES, [1, 0, 0, 0, 0, 0]) + rows_of(SHIRG, [1, 1, 1, 1, 0, 0])
    rows += rows_of(LOWRES, [0, 0, 0, 0], dataset="charts") + rows_of(SHIRG, [1, 1, 1, 0], dataset="charts")
    (group,) = summary.together(rows, [LOWRES, SHIRG], DRAWS)
    assert (group["metric"], group["datasets"]) == ("exact_match", ["documents", "charts"])
    scores = {entry["variant"]: (entry["score"], entry["questions"], entry["pages"]) for entry in group["scores"]}
    assert scores == {"lowres": (0.1, 10, 10), "shirg-512": (0.7, 10, 10)}
    (entry,) = group["comparisons"]
    assert (entry["variant"], entry["against"], entry["verdict"]) == ("shirg-512", "lowres", "better")
    assert (entry["difference"], entry["differing_pages"]) == (pytest.approx(0.6), 6)
    # Each alone has too few pages that differ.
    alone = summary.comparisons(rows, [LOWRES, SHIRG], DRAWS)
    assert [(entry["verdict"], entry["differing_pages"]) for entry in alone] == [("undecided", 3), ("undecided", 3)]


def test_data_sets_with_other_metrics_stay_apart():
    others = [
        {**row, "dataset": "DocVQA", "scores": {"anls": row["score"]}} for row in rows_of(SHIRG, [1.0, 0.0, 0.0, 0.0])
    ]
    groups = summary.together(rows_of(SHIRG, [1.0, 1.0, 0.0, 0.0]) + others, [SHIRG], DRAWS)
    found = [(group["metric"], group["datasets"], group["scores"][0]["score"]) for group in groups]
    assert found == [("exact_match", ["documents"], 0.5), ("anls", ["DocVQA"], 0.25)]


def test_of_one_data_set_together_says_what_the_data_set_says():
    rows = rows_of(LOWRES, [0, 1, 0, 0, 1, 0, 0]) + rows_of(SHIRG, [1, 1, 0, 1, 0, 1, 0.5])
    (group,) = summary.together(rows, [LOWRES, SHIRG], DRAWS)
    assert [{"dataset": "documents", **entry} for entry in group["comparisons"]] == summary.comparisons(
        rows, [LOWRES, SHIRG], DRAWS
    )


def test_together_every_variant_is_held_against_the_shipped_paths():
    run = list_variants(["lowres", "hd", "highres", "shirg"], [512], with_adapter=True)
    rows = [row for variant in run for row in rows_of(variant, [0.0, 1.0])]
    (group,) = summary.together(rows, run, DRAWS)
    pairs = [(entry["variant"], entry["against"]) for entry in group["comparisons"]]
    assert len(set(pairs)) == len(pairs)
    for variant in run:
        for shipped in ("lowres", "hd"):
            assert ((variant.name, shipped) in pairs) == (variant.name != shipped)
    assert ("highres+adapter", "highres") in pairs and ("shirg-512+adapter", "hd+adapter") in pairs
