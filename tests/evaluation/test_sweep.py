"""The ablation: hand-counted pages, the settings that the default gate has, tables, and runs that are resumed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shirg.data.pages import Page, Question, Word
from shirg.errors import UserError
from shirg.evaluation import sweep
from shirg.evaluation.sweep import (
    PageView,
    ablations,
    draw_differences,
    measure,
    run_sweep,
    summarise,
    sweep_report,
    sweep_table,
)
from shirg.gate import GateConfig, ShirgGate
from tests.tiny import tiny_model

SIDE = 168  # 12 x 12 patches
FEW = {"runs": GateConfig(), "beta=0": GateConfig(beta=0), "coverage=False": GateConfig(coverage=False)}


@pytest.fixture(scope="module")
def model():
    model = tiny_model()
    model.vision = dataclasses.replace(model.vision, resolution=SIDE)
    return model


def made_up_page() -> Page:
    """A word on three patches of row 2, 14 px high, and one of 10 px on a single patch of row 8; the rest is white."""
    boxes = {"left": (14, 28, 56, 42), "right": (140, 112, 154, 122)}
    words = [Word(text, box, tuple(np.linspace(box[0], box[2], len(text) + 1))) for text, box in boxes.items()]
    asked = [
        Question(f"What is {word.text}?", (word.text,), "field", 12.0, (place,), ()) for place, word in enumerate(words)
    ]
    return Page(Image.new("RGB", (SIDE, SIDE), "white"), words, asked, "form", 0)


def view_of(model) -> PageView:
    page = made_up_page()
    return PageView.of(model, page, page.questions, "none")


# ---------------------------------------------------------------- settings


def test_every_part_of_the_default_gate_is_changed():
    """Fields that change nothing of it are left out: smallest cells, where no cell is cut, and another selector and its seed."""
    settings, default = ablations(), dataclasses.asdict(GateConfig())
    assert next(iter(settings.items())) == ("runs", GateConfig())
    changed = [
        {name for name in default if dataclasses.asdict(gate)[name] != default[name]} for gate in settings.values()
    ]
    assert set.union(*changed[:-2]) == set(default) - {"min_cell", "selector", "seed"}
    assert all(changed[1:]) and len(set(settings.values())) == len(settings)
    assert settings["ocr"] == GateConfig.preset("ocr") and settings["shirg-v2"] == GateConfig.preset("shirg-v2")
    assert settings["alpha=1, beta=0"] == dataclasses.replace(GateConfig(), alpha=1, beta=0)


# ---------------------------------------------------------------- one page


class ChosenGate:
    """Keeps what it is given, other patches where there is a question."""

    config = GateConfig()

    def __call__(self, tokens, budget, grid, pixels=None, relevance=None):
        places = torch.tensor([[0, 25, 26, 27] if relevance is None else [26, 106]])
        return type("Kept", (), {"indices": places, "tokens": tokens[:, places[0]]})


def test_measures_by_hand(model):
    row, kept = measure(view_of(model), ChosenGate(), 4)
    assert row["words"] == [1, 0] and row["small_words"] == [0]
    assert row["tiles"] == [pytest.approx(1 / 9)]  # all in the first of 3 x 3 tiles
    assert row["answer"] == [1.0, 0.0] and row["answer_asked"] == [pytest.approx(1 / 3), 1.0]
    assert [tuple(tokens.shape[:1]) for tokens in kept] == [
        (2,),
        (2,),
    ]  # answers are read from what is kept for the question


def test_similarity_alone_needs_a_question(model, monkeypatch):
    gate = ShirgGate(GateConfig(beta=0))
    row, kept = measure(view_of(model), gate, 8)
    assert row["words"] == row["tiles"] == row["answer"] == [] and len(row["answer_asked"]) == len(kept) == 2
    monkeypatch.setattr(model, "vision", dataclasses.replace(model.vision, relevance="none"))
    row, kept = measure(view_of(model), gate, 8)
    assert not any(row.values()) and kept == []
    row, kept = measure(view_of(model), ShirgGate(), 8)
    assert row["answer_asked"] == [] and len(row["answer"]) == len(kept) == 2


# ---------------------------------------------------------------- summary


def page_of(number: int, base: list[int], other: list[int]) -> dict:
    """A page with one budget and two settings that differ in the words that they keep."""
    rows = {"base": {"words": base, "answer": [1.0, 0.0]}, "other": {"words": other, "answer": []}}
    return {"page": number, "words": len(base), "questions": 2, "rows": {"8": rows}}


def test_words_are_counted_over_all_pages():
    base, other = summarise([page_of(0, [1, 0, 0], [1, 0, 0]), page_of(1, [0], [1])], 0)
    assert (base["setting"], other["setting"], other["budget"]) == ("base", "other", 8)
    assert base["words"]["mean"] == 0.25 and other["words"]["mean"] == 0.5
    difference = other["words"]["difference"]
    assert (difference["mean"], difference["differing_pages"], difference["verdict"]) == (0.25, 1, "undecided")
    assert base["answer"]["mean"] == 0.5 and other["answer"] is None and "anls" not in base


def test_the_table_by_hand():
    pages = [page_of(number, [1, 0, 0, 0], [1, 1, 0, 0]) for number in range(7)] + [page_of(7, [0], [0])]
    low, high = (summarise(pages, 0)[1]["words"]["difference"][end] for end in ("low", "high"))
    assert 0 < low < 7 / 29 < high
    first, _, base, other = sweep_table({"results": summarise(pages, 0)}, 8).splitlines()
    assert first == "| K = 8 | words | answer, unasked |" and base == "| `base` | 24.1% (=) | 50.0% (=) |"
    assert other == f"| `other` | 48.3% (**+24.1 [+{100 * low:.1f}, +{100 * high:.1f}]**) | - |"


# ---------------------------------------------------------------- runs


def run(model, folder: Path, **changes) -> dict:
    settings = {"pages": 3, "questions": 1, "token_budgets": (24, 12), "settings": FEW} | changes
    return run_sweep(model, folder, **settings)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    return run(model, tmp_path_factory.mktemp("whole"))


def test_an_interrupted_run_is_resumed(whole, model, tmp_path, monkeypatch):
    measured = []

    def stopped(model, run, number):
        measured.append(number)
        if measured == [0, 1]:
            raise KeyboardInterrupt
        return measure_page(model, run, number)

    measure_page = sweep.measure_page
    monkeypatch.setattr(sweep, "measure_page", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path)
    with open(tmp_path / "pages.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"page": 1, "wo')  # as a crash leaves it
    record = run(model, tmp_path, resume=True)
    assert measured == [0, 1, 1, 2] and record | {"date": ""} == whole | {"date": ""}
    fewer = run(model, tmp_path, resume=True, pages=2)
    assert len(measured) == 4 and fewer["counts"]["pages"] == 2
    with pytest.raises(UserError, match=r"resume: settings.beta=0.beta is 0.5, but .* was made with 0"):
        run(model, tmp_path, resume=True, settings=FEW | {"beta=0": GateConfig(beta=0.5)})


def test_the_report_is_of_what_is_stored(whole, tmp_path):
    record = json.loads(json.dumps(whole, allow_nan=False))
    text = sweep_report(record)
    assert text.startswith("# What each part of the gate is worth\n\n3 pages, 3 questions, ")
    for budget in (12, 24):
        assert f"## K = {budget}\n\n{sweep_table(record, budget)}\n" in text
        assert [line.split(" | ")[0] for line in sweep_table(record, budget).splitlines()[2:]] == [
            f"| `{name}`" for name in FEW
        ]
    assert record["run"]["settings"]["beta=0"] == dataclasses.asdict(GateConfig(beta=0))
    for name, dropped in (("two", None), ("one", "answer_asked")):  # no question is compared: one panel
        results = [entry | ({dropped: None} if dropped else {}) for entry in record["results"]]
        draw_differences(tmp_path / name, record | {"results": results})
    with Image.open(tmp_path / "one") as one, Image.open(tmp_path / "two") as two:
        assert one.format == "PNG" and one.width < two.width


def test_answers_are_scored_where_asked_for(model, tmp_path):
    record = run(model, tmp_path, pages=1, token_budgets=(12,), answers=True)
    row = json.loads((tmp_path / "pages.jsonl").read_text().splitlines()[1])["rows"]["12"]["coverage=False"]
    assert len(row["said"]) == len(row["exact_match"]) == len(row["anls"]) == 1
    assert "exact match | ANLS |" in sweep_table(record, 12)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pages": 0}, "pages: got 0, must be a whole number from 1"),
        ({"questions": -1}, "questions: got -1"),
        ({"token_budgets": ()}, "token_budgets"),
        ({"token_budgets": (12, 145)}, "token_budgets: got 145, must be at most 144, the grid at 168 pixels"),
    ],
)
def test_mistakes_are_reported_before_the_work(changes, says, model, tmp_path):
    with pytest.raises(UserError, match=says):
        run(model, tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()
