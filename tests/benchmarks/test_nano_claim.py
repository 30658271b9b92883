"""The claim's benchmark: verdicts worked by hand, and a small run from trainings to tables."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

import shirg
from shirg.bootstrap import Interval
from shirg.data.render import KINDS
from shirg.evaluation.results import Answer
from shirg.evaluation.variants import Variant
from shirg.lavida import Lavida
from tests.tiny import tiny_model

BENCHMARKS = Path(shirg.__file__).resolve().parents[1] / "benchmarks"
SIDE = 168  # 12 x 12 patches


@pytest.fixture(scope="module")
def claim():
    """The script as a module, with one question for each page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import nano_claim

        patch.setattr(nano_claim.score, "QUESTIONS_PER_PAGE", 1)
        yield nano_claim


@pytest.fixture(scope="module")
def targets(claim):
    return sys.modules["nano_claim_targets"]


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("low", "high", "least", "differing", "wanted"),
    [
        (0.81, 0.85, 0.80, 100, "met"),
        (0.79, 0.85, 0.80, 100, "undecided"),
        (0.70, 0.79, 0.80, 100, "not met"),
        (-0.009, 0.02, -0.01, 100, "met"),
        (-0.011, 0.02, -0.01, 100, "undecided"),
        (-0.05, -0.011, -0.01, 100, "not met"),
        (-0.05, -0.011, -0.01, 5, "undecided"),  # so may a negative one
        (-0.02, 0.02, 0.1, 0, "not met"),  # no page differs, where a tenth should
        (-0.01, 0.02, -0.01, 100, "undecided"),  # the end itself must reach the margin
        (-0.005, 0.005, -0.01, 0, "met"),  # two that never differ are not worse than each other
        (0.001, 0.02, 0.0, 5, "undecided"),  # a difference on five pages may be chance
        (0.001, 0.02, 0.0, 6, "met"),
        (None, None, 0.0, 1, "undecided"),
    ],
)
def test_verdicts_by_hand(targets, low, high, least, differing, wanted):
    assert targets.verdict(Interval(0.0, low, high, 400, 100), least, differing) == wanted


def test_five_pages_decide_nothing(targets):
    assert targets.verdict(Interval(1.0, 0.9, 1.0, 20, 5), 0.1, 5) == "undecided"


def test_every_target_of_the_claim_in_words(targets):
    assert [one.text for one in targets.TARGETS] == [
        "large print: right page at least 80.0%",
        "highres+adapter at least 25 points ahead of lowres",
        "shirg-768+adapter at most 1 point behind highres+adapter",
        "shirg-512+adapter at most 4 points behind highres+adapter",
        "shirg-768+adapter at least 10 points ahead of lowres",
        "shirg-768+adapter at least 10 points ahead of lowres+adapter",
        "shirg-768+adapter above hd",
        "shirg-768+adapter above hd+adapter",
        "shirg-512+adapter at most 1 point behind shirg-512+own adapter",
        "shirg-768+adapter at most 1 point behind shirg-768+own adapter",
        "highres+adapter at most 1 point behind highres+own adapter",
    ]


def made_up_row(marks: list[float]) -> list[Answer]:
    """Two questions a page with these scores."""
    about = {"dataset": "documents", "question": "?", "answers": ["1"], "text_px": 9.0, "variant": Variant("hd")}
    return [
        Answer(
            id=str(number),
            image_id=f"page {number // 2}",
            kind=KINDS[number // 2 % 2],
            tokens=10,
            prediction="",
            score=mark,
            scores={"exact_match": mark, "anls": mark},
            **about,
        )
        for number, mark in enumerate(marks)
    ]


def test_differences_are_paired_and_in_questions(targets):
    lowres = [mark for number in range(10) for mark in (0.0, number % 2)]
    highres = [mark for number in range(10) for mark in (1.0, number % 2)]
    rows = {"lowres": made_up_row(lowres), "highres+adapter": made_up_row(highres)}
    found = targets.judge(targets.Target(targets.SMALL, "highres+adapter", "lowres", 0.25), rows)
    assert found["measured"] == {"mean": 0.5, "low": 0.5, "high": 0.5} and found["verdict"] == "met"
    assert targets.judge(targets.Target(targets.SMALL, "highres+adapter", "lowres", 0.51), rows)["verdict"] == "not met"
    row = targets.row_of(rows["lowres"])
    assert row["exact match"]["mean"] == 0.25 and row["tokens"] == 10
    assert row["by kind"] == {KINDS[0]: 0.0, KINDS[1]: 0.5}


def test_what_was_not_measured_is_marked_so(targets, capsys):
    run = {"settings": {"weights": "abc"}, "environment": {}}
    record = targets.record_of({targets.LARGE: [], targets.SMALL: []}, run, {})
    assert {one["verdict"] for one in record["bars"]} == {"not measured"}
    targets.print_report(json.loads(json.dumps(record, allow_nan=False)))
    printed = capsys.readouterr().out
    assert "0 questions about 0 pages" in printed and "| - | not measured |" in printed


# ---------------------------------------------------------------- pages


def test_pages_are_held_out_of_every_other_count(claim):
    """Whatever counts its pages from zero up never draws these."""
    drawn = set()
    for pages in (claim.score.LARGE_PRINT, claim.SMALL_PRINT):
        for number in range(7):
            for further in (0, claim.score.OTHER_PAGE):
                page = pages.page(number, further)
                assert page.kind == KINDS[number] and page.seed < 0 and page.image.width == pages.size
                assert pages.text_px[0] <= min(question.text_px for question in page.questions)
                drawn.add(page.seed)
    assert len(drawn) == 28
    ranges = [
        (pages.first_seed, pages.first_seed - claim.score.OTHER_PAGE)
        for pages in (claim.score.LARGE_PRINT, claim.SMALL_PRINT)
    ]
    assert ranges[0][0] - 1_000_000 >= ranges[0][1] > ranges[1][0] + 999_000  # a million of each before they meet


def test_rows_of_the_small_print_table(claim):
    rows = {name: variant.name for name, variant in claim.variants(2304).items()}
    assert list(rows)[:5] == ["lowres", "hd", "highres", "shirg-512", "shirg-768"]
    assert rows["shirg-768+adapter"] == "shirg-768+mixed" and rows["hd+adapter"] == "hd+mixed"
    assert rows["highres+own adapter"] == "highres+only-2304" and len(rows) == 13


# ---------------------------------------------------------------- runs


@pytest.fixture
def small(claim, targets, monkeypatch, tmp_path):
    """Runs the benchmark with random weights and 144 patches instead of the nano, on two pages of each set."""
    folder = tmp_path / "tiny"
    tiny_model(shirg={"resolution": SIDE, "answer_tokens": 16}).save_pretrained(folder)
    smaller_targets(claim, targets, monkeypatch, 12, 24)
    training = ["--dataset-size", "3", "--ocr-samples", "0", "--batch-size", "1", "--mixed-budgets", "12", "24"]
    counts = ["--model", str(folder), "--questions", "2", "--large-questions", "2"]
    return lambda output, *more: claim.main(["--output-dir", str(output), *counts, *training, *map(str, more)])


def smaller_targets(claim, targets, monkeypatch, low: int, high: int) -> None:
    """Other budgets in the place of 512 and 768, in what is measured and in the targets."""

    def renamed(name: str | None) -> str | None:
        return name and name.replace("512", str(low)).replace("768", str(high))

    monkeypatch.setattr(claim, "BUDGETS", (low, high))
    smaller = [dataclasses.replace(one, ours=renamed(one.ours), theirs=renamed(one.theirs)) for one in targets.TARGETS]
    monkeypatch.setattr(targets, "TARGETS", smaller)


def test_from_trainings_to_tables_and_in_two_processes(small, tmp_path, capsys):
    whole, target, picture = tmp_path / "whole", tmp_path / "claim.json", tmp_path / "small.png"
    assert small(whole, "--json", target, "--figure", picture) == 0
    printed = capsys.readouterr().out
    assert (
        printed.count("2 questions about 2 pages") == 2
        and printed.count("| undecided |") + printed.count("met |") == 11
    )
    record = json.loads(target.read_text())
    rows = record["sets"]["small print"]["rows"]
    assert len(rows) == 13 and len(record["bars"]) == 11
    assert rows["highres+own adapter"]["tokens"] == 144 and rows["shirg-24+adapter"]["tokens"] == 25
    assert record["trainings"]["mixed"]["steps"] == 2 and set(record["trainings"]["mixed"]["steps_per_ratio"]) == {
        "12", "24", "pooled",
    }  # fmt: skip
    assert record["trainings"]["only-144"]["steps_per_ratio"] == {"144": 2}
    with Image.open(picture) as drawn:
        assert drawn.width > 1000

    parts = tmp_path / "parts"
    parts.mkdir()
    for name in ("data", *record["trainings"]):  # the adapters are there
        (whole / name).rename(parts / name)
    for index in (1, 0):
        assert small(parts, "--num-shards", 2, "--shard-index", index) == 0
    assert small(parts, "--num-shards", 2, "--json", target) == 0
    joined = json.loads(target.read_text())
    assert joined["sets"]["small print"]["rows"] == rows and joined["bars"] == record["bars"]


def test_an_error_of_a_training_ends_the_run(small, tmp_path, capsys):
    assert small(tmp_path / "run", "--large-questions", 0, "--learning-rate", 0) == 2
    assert "learning_rate: got 0.0" in capsys.readouterr().err


def test_the_stored_tables_are_of_the_weights_that_ship(claim):
    stored = json.loads((BENCHMARKS / "results" / "nano_claim.json").read_text())
    assert stored["settings"]["weights"] == claim.weights_digest(Lavida.from_pretrained("nano"))
    assert {name: found["questions"] for name, found in stored["sets"].items()} == {
        "large print": 560,
        "small print": 3000,
    }
