"""Runs that are stopped and go on, runs in parts, and folders that hold an earlier run."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from shirg.errors import UserError
from shirg.evaluation import questions
from shirg.evaluation.evaluator import SHIRGEvaluator
from shirg.evaluation.journal import Journal
from shirg.evaluation.output import set_aside
from shirg.files import append_line, read_lines
from shirg.gate import GateConfig
from shirg.identity import OtherRunError, fingerprint
from tests.evaluation.conftest import RECORDS, adapted_model, broken, install, page_record, small_config

ASKED = [*RECORDS, broken(page_record(7)), page_record(8)]
QUICK = {"modes": ["lowres", "shirg"], "token_budgets": [24], "efficiency_repeats": 0}
ANSWERS = 5 * 2 * 2  # questions that can be asked, variants, with and without the adapter


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder and results of a run that nothing stopped, which tests leave as they are."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        install(patch, ASKED)
        return folder, evaluate(folder)


@pytest.fixture
def whole(finished, benchmark, tmp_path):
    """A copy of that folder to go on with, and the results."""
    benchmark(ASKED)
    return shutil.copytree(finished[0], tmp_path / "whole"), finished[1]


def evaluate(folder, **changes) -> dict:
    return SHIRGEvaluator(small_config(folder, **QUICK | changes), adapted_model()).run_evaluation()


def same(results: dict, others: dict) -> bool:
    """All but how long it took and where."""
    keys = ("run", "datasets", "variants", "tokens", "scores", "parts", "comparisons", "breakdown", "skipped")
    return all(results[key] == others[key] for key in keys)


def stop_after(monkeypatch, answers: int) -> None:
    """Ctrl-C when so many rows were made."""
    made, row = [], questions._row

    def counting(*arguments):
        if len(made) == answers:
            raise KeyboardInterrupt
        made.append(1)
        return row(*arguments)

    monkeypatch.setattr(questions, "_row", counting)


@pytest.mark.parametrize("answers", [0, 1, 7, 19])
def test_stopped_and_resumed_is_as_if_never_stopped(whole, tmp_path, monkeypatch, answers):
    folder, results = whole
    with monkeypatch.context() as patch:
        stop_after(patch, answers)
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path / "parts")
    with open(tmp_path / "parts" / "predictions.jsonl", "a") as handle:
        handle.write('{"dataset": "docum')  # as a crash leaves it
    resumed = evaluate(tmp_path / "parts", resume=True)
    assert resumed["resumed_answers"] == answers and same(resumed, results)
    for name in ("predictions.jsonl", "detailed_results.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (folder / name).read_bytes()


def test_a_finished_run_is_not_asked_again(whole, monkeypatch):
    folder, results = whole
    stop_after(monkeypatch, 0)
    assert same(evaluate(folder, resume=True), results)
    assert not (folder / "old-1").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"seed": 3},
            "resume: seed is 3, but .*predictions.jsonl was made with 0; use that value, leave --resume out",
        ),
        ({"step_ratio": 1.0}, "resume: step_ratio is 1.0"),
        ({"modes": ["lowres"]}, "resume: modes is"),
    ],
)
def test_another_configuration_is_refused(whole, changes, says):
    folder, _ = whole
    before = (folder / "predictions.jsonl").read_bytes()
    with pytest.raises(UserError, match=says):
        evaluate(folder, resume=True, **changes)
    assert (folder / "predictions.jsonl").read_bytes() == before


def test_other_questions_weights_and_gates_are_refused(whole, benchmark):
    folder, _ = whole
    benchmark(ASKED[:-1])
    with pytest.raises(UserError, match="resume: questions is"):
        evaluate(folder, resume=True)
    benchmark(ASKED)
    config = small_config(folder, **QUICK, resume=True)
    other = adapted_model()
    other.mm_projector[0].lora_B["default"].weight.data += 1
    with pytest.raises(UserError, match="resume: adapter_weights is"):
        SHIRGEvaluator(config, other).run_evaluation()
    other = adapted_model()
    other.vision = replace(other.vision, gate=GateConfig(beta=0.5))
    with pytest.raises(UserError, match="resume: gate.beta is 0.5, but .* was made with 1.0"):
        SHIRGEvaluator(config, other).run_evaluation()


def test_an_earlier_run_is_moved_aside_and_said_so(whole, caplog):
    folder, results = whole
    (folder / "mine.txt").write_text("not ours")
    kept = (folder / "evaluation_results.json").read_bytes()
    with caplog.at_level("INFO", "shirg"):
        evaluate(folder, sample_size=1)
    assert (folder / "old-1" / "evaluation_results.json").read_bytes() == kept
    assert "moved to" in caplog.text and (folder / "mine.txt").exists()
    assert len(read_lines(folder / "predictions.jsonl")) == 1 + 4
    set_aside(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", "old-1", "old-2"]
    set_aside(folder)
    assert not (folder / "old-3").exists()


def test_shards_joined_equal_one_process(whole, tmp_path):
    folder, results = whole
    parts = tmp_path / "parts"
    done = [evaluate(parts, num_shards=2, shard_index=index) for index in (1, 0)]
    assert sum(entry["answers"] for entry in done) == ANSWERS and not (parts / "evaluation_results.json").exists()
    assert same(evaluate(parts, num_shards=2), results)
    for name in ("predictions.jsonl", "detailed_results.json"):
        assert (parts / name).read_bytes() == (folder / name).read_bytes()


def test_more_shards_than_pages(whole, tmp_path):
    _, results = whole
    for index in range(6):
        evaluate(tmp_path / "parts", num_shards=6, shard_index=index)
    assert same(evaluate(tmp_path / "parts", num_shards=6), results)


def test_shards_that_are_missing_unfinished_or_of_another_run_are_named(benchmark, tmp_path, monkeypatch):
    benchmark(ASKED)
    evaluate(tmp_path, num_shards=2, shard_index=0)
    with pytest.raises(UserError, match="predictions-1-of-2.jsonl is missing; run --num-shards 2 --shard-index 1"):
        evaluate(tmp_path, num_shards=2)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path, num_shards=2, shard_index=1)
    with pytest.raises(UserError, match="predictions-1-of-2.jsonl lacks 9 answers; finish it with .* --resume"):
        evaluate(tmp_path, num_shards=2)
    assert evaluate(tmp_path, num_shards=2, shard_index=1, resume=True)["answers"] == 12
    with pytest.raises(UserError, match="resume: seed is 1"):
        evaluate(tmp_path, num_shards=2, seed=1)


def test_journal_writes_settings_and_entries_as_they_are_added(tmp_path):
    journal = Journal(tmp_path / "a" / "x.jsonl", {"seed": 1}, lambda entry: entry["id"], resume=True, noun="thing")
    journal.add({"id": "\u00e9"})
    name = fingerprint({"seed": 1})
    assert read_lines(journal.path) == [{"seed": 1, "fingerprint": name}, {"id": "\u00e9", "run": name}]
    with pytest.raises(ValueError, match="JSON"):
        journal.add({"id": "x", "value": float("nan")})
    again = Journal(journal.path, {"seed": 1}, lambda entry: entry["id"], resume=True, noun="thing")
    assert list(again.entries.values()) == [{"id": "\u00e9", "run": name}]


def test_rows_of_another_run_are_left_out_and_those_of_earlier_versions_are_not(tmp_path, caplog):
    path, settings = tmp_path / "x.jsonl", {"seed": 1, "gate": {"beta": 0.5}, "later": None}
    path.write_text('{"seed": 1}\n{"id": 1}\n{"id": 2}\n')  # as before rows had names, and before there was a gate
    with caplog.at_level("INFO", "shirg"):
        first = Journal(path, settings, lambda entry: entry["id"], resume=True, noun="thing")
    assert list(first.entries) == [1, 2] and "lacks gate, later: assumed equal" in caplog.text
    append_line(path, {"id": 3, "run": "another"})
    again = Journal(path, settings, lambda entry: entry["id"], resume=True, noun="thing")
    assert list(again.entries) == [1, 2] and "1 line of another run left out" in caplog.text
    assert [row.get("run") for row in read_lines(path)[1:]] == [fingerprint(settings)] * 2
    with pytest.raises(OtherRunError, match="resume: gate.beta is 0.25, but .* was made with 0.5; use that value"):
        Journal(path, settings | {"gate": {"beta": 0.25}}, first.key, resume=True, noun="thing")
