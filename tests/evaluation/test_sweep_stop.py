"""Early stopping: worked by hand, not fooled by looking often, and the same in one run or in many parts."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from shirg.cli.sweep import stopped_lines, summary_table
from shirg.data.pages import Page
from shirg.errors import UserError
from shirg.evaluation import sweep as sweep_module
from shirg.evaluation.sweep import Sweep, SweepConfig, named_settings
from shirg.evaluation.sweep_figure import heat_map
from shirg.evaluation.sweep_report import sweep_report
from shirg.evaluation.sweep_stop import FIRST_LOOK, MARGIN, RISK, ROUND, EarlyStop
from shirg.evaluation.sweep_summary import summarise
from tests.evaluation.test_sweep import question, untimed, word
from tests.tiny import formula, tiny_model

STORED = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "gate_sweep.json"


def a_page(differences: dict[str, float], key: str = "answer_asked") -> dict:
    """A page of one question on which the default keeps all of the answer's patches but half."""
    other = {"answer_asked": "answer", "answer": "answer_asked"}[key]
    values = {"default": 0.5} | {name: 0.5 + difference for name, difference in differences.items()}
    return {"rows": [{"setting": name, "budget": 8, key: [value], other: None} for name, value in values.items()]}


def stopped(per_page: list[float], among: int = 1, key: str = "answer_asked") -> int | None:
    """After how many pages a setting with these differences is stopped, among so many alike."""
    names = [f"s{number}" for number in range(among)]
    early = EarlyStop(["default", *names], 8)
    for difference in per_page:
        early.add(a_page({name: difference for name in names if name not in early.stopped}, key))
    assert len(set(early.stopped.values())) <= 1 and len(early.stopped) in (0, among)
    return early.stopped.get("s0")


# ---------------------------------------------------------------- the decision


@pytest.mark.parametrize("key", ["answer_asked", "answer"])
def test_worked_by_hand(key):
    """A quarter worse on every page: the stakes grow by 1.06, 1.12 and 1.18, and their mean is to reach 20.

    1.06**21, 1.12**21, 1.18**21 = 3.4, 10.8, 32.3, mean 15.5; after 28 pages 5.1, 23.9, 103, mean 44.
    """
    assert (MARGIN, RISK, ROUND, FIRST_LOOK) == (0.05, 0.05, 7, 14)
    assert stopped([-0.25] * 60, key=key) == 28
    assert stopped([-0.25] * 60, among=2, key=key) == 28  # 40 to reach
    assert stopped([-0.25] * 60, among=3, key=key) == 35  # 60
    assert stopped([-1.0] * 60) == FIRST_LOOK and stopped([-1.0] * 13) is None


def test_what_is_worse_by_the_margin_and_no_more_is_never_stopped():
    assert stopped([-MARGIN] * 700) is None
    one_kind_is_lost = [-0.35, 0, 0, 0, 0, 0, 0] * 100  # 5 points on the average of kinds
    assert stopped(one_kind_is_lost) is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(-1, 1), min_size=ROUND, max_size=ROUND))
def test_kinds_of_page_may_differ_as_they_like(of_kind):
    """What counts is the average of kinds: no order and no spread of them stops a setting that is not worse by the margin."""
    lift = max(0.0, -MARGIN - float(np.mean(of_kind)))
    lifted = [min(1.0, value + lift) for value in of_kind]
    if np.mean(lifted) >= -MARGIN:
        assert stopped(lifted * 12) is None


def naive_looks(differences: np.ndarray) -> np.ndarray:
    """What 95% intervals, looked at after every round, would stop: [settings] bool."""
    fooled = np.zeros(differences.shape[1], dtype=bool)
    for pages in range(FIRST_LOOK, len(differences) + 1, ROUND):
        seen = differences[:pages]
        fooled |= seen.mean(axis=0) + 1.96 * seen.std(axis=0, ddof=1) / np.sqrt(pages) < -MARGIN
    return fooled


def test_looking_often_fools_an_interval_and_not_the_stakes():
    """Settings worse by the margin exactly, half of their pages lost and half won: 14 looks at each of 200."""
    random, sweeps = np.random.default_rng(0), 10
    names, wrong, fooled = [f"s{number}" for number in range(20)], 0, 0
    for _ in range(sweeps):
        differences = np.where(random.random((105, len(names))) < 0.5, -0.5 - MARGIN, 0.5 - MARGIN)
        early = EarlyStop(["default", *names], 8)
        for row in differences:
            early.add(a_page(dict(zip(names, row, strict=True))))
        wrong += len(early.stopped)
        fooled += int(naive_looks(differences).sum())
    assert wrong == 0 and fooled > 0.05 * sweeps * len(names)  # 2.5% is what an interval that is looked at once may err


def test_what_is_hopeless_is_found_within_the_usual_sixty_pages():
    """Settings as the sweep knows them: similarity alone (66 points worse) and no edge term (38), of 22."""
    random = np.random.default_rng(1)
    found = {-0.66: [], -0.38: []}
    for mean, after in found.items():
        for _ in range(20):
            pages = np.clip(mean + 0.33 * random.standard_normal(60), -1, 0.3)
            after.append(stopped(list(pages), among=22) or 99)
    assert max(found[-0.66]) <= 28 and np.median(found[-0.38]) <= 42 and max(found[-0.38]) <= 60


def test_what_cannot_be_measured_is_left_alone():
    early = EarlyStop(["default", "needs a question"], 8)
    for _ in range(70):
        page = a_page({"needs a question": -1.0}, "answer")
        page["rows"][1]["answer"] = None
        early.add(page)
    assert early.stopped == {}


# ---------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def model():
    model = tiny_model()
    model.vision = replace(model.vision, resolution=168)
    return model


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small pages in place of rendered ones, whose answers are all that has edges, and five settings."""

    def pages(number, *_):
        rows, columns = np.mgrid[:168, :168]
        left = 14 * (number % 9)
        box = (left, 28, left + 42, 42)
        inside = (rows >= 28) & (rows < 42) & (columns >= left) & (columns < left + 42)
        grey = np.where(inside, 255 * ((rows // 2 + columns // 2) % 2), 255).astype(np.uint8)
        words, asked = [word("left", box)], [question("What is left?", 0, [word("left", box)])]
        return Page(Image.fromarray(np.stack([grey] * 3, axis=-1)), words, asked, "form", number), asked

    names = ("default", "no edge term", "no summary", "similarity only")
    few = {name: named_settings()[name] for name in names}
    few |= {"alpha 0.25, beta 0": formula(beta=0.0)}
    monkeypatch.setattr(sweep_module, "page_and_questions", pages)
    monkeypatch.setattr(sweep_module, "named_settings", lambda: few)


def made(model, folder, pages=17, **changes) -> tuple[list[dict], dict]:
    """Pages and results of a run, without times."""
    sweep = Sweep(SweepConfig(pages=pages, token_budgets=(8, 24), output_dir=folder, **changes), model)
    found = sweep.run()
    record = sweep.record(found, 1.0)
    results = [entry | {"gate_ms": None} for entry in record["results"]]
    return untimed(found), record | {"results": results}


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """Made by the first test that asks, under its patches."""
    folder = tmp_path_factory.mktemp("whole")
    return lambda: (folder, *(made(model, folder, resume=True)))


def test_a_stopped_setting_keeps_its_row_and_is_compared_on_its_pages(model, whole, tmp_path):
    _, pages, record = whole()
    entries = {(entry["setting"], entry["budget"]): entry for entry in record["results"]}
    after = entries["similarity only", 8]["stopped_after"]
    assert after == 14 and entries["default", 8]["stopped_after"] is None
    assert entries["no summary", 8]["stopped_after"] is None  # it keeps the very same patches
    for number, page in enumerate(pages):
        there = ("similarity only" in {row["setting"] for row in page["rows"]}) == (number < after)
        assert there and len({row["budget"] for row in page["rows"]}) == 2
    complete, all_of = made(model, tmp_path, early_stop=False)
    assert all(entry["stopped_after"] is None for entry in all_of["results"])
    shortened = summarise(complete[:after], {name: name for name in ("default", "similarity only")}, [8, 24], 0)
    for entry in shortened:
        stands = entries[entry["setting"], entry["budget"]]
        if entry["setting"] != "default":
            names = ("words", "answer_asked", "empty_tiles")
            assert {name: stands[name] for name in names} == {name: entry[name] for name in names}
            assert stands["answer_asked"]["pages"] == after
    names = ("words", "answer_asked")
    full = {entry["setting"]: entry for entry in all_of["results"] if entry["budget"] == 8}
    assert all(entries["default", 8][name] == full["default"][name] for name in names)


def killed(model, folder, page: int) -> None:
    """A run in a process of its own, killed while it measures that page."""
    measure = Sweep.measure_page

    def until(self, number, *left_out):
        if number == page:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(self, number, *left_out)

    def run():
        torch.set_num_threads(1)
        Sweep.measure_page = until
        made(model, folder, resume=True)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def test_killed_and_gone_on_with_is_as_never_killed(model, whole, tmp_path):
    _, pages, record = whole()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    for page in (3, 13, 15):
        killed(model, tmp_path, page)
    torch.set_num_threads(threads)
    again, other = made(model, tmp_path, resume=True)
    assert again == pages and other["results"] == record["results"]


def test_cut_anywhere_and_gone_on_with_is_as_never_cut(model, whole, tmp_path):
    folder, pages, record = whole()
    data = (folder / "pages.jsonl").read_bytes()
    for share in (0.3, 0.9, 0.97):
        (tmp_path / "pages.jsonl").write_bytes(data[: int(share * len(data))])
        again, other = made(model, tmp_path, resume=True)
        assert again == pages and other["results"] == record["results"]


def test_more_pages_later_and_fewer_are_as_in_one_go(model, whole, tmp_path):
    _, pages, record = whole()
    first, few = made(model, tmp_path, pages=14)
    assert first == pages[:14] and all(entry["stopped_after"] is None for entry in few["results"])
    again, more = made(model, tmp_path, resume=True)
    assert again == pages and more["results"] == record["results"]


def test_runs_with_and_without_stopping_are_not_mixed(model, whole, tmp_path):
    made(model, tmp_path, pages=1)
    with pytest.raises(UserError, match=r"resume: early_stop is False, but .*pages.jsonl was made with True"):
        made(model, tmp_path, pages=2, resume=True, early_stop=False)
    first, *rest = (tmp_path / "pages.jsonl").read_text().splitlines()
    run = json.loads(first)
    run["stop_rule"]["margin"] = 0.1
    (tmp_path / "pages.jsonl").write_text("\n".join([json.dumps(run), *rest]) + "\n")
    with pytest.raises(UserError, match="stop_rule.margin is 0.05, but .* was made with 0.1"):
        made(model, tmp_path, pages=2, resume=True)


# ---------------------------------------------------------------- what is shown of it


def test_tables_say_what_was_stopped_and_when(whole):
    _, _, record = whole()
    entry = next(entry for entry in record["results"] if entry["setting"] == "similarity only")
    after = entry["stopped_after"]
    text = sweep_report(record)
    assert text.count(f"| similarity only (stopped after {after} pages) |") > 2
    short = text.split("## Stopped early\n")[1].split("\n## ")[0]
    mean = f"{100 * entry['answer_asked']['difference']['mean']:+.1f}"
    assert re.search(rf"\| similarity only \| {after} \| [\d.]+ \| {re.escape(mean)} \| \[", short)
    assert "| default (" not in text and "| no summary |" in text
    (line,) = stopped_lines(record)
    assert f"similarity only after {after} pages" in line
    table = summary_table(record, 8)
    assert "similarity only *" in list(table.columns[0].cells) and "no summary" in list(table.columns[0].cells)
    nothing = record | {"results": [entry | {"stopped_after": None} for entry in record["results"]]}
    assert "No setting was stopped." in sweep_report(nothing) and stopped_lines(nothing) == []


def test_the_heat_map_tells_how_many_pages_a_stopped_cell_had(tmp_path):
    from shirg.evaluation.sweep_figure import _against

    record = json.loads(STORED.read_text(encoding="utf-8"))
    worse = {"mean": -0.381, "differing_pages": 20, "verdict": "worse"}
    assert _against(worse, 28) == "-38.1 worse\n(28 pages)" and _against(worse, None) == "-38.1 worse"
    results = [entry | {"stopped_after": 28 if "beta 0" in entry["setting"] else None} for entry in record["results"]]
    heat_map(tmp_path / "map.png", record | {"results": results})
    heat_map(tmp_path / "all.png", record)
    with Image.open(tmp_path / "map.png") as one, Image.open(tmp_path / "all.png") as other:
        assert one.size == other.size and one.tobytes() != other.tobytes()


def test_a_sweep_that_stopped_nothing_speaks_of_no_stops():
    record = json.loads(STORED.read_text(encoding="utf-8"))
    text = sweep_report(record)
    assert "60 held-out rendered pages" in text and "stopped" not in text.lower() and stopped_lines(record) == []
