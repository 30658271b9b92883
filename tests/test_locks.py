"""Folder locks: every command against every other on one folder, shares of one run, and killed processes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shirg import cli
from shirg.data.preparation import SHIRGDatasetProcessor
from shirg.errors import UserError
from shirg.evaluation.evaluator import SHIRGEvaluator
from shirg.evaluation.sweep import run_sweep
from shirg.locks import folder_lock
from shirg.nano.recipe import __main__ as recipe
from tests.data.preparing import config as data_config
from tests.evaluation.conftest import small_config as evaluation_config
from tests.tiny import tiny_model
from tests.training.helpers import fake_records, loader, small_trainer

RECIPE = "recipe"
COMMANDS = ("train", "evaluate", "run", "prepare", "sweep", RECIPE)


def start(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A command on a folder, in this thread; its exit code."""
    with pytest.raises(SystemExit) as stop:
        if command == RECIPE:
            monkeypatch.setattr(sys, "argv", ["recipe", "--work", str(folder)])
            recipe.main()
        cli.main([command, str(folder)] if command == "report" else [command, "--output-dir", str(folder)])
    return stop.value.code


def elsewhere(action: Callable[[], object]) -> object:
    """What another thread makes of it; locks are a thread's own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(action).result(timeout=60)


@pytest.mark.parametrize("first", COMMANDS)
def test_no_second_command_enters_a_folder_that_a_command_fills(first, tmp_path, monkeypatch, capsys):
    """At the first thing that each command does with its folder, all commands are started on it."""
    refused: dict[tuple[str, str], tuple[int, str]] = {}
    inner = {"run": {"data": ["prepare"], "evaluation": ["evaluate", "report"]}}.get(first, {})

    inside: list[str] = []

    def others(*_: object, **__: object) -> None:
        inside.append(first)
        if len(inside) > 1:
            raise UserError("two commands fill the folder")
        capsys.readouterr()
        for place, commands in {"": [*COMMANDS, "report"], **inner}.items():
            for second in commands:
                code = elsewhere(lambda: start(second, tmp_path / "new" / place, monkeypatch))  # noqa: B023
                refused[place, second] = code, capsys.readouterr().err
        raise UserError("seen enough")

    monkeypatch.setattr("shirg.cli.models.load_model", others)
    monkeypatch.setattr(SHIRGDatasetProcessor, "_prepare", others)
    monkeypatch.setattr(recipe, "Reader", others)
    assert start(first, tmp_path / "new", monkeypatch) == 2
    assert "seen enough" in capsys.readouterr().err
    assert len(refused) == len(COMMANDS) + 1 + sum(map(len, inner.values()))
    for (place, _), (code, said) in refused.items():
        assert code == 2 and said.count("\n") == 1, said
        assert f"{tmp_path / 'new' / place} is being filled by process {os.getpid()} on" in said
    assert not (tmp_path / "new").exists()  # nobody left an empty folder, or a lock


def test_the_librarys_calls_lock_their_folders(tmp_path):
    """Two notebooks are two commands."""
    model = tiny_model()
    calls = (
        lambda: small_trainer(tmp_path).train(loader(fake_records(2))),
        lambda: SHIRGEvaluator(evaluation_config(tmp_path), model).run_evaluation(),
        lambda: SHIRGDatasetProcessor(data_config(tmp_path)).prepare_full_dataset(),
        lambda: run_sweep(model, tmp_path),
    )
    with folder_lock(tmp_path):
        for call in calls:
            with pytest.raises(UserError, match="output_dir: .* is being filled by process"):
                elsewhere(call)
    assert not list(tmp_path.iterdir())


def test_shares_work_side_by_side_and_nobody_else_does(tmp_path, monkeypatch):
    monkeypatch.setattr("shirg.locks.PATIENCE_S", 0.01)

    def refused(*share: int) -> bool:
        def enter() -> bool:
            try:
                with folder_lock(tmp_path, share or None):
                    return False
            except UserError as error:
                assert "is being filled by process" in str(error)
                return True

        return bool(elsewhere(enter))

    with folder_lock(tmp_path, (0, 2)):
        assert not refused(1, 2) and refused(0, 2) and refused()
        with folder_lock(tmp_path, (0, 2)):  # the same thread: the command, and the library that it calls
            pass
        assert refused(0, 2)
    with folder_lock(tmp_path), folder_lock(tmp_path):
        assert refused(0, 2) and refused()
    assert not refused() and not refused(0, 2) and not list(tmp_path.iterdir())


def test_a_killed_process_leaves_no_lock_though_its_workers_live(tmp_path):
    """A child takes the folder, forks a worker and is killed; the worker lives on."""
    ready, live = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with folder_lock(tmp_path):
                if os.fork() == 0:
                    os.close(live[1])
                    os.read(live[0], 1)  # until the test is over
                else:
                    os.write(ready[1], b"x")
                    signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready[0], 1) == b"x"
    with pytest.raises(UserError, match=f"is being filled by process {child} on"), folder_lock(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / ".lock").exists()
    with folder_lock(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()
    os.close(live[1])


def test_a_folder_that_cannot_be_had_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"^output_dir: .* cannot be written \("), folder_lock(folder):
            pass
