"""The ablations: hand-counted pages, tables that leave nothing out, and runs that go on where they stopped."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
import torch
from PIL import Image

from shirg.data.pages import Page, Question, Word
from shirg.errors import UserError
from shirg.evaluation import sweep as sweep_module
from shirg.evaluation.sweep import (
    ALPHAS,
    BETAS,
    PageView,
    Sweep,
    SweepConfig,
    answer_patches,
    grid_name,
    measure_selection,
    named_settings,
    page_and_questions,
    share_kept,
)
from shirg.evaluation.sweep_figure import heat_map
from shirg.evaluation.sweep_report import sweep_report
from shirg.evaluation.sweep_summary import summarise
from shirg.gate import GateConfig, ShirgGate
from tests.tiny import tiny_model

SIDE = 168  # 12 x 12 patches


@pytest.fixture(scope="module")
def model():
    model = tiny_model()
    model.vision = replace(model.vision, resolution=SIDE)
    return model


def made_up_page(width: int = 70) -> Page:
    """Checks on the left, nothing on the right; a word on three patches of row 2, its neighbour on one of row 8."""
    pixels = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    rows, columns = np.mgrid[:SIDE, :width]
    pixels[:, :width] = (255 * ((rows // 2 + columns // 2) % 2))[..., None]
    words = [word("left", (14, 28, 56, 42)), word("right", (140, 112, 154, 122))]
    asked = [question("What is left?", 0, words), question("And right?", 1, words)]
    return Page(Image.fromarray(pixels), words, asked, "form", 0)


def word(text: str, box: tuple) -> Word:
    edges = np.linspace(box[0], box[2], len(text) + 1)
    return Word(text, box, tuple(edges))


def question(text: str, answer: int, words: list[Word]) -> Question:
    return Question(text, (words[answer].text,), "field", 12.0, (answer,), ())


def bright(*patches: int) -> torch.Tensor:
    mask = torch.zeros(144, dtype=torch.bool)
    mask[list(patches)] = True
    return mask


# ---------------------------------------------------------------- settings


def test_every_ablation_of_the_seed_is_there():
    settings = named_settings()
    default = GateConfig.preset("shirg-v2")
    assert next(iter(settings.items())) == ("default", default)
    assert not settings["no coverage"].coverage and not settings["no summary"].summary
    assert [settings[f"edge: {name}"].edge for name in ("mean gradient", "density", "strokes", "patch variance")] == [
        "gradient",
        "density",
        "strokes",
        "variance",
    ]
    weights = {name: (settings[name].alpha, settings[name].beta) for name in settings}
    assert weights["no edge term"] == (0.25, 0) and weights["variance only"] == (1, 0)
    assert weights["similarity only"] == (0, 0) and settings["ocr preset"] == GateConfig.preset("ocr")
    assert settings["runs preset"] == GateConfig()
    for alpha in ALPHAS:
        for beta in BETAS:
            assert settings[grid_name(alpha, beta)] == dataclasses.replace(default, alpha=alpha, beta=beta)


def test_each_gate_is_measured_once(model, tmp_path):
    sweep = Sweep(SweepConfig(token_budgets=(8,), output_dir=tmp_path), model)
    assert len({gate.config for gate in sweep.gates.values()}) == len(sweep.gates)
    assert sweep.measured_as["edge: mean gradient"] == sweep.measured_as["alpha 0.25, beta 0.15"] == "default"
    assert all(sweep.gates[as_].config == sweep.settings[name] for name, as_ in sweep.measured_as.items())


# ---------------------------------------------------------------- one page


def test_patches_of_answers_by_hand():
    page = made_up_page()
    left, right = (answer_patches(page, asked, (12, 12)) for asked in page.questions)
    assert left.nonzero().flatten().tolist() == [25, 26, 27]  # row 2, columns 1 to 3
    assert right.nonzero().flatten().tolist() == [106]  # row 8, column 10: 10 of 14 pixels high
    assert share_kept(bright(25, 27, 106), left) == pytest.approx(2 / 3)
    assert share_kept(bright(25, 27, 106), right) == 1 and share_kept(bright(0), right) == 0


class ChosenGate:
    """Keeps what it is told to, other patches where there is a question."""

    config = GateConfig()

    def __init__(self, alone: list[int], asked: list[int]):
        self.alone, self.asked = alone, asked

    def __call__(self, tokens, budget, grid, pixels=None, relevance=None):
        chosen = torch.full((1, 144), -1)
        chosen[0, self.alone if relevance is None else self.asked] = 0
        return type("Kept", (), {"assignment": chosen, "tokens": tokens})


def test_measures_by_hand(model):
    page = made_up_page()
    view = PageView.of(model, page, page.questions)
    row, choices = measure_selection(view, ChosenGate(alone=[0, 25, 26, 27], asked=[26, 106]), 4)
    assert row["words"] == 0.5 and row["small_words"] == 0  # the left word is 14 px high, the right one 10
    assert row["precision"] == 0.75  # patch 0 has no word
    assert row["empty_tiles"] == pytest.approx(8 / 9)  # all in the first of 3 x 3 tiles
    assert row["answer"] == [1.0, 0.0] and row["answer_asked"] == [pytest.approx(1 / 3), 1.0]
    assert [choice.bright.nonzero().flatten().tolist() for choice in choices] == [[26, 106]] * 2


def test_similarity_alone_needs_a_question(model, monkeypatch):
    page = made_up_page()
    gate = ShirgGate(named_settings()["similarity only"])
    row, choices = measure_selection(PageView.of(model, page, page.questions), gate, 8)
    assert row["answer"] is None and len(row["answer_asked"]) == 2 and row["words"] is not None and len(choices) == 2
    monkeypatch.setattr(model, "vision", dataclasses.replace(model.vision, relevance="none"))
    view = PageView.of(model, page, page.questions)
    row, choices = measure_selection(view, gate, 8)
    assert set(row.values()) == {None} and choices == []
    row, choices = measure_selection(view, ShirgGate(), 8)
    assert row["answer_asked"] is None and len(row["answer"]) == 2 and len(choices) == 2


def test_without_coverage_a_dense_region_takes_all(model, monkeypatch, tmp_path):
    """The table shows it: the tiles beside it are left empty, two columns of three or one."""

    def pages(number, *_):
        page = made_up_page(width=50 if number % 2 else 100)
        return page, page.questions

    monkeypatch.setattr(sweep_module, "page_and_questions", pages)
    sweep = Sweep(SweepConfig(pages=6, token_budgets=(36,), output_dir=tmp_path), model)
    record = sweep.record(sweep.run(), 1.0)
    entries = {entry["setting"]: entry for entry in record["results"]}
    assert entries["default"]["empty_tiles"]["mean"] == pytest.approx(1 / 3, abs=1e-5)  # four cells of 6 x 6 are sure
    empty = entries["no coverage"]["empty_tiles"]
    assert empty["mean"] == pytest.approx(0.5, abs=1e-5) and empty["difference"]["verdict"] == "worse"
    line = next(line for line in sweep_report(record).splitlines() if line.startswith("| no coverage |"))
    assert "| 50.0 (+16.7 worse) |" in line


# ---------------------------------------------------------------- summary


def page_rows(number: int, words: int, default: float, other: float) -> dict:
    """A page with one budget and two settings that differ in their recall of words."""
    same = {"budget": 8, "precision": 0.5, "empty_tiles": default, "answer": [1.0, 0.0], "answer_asked": None}
    same |= {"small_words": None, "ms": 2.0 + number}
    rows = [{"setting": "default", "words": default, **same}]
    rows += [{"setting": "other", "words": other, **same, "empty_tiles": other, "answer": None}]
    return {"page": number, "words": words, "small_words": 0, "questions": ["a", "b"], "rows": rows}


def test_words_are_counted_over_all_pages():
    pages = [page_rows(0, 30, 0.1, 0.1), page_rows(1, 10, 0.5, 0.9)]
    default, other, twin = summarise(pages, {"default": "default", "other": "other", "twin": "other"}, [8], 0)
    assert default["words"]["mean"] == pytest.approx((3 + 5) / 40)
    assert other["words"]["difference"]["mean"] == pytest.approx(4 / 40)
    assert other["words"]["difference"]["differing_pages"] == 1 and other["words"]["pages"] == 2
    assert other["words"]["difference"]["verdict"] == "undecided"  # one page is no evidence
    assert default["answer"]["mean"] == 0.5 and other["answer"] is None
    assert default["small_words"] is None and "anls" not in default
    assert default["gate_ms"] == {"best": 2.0, "median": 2.5}
    assert twin == {**other, "setting": "twin", "same_as": "other"}


def test_verdicts_know_that_empty_tiles_are_bad():
    pages = [page_rows(number, 10, 0.1, 0.5 + number / 100) for number in range(8)]
    _, other = summarise(pages, {"default": "default", "other": "other"}, [8], 0)
    assert other["words"]["difference"]["verdict"] == "better"
    assert other["empty_tiles"]["difference"]["verdict"] == "worse"
    assert other["precision"]["difference"]["differing_pages"] == 0


# ---------------------------------------------------------------- runs


def config(folder, **changes) -> SweepConfig:
    return SweepConfig(**{"pages": 3, "questions": 1, "token_budgets": (24, 12), "output_dir": folder} | changes)


def untimed(pages: list[dict]) -> list[dict]:
    return [{**page, "rows": [{**row, "ms": None} for row in page["rows"]]} for page in pages]


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """Three pages in one go: the sweep, its pages and its record."""
    sweep = Sweep(config(tmp_path_factory.mktemp("whole")), model)
    pages = sweep.run()
    return sweep, pages, sweep.record(pages, 1.0)


def test_pages_do_not_depend_on_how_many_there_are():
    page, asked = page_and_questions(5, 3, 2)
    again, more = page_and_questions(5, 3, 4)
    assert page.kind == again.kind and page.words == again.words and (len(asked), len(more)) == (2, 4)
    assert page.image.tobytes() == again.image.tobytes()
    assert page_and_questions(5, 4, 2)[0].words != page.words


def test_an_interrupted_run_goes_on(whole, model, tmp_path, monkeypatch):
    sweep = Sweep(config(tmp_path), model)
    measure = sweep.measure_page

    def stopped(number, *left_out):
        if number == 1:
            raise KeyboardInterrupt
        return measure(number, *left_out)

    monkeypatch.setattr(sweep, "measure_page", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweep.run()
    with open(tmp_path / "pages.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"page": 1, "ki')  # as a crash leaves it
    measured = []
    going_on = Sweep(config(tmp_path, resume=True), model)
    monkeypatch.setattr(
        going_on, "measure_page", lambda number, *left_out: measured.append(number) or measure(number, *left_out)
    )
    assert untimed(going_on.run()) == untimed(whole[1]) and measured == [1, 2]
    again = Sweep(config(tmp_path, resume=True, pages=2), model)
    monkeypatch.setattr(again, "measure_page", None)  # nothing is left to measure
    assert untimed(again.run()) == untimed(whole[1][:2])


def test_without_resume_it_starts_over(model, tmp_path):
    run = {"pages": 1, "token_budgets": (12,)}
    Sweep(config(tmp_path, **run), model).run()
    Sweep(config(tmp_path, **run, seed=1), model).run()
    lines = [json.loads(line) for line in (tmp_path / "pages.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and lines[0]["seed"] == 1


def test_resume_refuses_another_run(model, tmp_path, monkeypatch):
    Sweep(config(tmp_path, pages=1, token_budgets=(12,)), model).run()
    with pytest.raises(
        UserError, match=r"resume: seed is 9, but .*pages.jsonl was made with 0; give that again, leave --resume out"
    ):
        Sweep(config(tmp_path, pages=1, token_budgets=(12,), seed=9, resume=True), model).run()
    monkeypatch.setattr(sweep_module, "named_settings", lambda: {"default": GateConfig(alpha=0.3)})
    with pytest.raises(UserError, match=r"resume: settings.default.alpha is 0.3, but .* was made with 0.25"):
        Sweep(config(tmp_path, pages=1, token_budgets=(12,), resume=True), model).run()
    (tmp_path / "pages.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError, match="pages.jsonl is of no such run; leave --resume out"):
        Sweep(config(tmp_path, pages=1, token_budgets=(12,), resume=True), model).run()


def test_the_table_mentions_every_setting_and_measure(whole):
    sweep, _, record = whole
    text = sweep_report(record)
    for budget in (12, 24):
        part = text.split(f"## K = {budget}\n")[1].split("\n## ")[0]
        names = [
            line.split("|")[1].split(" (same as")[0].strip() for line in part.splitlines() if line.startswith("| ")
        ]
        assert names[2:] == list(sweep.settings)
    for title in ("words", "small words", "answer, asked", "answer, unasked", "precision", "empty tiles"):
        assert f"| {title} |" in text
    assert "ANLS |" not in text and "3 held-out rendered pages (seed 0), 3 questions" in text
    assert re.search(r"\b(nan|None|inf)\b", text) is None


def test_the_record_says_when_where_and_how(whole):
    record = json.loads(json.dumps(whole[2], allow_nan=False))
    assert record["date"].endswith("+00:00") and record["hardware"]["cores"] >= 1
    assert record["environment"]["packages"]["torch"] == metadata.version("torch")
    assert record["environment"]["packages"]["pillow"] == metadata.version("pillow")
    assert record["run"]["token_budgets"] == [12, 24] and record["run"]["settings"]["ocr preset"] == dataclasses.asdict(
        GateConfig.preset("ocr")
    )
    assert len(record["results"]) == 2 * len(named_settings())


def test_answers_are_scored_where_asked_for(model, tmp_path):
    sweep = Sweep(config(tmp_path, pages=1, token_budgets=(12,), answers=True), model)
    pages = sweep.run()
    row = pages[0]["rows"][0]
    assert len(row["said"]) == len(row["exact_match"]) == len(row["anls"]) == 1
    text = sweep_report(sweep.record(pages, 1.0))
    assert "| exact match | ANLS |" in text and "--answers" not in text


def test_the_heat_map_is_of_the_smallest_budget(whole, tmp_path, monkeypatch):
    heat_map(tmp_path / "map.png", whole[2])
    with Image.open(tmp_path / "map.png") as drawn:
        assert drawn.format == "PNG" and drawn.width > 1000
    results = [entry | {"answer_asked": None} for entry in whole[2]["results"] if entry["budget"] == 12]
    heat_map(tmp_path / "one.png", whole[2] | {"results": results})  # no question is compared: one panel
    with Image.open(tmp_path / "one.png") as drawn:
        assert drawn.width < 1000


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pages": 0}, "pages: got 0, must be at least 1"),
        ({"questions": -1}, "questions: got -1"),
        ({"token_budgets": ()}, "token_budgets"),
        ({"token_budgets": (0,)}, "token_budgets"),
        ({"token_budgets": (12, 145)}, "token_budgets: got 145, must be at most 144, the grid at 168 pixels"),
    ],
)
def test_mistakes_are_told_before_the_work(changes, says, model, tmp_path):
    with pytest.raises(UserError, match=says):
        Sweep(config(tmp_path, **changes), model)
