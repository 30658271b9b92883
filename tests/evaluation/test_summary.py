"""Rows to scores, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shirg.evaluation import summary
from shirg.evaluation.results import Answer, Bootstrap
from shirg.evaluation.summary import CAUSES, EXAMPLES, examples, failures, group_comparisons, headline, summarise
from shirg.evaluation.variants import ADAPTER, Variant, list_variants, references

DRAWS = Bootstrap()
LOWRES, HIGHRES, SHIRG = Variant("lowres"), Variant("highres"), Variant("shirg", 512)
TRAINED = Variant("shirg", 512, ADAPTER)
RUN = [LOWRES, HIGHRES, SHIRG]


def answer(variant: Variant, number: int, mark: float, **changes) -> Answer:
    """What a variant answers to question `number`, which has a page of its own."""
    about = {
        "dataset": "documents",
        "id": f"q{number}",
        "image_id": f"page {number}",
        "question": f"What {number}?",
        "answers": ["12.50"],
        "kind": "form",
        "text_px": 9.0,
        "tokens": 10,
        "prediction": "12.80",
        "scores": {"exact_match": mark, "anls": (1 + mark) / 2},
    }
    return Answer(variant=variant, score=mark, **about | changes)


def rows_of(variant: Variant, marks: list[float], tokens: int = 10, dataset: str = "documents") -> list[Answer]:
    heights = [0.0, 7.9, 8.0, 19.0, 20.0]
    return [
        answer(
            variant,
            number,
            mark,
            dataset=dataset,
            kind="form" if number % 2 else "",
            text_px=heights[number % 5],
            tokens=tokens + number,
        )
        for number, mark in enumerate(marks)
    ]


def test_variants_and_their_names():
    found = list_variants(["lowres", "shirg"], ["auto", 768, 512, 512], [ADAPTER, "mixed"])
    assert [variant.name for variant in found] == [
        path + adapter
        for adapter in ("", "+adapter", "+mixed")
        for path in ("lowres", "shirg-512", "shirg-768", "shirg-auto")
    ]
    assert [Variant.from_json(variant.to_json()) for variant in found] == found
    assert found[5].to_json() == {"variant": "shirg-512+adapter", "mode": "shirg", "budget": 512, "adapter": True}
    assert SHIRG.encoding == Variant("highres").encoding != LOWRES.encoding


def test_a_selection_is_compared_with_what_was_run_of_its_references():
    run = list_variants(["lowres", "hd", "shirg"], [512], [ADAPTER])
    names = [reference.name for reference in references(TRAINED, run)]
    assert names == ["lowres", "hd", "shirg-512", "lowres+adapter", "hd+adapter"]
    assert [reference.name for reference in references(Variant("hd"), [*run, LOWRES])] == ["lowres"]
    assert references(LOWRES, [*run, LOWRES]) == []
    two = list_variants(["lowres", "shirg"], [512], ["one", "two"])
    names = [reference.name for reference in references(Variant("shirg", 512, "two"), two)]
    assert names == ["lowres", "shirg-512", "lowres+two", "shirg-512+one"]
    assert references(Variant("lowres", None, ADAPTER), [LOWRES]) == [LOWRES]


def test_scores_hold_every_metric():
    entries = summary.scores(rows_of(SHIRG, [0.0, 1.0, 1.0, 0.0]), DRAWS)
    found = {entry.metric: (entry.score, entry.questions, entry.pages) for entry in entries}
    assert found == {"exact_match": (0.5, 4, 4), "anls": (0.75, 4, 4)}


def test_comparisons_are_paired():
    rows = rows_of(LOWRES, [0.0] * 10) + rows_of(SHIRG, [1.0] * 9 + [0.0])
    (entry,) = summary.comparisons(rows, [LOWRES, SHIRG], DRAWS)
    assert (entry.variant, entry.against, entry.verdict) == ("shirg-512", "lowres", "better")
    assert entry.difference == pytest.approx(0.9) and entry.differing_pages == 9
    assert 0 < entry.low < 0.9 < entry.high <= 1


def test_breakdown_leaves_out_what_the_data_do_not_tell():
    entries = summary.breakdown(rows_of(SHIRG, [0.0, 1.0, 0.0, 1.0, 1.0]), DRAWS)
    found = {(entry.by, entry.group): (entry.score, entry.questions) for entry in entries}
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
    assert (entry.variant, entry.mean, entry.fewest, entry.most) == ("shirg-512", 101, 100, 102)


def test_data_sets_that_share_a_metric_are_taken_together_and_their_pages_stay_apart():
    # Of 6 questions `lowres` has 1 right and the selection 4, of the 4 others none and 3: 1 and 7 of 10. Both sets have pages
    # of the same names, which are ten pages; the two differ on 3 + 3 of them.
    rows = rows_of(LOWRES, [1, 0, 0, 0, 0, 0]) + rows_of(SHIRG, [1, 1, 1, 1, 0, 0])
    rows += rows_of(LOWRES, [0, 0, 0, 0], dataset="charts") + rows_of(SHIRG, [1, 1, 1, 0], dataset="charts")
    (group,) = summary.together(rows, [LOWRES, SHIRG], DRAWS)
    assert (group.metric, group.datasets) == ("exact_match", ["documents", "charts"])
    scores = {entry.variant: (entry.score, entry.questions, entry.pages) for entry in group.scores}
    assert scores == {"lowres": (0.1, 10, 10), "shirg-512": (0.7, 10, 10)}
    (entry,) = group.comparisons
    assert (entry.variant, entry.against, entry.verdict) == ("shirg-512", "lowres", "better")
    assert (entry.difference, entry.differing_pages) == (pytest.approx(0.6), 6)
    # Each alone has too few pages that differ.
    alone = summary.comparisons(rows, [LOWRES, SHIRG], DRAWS)
    assert [(entry.verdict, entry.differing_pages) for entry in alone] == [("undecided", 3), ("undecided", 3)]


def test_data_sets_with_other_metrics_stay_apart():
    others = [
        answer(SHIRG, number, mark, dataset="DocVQA", scores={"anls": mark})
        for number, mark in enumerate((1.0, 0, 0, 0))
    ]
    groups = summary.together(rows_of(SHIRG, [1.0, 1.0, 0.0, 0.0]) + others, [SHIRG], DRAWS)
    found = [(group.metric, group.datasets, group.scores[0].score) for group in groups]
    assert found == [("exact_match", ["documents"], 0.5), ("anls", ["DocVQA"], 0.25)]


def test_of_one_data_set_together_says_what_the_data_set_says():
    rows = rows_of(LOWRES, [0, 1, 0, 0, 1, 0, 0]) + rows_of(SHIRG, [1, 1, 0, 1, 0, 1, 0.5])
    (group,) = summary.together(rows, [LOWRES, SHIRG], DRAWS)
    alone = summary.comparisons(rows, [LOWRES, SHIRG], DRAWS)
    assert [replace(entry, dataset="documents") for entry in group.comparisons] == alone


def test_together_every_variant_is_held_against_the_shipped_paths():
    run = list_variants(["lowres", "hd", "highres", "shirg"], [512], [ADAPTER])
    rows = [row for variant in run for row in rows_of(variant, [0.0, 1.0])]
    (group,) = summary.together(rows, run, DRAWS)
    pairs = [(entry.variant, entry.against) for entry in group.comparisons]
    assert len(set(pairs)) == len(pairs)
    for variant in run:
        for shipped in ("lowres", "hd"):
            assert ((variant.name, shipped) in pairs) == (variant.name != shipped)
    assert ("highres+adapter", "highres") in pairs and ("shirg-512+adapter", "hd+adapter") in pairs


def test_tokens_are_counted_by_data_set_too():
    auto = Variant("shirg", "auto")
    rows = [replace(answer(auto, number, 1.0), tokens=tokens) for number, tokens in enumerate((300, 500, 1025))]
    rows[2] = replace(rows[2], dataset="charts")
    found = summarise(rows, [auto], DRAWS)
    assert [str(entry) for entry in found.tokens] == ["mean 608 (300 to 1025)"]
    by_set = {entry.dataset: str(entry) for entry in found.dataset_tokens}
    assert by_set == {rows[0].dataset: "mean 400 (300 to 500)", "charts": "1025"}


# ---------------------------------------------------------------- failures and examples


def answered(number: int, marks: dict[Variant, float], prediction: str = "12.80") -> list[Answer]:
    """One question's rows, with a score for each variant."""
    return [answer(variant, number, mark, prediction=prediction) for variant, mark in marks.items()]


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
    counted = {entry.cause: entry.questions for entry in failures(rows, RUN)}
    assert counted == {name: int(name == cause) for name in CAUSES}
    assert {(entry.variant, entry.asked) for entry in failures(rows, RUN)} == {("shirg-512", 2)}


def test_paths_are_taken_with_the_adapter_where_the_selection_is():
    trained, shipped = TRAINED, HIGHRES
    rows = answered(0, {shipped: 1, Variant("highres", None, ADAPTER): 0, trained: 0}, "x")
    (cause,) = (entry.cause for entry in failures(rows, [shipped, trained]) if entry.questions)
    assert cause == "not read by any path"


def test_headline_is_the_middle_budget_in_its_most_trained_state():
    run = list_variants(["lowres", "shirg", "uniform"], [256, 512, 768, "auto"], [ADAPTER])
    assert headline(run) == TRAINED
    assert headline([LOWRES]) is None


def test_examples_are_the_largest_differences_first_asked_first():
    rows = []
    for number in range(2 * EXAMPLES):
        rows += answered(number, {LOWRES: 1.0, SHIRG: 0.0 if number % 2 else 0.25})
    rows += answered(98, {LOWRES: 0.5, SHIRG: 0.5}) + answered(99, {LOWRES: 0.0, SHIRG: 1.0})
    shown = examples(rows, RUN)
    assert [example.id for example in shown.losses] == [f"q{number}" for number in range(1, 2 * EXAMPLES, 2)]
    assert [(example.id, example.their_score) for example in shown.wins] == [("q99", 0.0)]
    assert examples(rows, [SHIRG]) is None and examples(rows, [LOWRES]) is None


def test_groups_are_compared_in_pairs():
    rows = []
    for number in range(8):
        rows += answered(number, {LOWRES: 0.0, HIGHRES: 1.0, SHIRG: number % 2})
    found = {(entry.by, entry.variant, entry.against): entry for entry in group_comparisons(rows, RUN, DRAWS)}
    assert set(found) == {
        (by, *pair)
        for by in ("text_px", "kind")
        for pair in (("highres", "lowres"), ("shirg-512", "lowres"), ("shirg-512", "highres"))
    }
    assert found["kind", "highres", "lowres"].difference == 1.0
    assert found["kind", "shirg-512", "highres"].difference == -0.5
    assert {entry.group for entry in found.values()} == {"form", "8 to 10 px"}
