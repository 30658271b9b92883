"""The claim's benchmark: verdicts worked by hand, runs that go on where they stopped, and a look at the nano itself."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

import shirg
from shirg.data.render import KINDS
from shirg.errors import UserError
from shirg.evaluation.bootstrap import Interval
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
def bars(claim):
    return sys.modules["nano_claim_bars"]


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
        (-0.05, -0.011, -0.01, 5, "undecided"),  # and so may a lag
        (-0.02, 0.02, 0.1, 0, "not met"),  # no page differs, where a tenth should
        (-0.01, 0.02, -0.01, 100, "undecided"),  # the end itself must be past the margin
        (-0.005, 0.005, -0.01, 0, "met"),  # two that never differ are not behind each other
        (0.001, 0.02, 0.0, 5, "undecided"),  # a lead on five pages may be luck
        (0.001, 0.02, 0.0, 6, "met"),
        (None, None, 0.0, 1, "undecided"),
    ],
)
def test_verdicts_by_hand(bars, low, high, least, differing, wanted):
    assert bars.verdict(Interval(0.0, low, high, 400, 100), least, differing) == wanted


def test_five_pages_decide_nothing(bars):
    assert bars.verdict(Interval(1.0, 0.9, 1.0, 20, 5), 0.1, 5) == "undecided"


def test_every_bar_of_the_claim_in_words(bars):
    assert [bar.text for bar in bars.BARS] == [
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


def made_up_entry(bars, number: int, right: dict[str, list[float]]) -> dict:
    """A page of small print with two questions; `right` are their scores row by row."""
    entry = {"page": f"small print {number}", "set": bars.SMALL, "number": number, "kind": KINDS[number % 2]}
    entry |= {"asked": [{}, {}], "seconds": 3.0, "said": right, "tokens": dict.fromkeys(right, 10)}
    return entry | {"exact match": right, "ANLS": right}


def test_differences_are_paired_and_in_questions(bars):
    entries = [
        made_up_entry(bars, number, {"lowres": [0.0, number % 2], "highres+adapter": [1.0, number % 2]})
        for number in range(10)
    ]
    scores = bars.Scores(entries)
    found = bars.judge(bars.Bar(bars.SMALL, "highres+adapter", "lowres", 0.25), scores, 10)
    assert found["measured"] == {"mean": 0.5, "low": 0.5, "high": 0.5} and found["verdict"] == "met"
    higher = bars.Bar(bars.SMALL, "highres+adapter", "lowres", 0.51)
    assert bars.judge(higher, scores, 10)["verdict"] == "not met"
    assert bars.judge(higher, scores, 11)["verdict"] == "incomplete"  # whoever looks early does not choose when to stop
    row = scores.row("lowres")
    assert row["exact match"]["mean"] == 0.25 and row["tokens"] == 10
    assert row["by kind"] == {KINDS[0]: 0.0, KINDS[1]: 0.5}


def test_what_was_not_measured_is_said_so(bars, tmp_path, capsys):
    run = {"settings": {"weights": "abc"}, "environment": {}}
    record = bars.record_of([], run, {}, {bars.LARGE: 140, bars.SMALL: 750})
    assert {bar["verdict"] for bar in record["bars"]} == {"not measured"}
    bars.print_report(json.loads(json.dumps(record, allow_nan=False)))
    said = capsys.readouterr().out
    assert "0 questions about 0 of 750 pages" in said and "| - | not measured |" in said
    with pytest.raises(UserError, match="--figure: there is nothing to draw"):
        sys.modules["nano_claim_figure"].draw(tmp_path / "small.png", record)


# ---------------------------------------------------------------- pages


def test_pages_are_held_out_of_every_other_count(claim):
    """Whatever counts its pages from zero up never draws these."""
    drawn = set()
    for pages in claim.SETS.values():
        for number in range(7):
            for further in (0, claim.score.OTHER_PAGE):
                page = pages.page(number, further)
                assert page.kind == KINDS[number] and page.seed < 0 and page.image.width == pages.size
                assert pages.text_px[0] <= min(question.text_px for question in page.questions)
                drawn.add(page.seed)
    assert len(drawn) == 28
    ranges = [(pages.first_seed, pages.first_seed - claim.score.OTHER_PAGE) for pages in claim.SETS.values()]
    assert ranges[0][0] - 1_000_000 >= ranges[0][1] > ranges[1][0] + 999_000  # a million of each before they meet


def test_rows_of_the_small_print_table(claim):
    rows = {reading.name: (reading.variant.path, reading.adapter) for reading in claim.readings(2304)}
    assert list(rows)[:5] == ["lowres", "hd", "highres", "shirg-512", "shirg-768"]
    assert rows["shirg-768+adapter"] == ("shirg-768", "mixed")
    assert rows["hd+adapter"] == ("hd", "mixed")
    assert rows["highres+own adapter"] == ("highres", "only-2304") and len(rows) == 13


# ---------------------------------------------------------------- runs


@pytest.fixture
def small(claim, bars, monkeypatch):
    """The benchmark with a model of random weights and 144 patches instead of the nano."""

    def load(name, adapter=None) -> Lavida:
        model = tiny_model(shirg={"resolution": SIDE, "answer_tokens": 16})
        if adapter is not None:
            model.load_adapter(adapter)
        return model

    monkeypatch.setattr(claim, "load_model", load)
    smaller_bars(claim, bars, monkeypatch, 12, 24)
    return claim


def smaller_bars(claim, bars, monkeypatch, low: int, high: int) -> None:
    """Other budgets in the place of 512 and 768, in what is measured and in the bars."""

    def renamed(name: str | None) -> str | None:
        return name and name.replace("512", str(low)).replace("768", str(high))

    monkeypatch.setattr(claim, "BUDGETS", (low, high))
    smaller = [dataclasses.replace(bar, ours=renamed(bar.ours), theirs=renamed(bar.theirs)) for bar in bars.BARS]
    monkeypatch.setattr(bars, "BARS", smaller)


def arguments(folder: Path, *more: str, pages: int = 2) -> list[str]:
    training = ["--dataset-size", "3", "--ocr-samples", "0", "--batch-size", "1", "--mixed-budgets", "12", "24"]
    counts = ["--questions", str(pages), "--large-questions", str(pages)]
    return ["--output-dir", str(folder), *counts, *training, *more]


def untimed(entries: list[dict]) -> list[dict]:
    return [entry | {"seconds": None} for entry in entries]


def test_a_stopped_run_ends_as_one_in_one_go(small, tmp_path, monkeypatch, capsys):
    assert small.main(arguments(tmp_path / "whole")) == 0
    table = capsys.readouterr().out
    ask, asked = small.ask, []

    def stopped(run, models, pages, number):
        if (pages.name, number) == (small.SMALL, 1):
            raise KeyboardInterrupt
        asked.append((pages.name, number))
        return ask(run, models, pages, number)

    monkeypatch.setattr(small, "ask", stopped)
    monkeypatch.setattr(small, "SHIRGLoRATrainer", None)  # the adapters are there
    folder = tmp_path / "parts"
    shutil.copytree(tmp_path / "whole" / "adapters", folder / "adapters")
    assert small.main(arguments(folder)) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("nano_claim: stopped by Ctrl-C")
    with open(folder / "pages-0-of-1.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"page": "small print 1", "set": "sma')  # as a kill leaves it
    monkeypatch.setattr(small, "ask", lambda *told: asked.append((told[2].name, told[3])) or ask(*told))
    assert small.main(arguments(folder)) == 0
    assert asked == [(name, number) for name in (small.LARGE, small.SMALL) for number in range(2)]
    assert untimed(small.measured(folder)) == untimed(small.measured(tmp_path / "whole"))
    assert without_minutes(capsys.readouterr().out) == without_minutes(table)


def without_minutes(said: str) -> list[str]:
    """The tables, of the last one all but the last column."""
    lines = said[said.index("LaViDa-nano") :].splitlines()
    last = lines.index(next(line for line in lines if line.startswith("| adapter |")))
    return lines[:last] + [line.rsplit("|", 2)[0] for line in lines[last:]]


def test_two_processes_share_the_pages(small, tmp_path, capsys):
    folder = tmp_path / "shared"
    assert small.main(arguments(folder, "--num-shards", "2", "--shard-index", "1")) == 0
    assert "1 question about 1 of 2 pages" in capsys.readouterr().out
    assert small.main(arguments(folder, "--num-shards", "2", "--shard-index", "0")) == 0
    shares = {path.name: len(path.read_text().splitlines()) - 1 for path in folder.glob("pages-*.jsonl")}
    assert shares == {"pages-0-of-2.jsonl": 2, "pages-1-of-2.jsonl": 2}
    capsys.readouterr()
    target = tmp_path / "claim.json"
    assert small.main([*arguments(folder), "--report", "--json", str(target)]) == 0
    assert "2 questions about 2 pages" in capsys.readouterr().out
    record = json.loads(target.read_text())
    assert record["sets"]["small print"]["questions"] == 2 and len(record["bars"]) == 11
    assert record["trainings"]["mixed"]["steps"] == 2 and set(record["trainings"]["mixed"]["steps_per_ratio"]) == {
        "12", "24", "pooled",
    }  # fmt: skip
    assert record["trainings"]["only-144"]["steps_per_ratio"] == {"144": 2}


def test_what_would_mix_two_runs_is_refused_in_one_line(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(small, "train_adapters", lambda run: None)
    folder = tmp_path / "run"
    told = [*arguments(folder, pages=1), "--questions", "0"]
    assert small.main([*told, "--report"]) == 2
    assert small.main(told) == 0
    capsys.readouterr()
    assert small.main([*told, "--learning-rate", "0.5"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"nano_claim: error: --output-dir: {folder} holds a run with learning_rate 0.004, this one has 0.5; use another folder"
    ]
    with small.turn(folder / "pages-0-of-1.lock", wait=False):
        assert small.main(told) == 2
    run = json.loads((folder / "run.json").read_text())
    run["settings"]["format"] = "shirg-nano-claim-1"
    (folder / "run.json").write_text(json.dumps(run))
    assert small.main([*told, "--report"]) == 2
    assert "is of format 'shirg-nano-claim-1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--shard-index 1", "must be from 0 to --num-shards - 1 = 0"),
        ("--num-shards 0", "--num-shards: got 0, must be 1 or more"),
        ("--questions -5", "--questions: got -5, must be 0 or more"),
        ("--learning-rate 0", "learning_rate: got 0.0, must be a number above 0"),
        ("--mixed-budgets 24 5000", "--mixed-budgets: 5000 exceeds the 144 tokens of a page"),
        ("--epochs 0", "num_epochs: got 0"),
        ("--dataset-size -1", "dataset_size"),
    ],
)
def test_what_no_training_could_use_is_told_before_anything_is_kept(small, tmp_path, capsys, flags, says):
    assert small.main([*arguments(tmp_path), *flags.split()]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and says in said[0]
    assert not (tmp_path / "run.json").exists()


def test_the_tower_sees_a_page_once_for_every_view(small, tmp_path, monkeypatch):
    run = small.Run(tmp_path, "tiny", {"mixed_budgets": [12, 24]}, 144, (0, 1))
    models = {name: small.load_model(None) for name in (None, *run.adapters)}
    seen = []
    for model in models.values():
        model.tower.register_forward_pre_hook(lambda tower, images: seen.append(tuple(images[0].shape[-2:])))
    entry = small.ask(run, models, small.SMALL_PRINT, 0)
    assert sorted(seen) == [(SIDE, SIDE), (384, 384), (384, 384)]  # large view, lowres, tiles
    assert entry["tokens"]["highres"] == 144 and entry["tokens"]["shirg-24+own adapter"] == 25
    assert entry["said"]["shirg-12"] == entry["said"]["shirg-12+adapter"]  # the models are equal here


def test_the_stored_tables_are_of_the_weights_that_ship(claim):
    stored = json.loads((BENCHMARKS / "results" / "nano_claim.json").read_text())
    assert stored["settings"]["weights"] == claim.weights_digest(Lavida.from_pretrained("nano"))
    assert {name: found["questions"] for name, found in stored["sets"].items()} == {
        "large print": 560,
        "small print": 3000,
    }


def test_the_nano_itself(claim, bars, tmp_path, monkeypatch, capsys):
    """One page of each print through everything, with adapters of two steps; the large view is smaller than usual."""
    load = claim.load_model

    def load_smaller(name, adapter=None) -> Lavida:
        return load(name, adapter, resolution=336)

    monkeypatch.setattr(claim, "load_model", load_smaller)
    smaller_bars(claim, bars, monkeypatch, 128, 256)
    told = arguments(tmp_path, "--figure", str(tmp_path / "small.png"), pages=1)
    assert claim.main(told) == 0
    said = capsys.readouterr().out
    assert "1 question about 1 page\n" in said and said.count("| undecided |") == 11
    with Image.open(tmp_path / "small.png") as drawn:
        assert drawn.width > 1000
    tokens = claim.measured(tmp_path)[-1]["tokens"]
    assert tokens["highres+own adapter"] == 576 and tokens["shirg-256+adapter"] == 257 and tokens["hd"] == 980
