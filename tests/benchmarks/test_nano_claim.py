"""The claim's benchmark: verdicts worked by hand, and a small run from trainings to tables."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import shirg
from shirg.bootstrap import Interval, Resampled
from shirg.data.render import KINDS
from shirg.evaluation.answering import Decoding
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


def resampled(low, high, differing=100, pages=100, hits=0, draws=20_000):
    """An effect of which `hits` resamples are -1 and the others 1."""
    values = np.ones(draws)
    values[:hits] = -1.0
    return Resampled(Interval(0.0, low, high, 4 * pages, pages), values, differing)


@pytest.mark.parametrize(
    ("low", "high", "least", "differing", "hits", "wanted"),
    [
        (0.81, 0.85, 0.80, 100, 0, "met"),
        (0.79, 0.85, 0.80, 100, 0, "undecided"),
        (0.70, 0.79, 0.80, 100, 20_000, "not met"),
        (-0.009, 0.02, -0.01, 100, 0, "met"),
        (-0.011, 0.02, -0.01, 100, 0, "undecided"),
        (-0.05, -0.011, -0.01, 100, 20_000, "not met"),
        (-0.05, -0.011, -0.01, 5, 20_000, "undecided"),  # so may a negative one
        (-0.02, 0.02, 0.1, 0, 20_000, "not met"),  # no page differs, where a tenth should
        (-0.01, 0.02, -0.01, 100, 0, "undecided"),  # the end itself must reach the margin
        (-0.005, 0.005, -0.01, 0, 0, "met"),  # two that never differ are not worse than each other
        (0.001, 0.02, 0.0, 5, 0, "undecided"),  # a difference on five pages may be chance
        (0.001, 0.02, 0.0, 6, 0, "met"),
        (None, None, 0.0, 1, 0, "undecided"),
        # Below 2.5 % of 20,000 resamples, 500, by more than two standard errors, 2 * 22: the interval's end is not near the bar.
        (0.001, 0.02, 0.0, 100, 450, "met"),
        (0.001, 0.02, 0.0, 100, 470, "undecided"),
        (-0.02, -0.001, 0.0, 100, 20_000 - 450, "not met"),
        (-0.02, -0.001, 0.0, 100, 20_000 - 470, "undecided"),
    ],
)
def test_verdicts_by_hand(targets, low, high, least, differing, hits, wanted):
    assert targets.verdict(resampled(low, high, differing, hits=hits), least) == wanted


def test_five_pages_decide_nothing(targets):
    assert targets.verdict(resampled(0.9, 1.0, 5, pages=5), 0.1) == "undecided"


def test_holm_by_hand(targets):
    # 0.01 * 3, then 0.03 * 2, then 0.04 * 1, which may not fall below the one before.
    assert targets.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert targets.holm([0.5, 0.6]) == [1.0, 1.0]
    found = resampled(0.01, 0.02, hits=200)  # 1.0 to 1.2 %: below 2.5 % alone, but not times three
    alone = found.p_above(0.0)
    assert targets.verdict(found, 0.0, alone) == "met"
    assert targets.verdict(found, 0.0, targets.holm([alone, 0.9, 0.9])[0]) == "undecided"


def test_every_bar_in_words(claim, targets):
    bars = targets.judged(claim.BUDGETS, {}, {}, None)
    assert {bar["verdict"] for bar in bars} == {"not measured"}
    assert [("primary: " if bar["primary"] else "") + bar["bar"] for bar in bars] == [
        "primary: shirg-512+adapter at least 5 points ahead of shirg-512",
        "primary: shirg-768+adapter at least 5 points ahead of shirg-768",
        "primary: no selector ahead of shirg at K = 256",
        "large print: lowres at least 80.0%",
        "highres+adapter above highres",
        "shirg-768+adapter at least 5 points ahead of hd",
        "shirg-768+adapter above hd+own adapter",
        "shirg-512+adapter at most 1 point behind shirg-512+own adapter",
        "shirg-768+adapter at most 1 point behind shirg-768+own adapter",
        "highres+adapter at most 1 point behind highres+own adapter",
        "hd+adapter at most 1 point behind hd+own adapter",
        "shirg-768+adapter at most 1 point behind highres+adapter",
        "shirg above random, uniform, pool, downsample at every K",
    ]


# ---------------------------------------------------------------- made-up answers


def made_up(*marks: float, pages: int = 20, kind: str | None = None) -> list[list[Answer]]:
    """One training's answers: on each page one question for every mark, with this score."""
    about = {"dataset": "documents", "question": "?", "answers": ["1"], "text_px": 9.0, "variant": Variant("hd")}
    found = []
    for page, (place, mark) in itertools.product(range(pages), enumerate(marks)):
        name = f"{kind} page {page}"
        about |= {"image_id": name, "kind": kind or KINDS[page % 2], "tokens": 10, "prediction": ""}
        found.append(Answer(id=f"{name}:{place}", score=mark, scores={"exact_match": mark, "anls": mark / 2}, **about))
    return [found]


def test_an_effect_is_paired_and_the_mean_over_trainings(targets):
    rows = {"shirg": made_up(0, 1), "shirg+adapter": made_up(1, 1) + made_up(0, 1) + made_up(0, 0)}
    # Against 0 and 1 right the three add a half, nothing, and minus a half, on every page alike.
    found = targets.effect(rows, "shirg+adapter", "shirg")
    assert found.interval.mean == 0 and found.differing_pages == 20
    # Three draws of three trainings: once in 27 all are the last one, which is less than 2.5 % only with two of them.
    shares = [float((found.draws <= end + 1e-9).mean()) for end in (-0.5, -1 / 3)]
    assert shares == pytest.approx([1 / 27, 4 / 27], abs=0.006)
    assert (found.interval.low, found.interval.high) == (-0.5, 0.5)
    assert targets.effects_of(rows) == [
        {
            "row": "shirg+adapter",
            "exact match": {"mean": 0.0, "low": -0.5, "high": 0.5},
            "ANLS": {"mean": 0.0, "low": -0.25, "high": 0.25},
            "by training": [0.5, 0.0, -0.5],
        }
    ]
    row = targets.row_of(rows["shirg"])
    assert row["exact match"] == {"mean": 0.5, "low": 0.5, "high": 0.5} and row["tokens"] == 10
    assert row["by kind"] == {KINDS[0]: 0.5, KINDS[1]: 0.5}


def test_the_mixed_adapter_is_compared_with_those_that_gain(targets):
    def right(number: int) -> list[list[Answer]]:
        """So many of 40, which are 2.5 points each."""
        return made_up(*[1] * number, *[0] * (40 - number), pages=400)

    (target,) = (one for one in targets.targets(512, 768) if one.base == "hd")
    rows = {"hd": right(0), "hd+adapter": right(2)}
    verdicts = {1: "not applicable: its own adapter gains +2.50", 2: "met", 3: "not met"}
    for own, wanted in verdicts.items():
        found = targets.judge(target, rows | {"hd+own adapter": right(own)})
        assert found["verdict"] == wanted
        assert found["measured"]["mean"] == pytest.approx((2 - own) / 40)


def dial_rows(*shares: int) -> dict[str, list[list[Answer]]]:
    """Of ten questions a page, so many right with the adapter at each budget, none without it."""
    rows = {
        f"shirg-{k}+adapter": made_up(*[1] * n, *[0] * (10 - n)) for k, n in zip((32, 64, "auto"), shares, strict=True)
    }
    return rows | {f"shirg-{k}": made_up(*[0] * 10) for k in (32, 64, "auto")}


@pytest.mark.parametrize(
    ("shares", "verdict", "step"), [((2, 3, 1), "met", 0.1), ((2, 2, 9), "met", 0.0), ((3, 2, 9), "not met", -0.1)]
)
def test_the_dial_may_not_fall_between_neighbours(targets, shares, verdict, step):
    table, bar = targets.dial_of(dial_rows(*shares), (32, 64, "auto"))
    assert (bar["verdict"], bar["at"], bar["measured"]["mean"]) == (verdict, "32 to 64", step)
    assert [entry["K"] for entry in table] == [32, 64, "auto"]
    assert [entry["added"]["mean"] for entry in table] == [share / 10 for share in shares]


@pytest.mark.parametrize(
    ("small", "large", "verdict", "at"),
    [
        ((1, 0), (1, 1), "met", "26-33 px"),  # ahead in small print, level in large
        ((1, 1), (1, 0), "undecided", "8-13 px"),  # level is not enough in small print
        ((1, 0), (0, 1), "not met", "26-33 px"),
        ((0, 1), (1, 0), "not met", "8-13 px"),
    ],
)
def test_small_print_needs_a_lead_and_large_print_none(targets, small, large, verdict, at):
    def row(place):
        (low,), (high,) = made_up(small[place], kind="plain, 8-13 px"), made_up(large[place], kind="plain, 26-33 px")
        (other,) = made_up(1 - small[place], kind="rendered, 8-13 px")
        return [low + other + high]

    rows = {"lowres": row(1), "shirg-768": row(1), "shirg-768+adapter": row(0)}
    table, bar = targets.heights_of("plain", rows, "shirg-768")
    assert (bar["verdict"], bar["at"]) == (verdict, at)
    assert bar["bar"] == "plain pages: shirg-768+adapter above lowres below 18 px, else level"
    assert [band["questions"] for band in table.values()] == [20, 20]
    assert table["26-33 px"]["rows"]["shirg-768+adapter"]["mean"] == large[0]


def selectors_record(**ahead: tuple) -> dict:
    """A record of `nano_selectors.py` at K = 64 and 256 with these differences from the first selector."""
    rows = [{"selector": name, "exact match minus first": list(values)} for name, values in ahead.items()]
    rows = [
        {"selector": "shirg (runs)"},
        {"selector": "shirg (ocr)", "exact match minus first": [1, 1, 1, "better"]},
        *rows,
    ]
    return {"results": [{"budget": budget, **row} for budget in (256, 64) for row in rows]}


def test_no_selector_may_be_ahead_beyond_chance(targets):
    behind = (-0.2, -0.3, -0.1, "worse")
    chance = dict.fromkeys(targets.CHANCE, behind)
    # Ahead by 1.96 and by 4 standard errors: P = 0.025 and 0.00003 times five selectors.
    for lead, p_value, at_256, at_64 in ((0.0196, 0.125, "met", "met"), (0.04, 5 * 3.2e-5, "not met", "not met")):
        ends = lead - 0.0196, lead + 0.0196, "better" if lead > 0.02 else "undecided"
        record = selectors_record(other=(lead, *ends), **chance)
        found = targets.p_selector_ahead(record)
        assert found == pytest.approx(p_value, rel=0.02)
        first, second, third = targets.selector_bars(record, found)
        assert (first["verdict"], second["verdict"], third["verdict"]) == (at_256, at_64, "met")
        assert first["primary"] and (first["at"], first["measured"]["mean"]) == ("other", -lead)
        assert third["at"] == "random, K = 64"
    record = selectors_record(**chance | {"pool": (-0.01, -0.03, 0.01, "undecided")})
    assert targets.selector_bars(record, 1.0)[-1]["verdict"] == "undecided"


def test_selectors_of_other_weights_are_not_measured(claim, tmp_path):
    path = tmp_path / "selectors.json"
    assert claim.selectors(path, "abc") is None
    path.write_text(json.dumps({"settings": {"weights": "abc"}}))
    assert claim.selectors(path, "abc") and claim.selectors(path, "abd") is None


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


def test_pages_of_every_height_are_held_out_and_have_its_print(claim):
    pages = sys.modules["nano_claim_pages"]
    records = pages.heights(1)
    assert list(dict.fromkeys(one.kind for one in records)) == [
        f"{drawing}, {low}-{high} px" for low, high in pages.BANDS for drawing in ("rendered", "plain")
    ]
    assert len({one.id for one in records}) == len(records) and {one.width for one in records} == {672}
    for one in records:
        drawing, band = one.kind.removesuffix(" px").split(", ")
        low, high = map(int, band.split("-"))
        assert low <= one.text_px <= high or drawing == "plain"
    assert claim.SMALL_PRINT.first_seed - claim.score.OTHER_PAGE - 999_000 > pages.FIRST_BAND_PAGE


def test_rows_of_the_small_print_table(claim):
    rows = {name: [one.name for one in each] for name, each in claim.small_rows((0, 1, 2)).items()}
    assert list(rows)[:5] == ["lowres", "hd", "highres", "shirg-512", "shirg-768"]
    assert rows["hd+adapter"] == ["hd+mixed-0", "hd+mixed-1", "hd+mixed-2"]
    assert rows["highres+own adapter"] == ["highres+only-highres"] and "lowres+own adapter" not in rows
    assert len(rows) == 14


# ---------------------------------------------------------------- runs


@pytest.fixture
def small(claim, monkeypatch, tmp_path):
    """Runs the benchmark with random weights and 144 patches instead of the nano, on two pages of each set."""
    folder = tmp_path / "tiny"
    tiny_model(shirg={"resolution": SIDE, "answer_tokens": 16}).save_pretrained(folder)
    monkeypatch.setattr(claim, "BUDGETS", (12, 24))
    monkeypatch.setattr(claim, "DIAL", (12, 24, "auto"))
    monkeypatch.setattr(claim, "ONE_A_STEP", Decoding(max_new_tokens=2, block_length=2, step_ratio=1.0))
    monkeypatch.setattr(sys.modules["nano_claim_pages"], "BANDS", ((8, 13), (34, 40)))
    training = ["--dataset-size", "3", "--ocr-samples", "0", "--batch-size", "1", "--mixed-budgets", "12", "24"]
    counts = [
        "--questions",
        "2",
        "--large-questions",
        "2",
        "--dial-questions",
        "2",
        "--band-pages",
        "1",
        "--seeds",
        "0",
        "1",
    ]
    return lambda output, *more: claim.main(
        ["--model", str(folder), "--output-dir", str(output), *counts, *training, *map(str, more)]
    )


def test_from_trainings_to_tables_and_in_two_processes(claim, small, tmp_path, capsys):
    whole, target, picture = tmp_path / "whole", tmp_path / "claim.json", tmp_path / "dial.png"
    assert small(whole, "--json", target, "--figure", picture) == 0
    printed = capsys.readouterr().out
    assert printed.count("2 questions about 2 pages") == 2 and printed.count("| descriptive: ") == 13
    assert "| K | tokens | without adapter | with adapter | points added |" in printed
    record = json.loads(target.read_text())
    rows = record["sets"]["small print"]["rows"]
    assert len(rows) == 14 and len(record["bars"]) == 16 and len(record["effects"]) == 9
    assert rows["highres+own adapter"]["tokens"] == 144 and rows["shirg-24+adapter"]["tokens"] == 25
    assert [entry["K"] for entry in record["dial"]] == [12, 24, "auto"] and record["dial"][0]["tokens"] == 13
    assert {name: list(bands) for name, bands in record["heights"].items()} == {
        drawing: ["8-13 px", "34-40 px"] for drawing in ("rendered", "plain")
    }
    steps = {name: results["steps_per_ratio"] for name, results in record["trainings"].items()}
    assert steps.pop("only-hd") == {"pooled": 2} and steps.pop("only-highres") == {"144": 2}
    assert steps.pop("only-shirg-12") == {"12": 2} and steps.pop("only-shirg-24") == {"24": 2}
    assert list(steps) == ["mixed-0", "mixed-1"] and set(steps["mixed-0"]) == {"12", "24", "pooled"}
    losses = [record["trainings"][name]["validation_after"] for name in ("mixed-0", "mixed-1")]
    assert losses[0] != losses[1]
    with Image.open(picture) as drawn:
        assert drawn.width > 1000

    parts = tmp_path / "parts"
    parts.mkdir()
    for name in ("data", *record["trainings"]):  # the adapters are there
        (whole / name).rename(parts / name)
    some = ("--questions", 0, "--band-pages", 0)
    for index in (1, 0):
        assert small(parts, *some, "--num-shards", 2, "--shard-index", index) == 0
    assert small(parts, *some, "--num-shards", 2, "--json", target) == 0
    joined = json.loads(target.read_text())
    assert joined["sets"]["large print"]["rows"] == record["sets"]["large print"]["rows"]
    assert joined["dial"] == record["dial"] and joined["bars"][-1] == record["bars"][-1]
    assert joined["bars"][0]["verdict"] == "not measured" and joined["effects"] == []


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
