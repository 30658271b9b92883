"""What a user sees when something is wrong, and the exit codes a script sees."""

from __future__ import annotations

import dataclasses
import errno
import logging
import sys
from types import ModuleType
from typing import Literal

import pytest

import shirg
from shirg.cli import main, runner
from shirg.cli.flags import CommonFlags
from shirg.errors import UserError


class SafetensorError(Exception):
    """Named as safetensors' own, which is told by its name."""


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UserError("budget: got 0,\n   must be 1 or more"), "budget: got 0, must be 1 or more"),
        (FileNotFoundError(errno.ENOENT, "x", "page.png"), "page.png: no such file or folder"),
        (PermissionError(errno.EACCES, "x", "/out"), "/out: no permission to read or write it"),
        (NotADirectoryError(errno.ENOTDIR, "x", "/file/out"), "/file/out: part of the path is a file, not a folder"),
        (OSError(errno.ENOSPC, "x", "w.bin"), "the disk is full while writing w.bin: free some space"),
        (SafetensorError("IoError: No space left on device (os error 28)"), "the disk is full: free some space"),
        (OSError("the hub\ndid not answer"), "the hub did not answer"),
        (OutOfMemoryError("CUDA out of memory"), "out of memory: lower --batch-size"),
        (MemoryError(), "out of memory: lower --batch-size"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(error, says, capsys):
    def action():
        raise error

    assert runner.guarded(action, debug=False) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"shirg: error: {says}") and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("token_budgets: got 0", "--token-budgets: got 0"),
        ("modes: got 'foo'", "--variants: got 'foo'"),
        ("other: got 0", "other: got 0"),
        ("no modes", "no modes"),
    ],
)
def test_a_setting_is_named_by_the_flag_that_sets_it(message, says, capsys):
    def action():
        raise UserError(message)

    runner.guarded(action, debug=False, names={"token_budgets": "--token-budgets", "modes": "--variants"})
    assert capsys.readouterr().err == f"shirg: error: {says}\n"


def test_ctrl_c_ends_in_130(capsys):
    def action():
        raise KeyboardInterrupt

    assert runner.guarded(action, debug=False) == 130
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("error", [UserError("x"), KeyboardInterrupt()])
def test_debug_shows_the_traceback(error):
    def action():
        raise error

    with pytest.raises(type(error)):
        runner.guarded(action, debug=True)


def test_a_package_that_is_missing_or_too_old_is_named_with_what_brings_it(monkeypatch, capsys):
    """In an environment with what a plain install brings, or with the official code's versions."""
    monkeypatch.delitem(sys.modules, "shirg.cli.describe", raising=False)
    for package in ("rich", "tyro"):  # where a command works, and before it can be read
        for module in ("describe", "runner"):
            monkeypatch.delitem(sys.modules, f"shirg.cli.{module}", raising=False)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(SystemExit, match="2"):
            main(["describe", "llada-8b"])
        said = capsys.readouterr().err
        assert package in said and "pip install 'shirg[full]'" in said and said.count("\n") == 1

    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    for name in ("language", "model"):
        monkeypatch.delitem(sys.modules, f"shirg.lavida.{name}", raising=False)
    with pytest.raises(ImportError, match=r"from 'transformers' .*shirg\[full\]"):
        shirg.Lavida  # noqa: B018
    assert "shirg[full]" in runner.explain(ImportError("too old", name="peft"))
    assert runner.explain(ImportError("a defect of ours", name="shirg.gate")) is None


def test_our_own_defects_are_not_dressed_up_as_mistakes():
    with pytest.raises(ZeroDivisionError):
        runner.guarded(lambda: 1 / 0, debug=False)
    with pytest.raises(ValueError, match="plain"):
        runner.guarded(lambda: int("plain"), debug=False)


def test_success_is_0_and_the_log_is_said_once(capsys):
    for _ in range(2):
        assert runner.guarded(lambda: logging.getLogger("shirg.room").info("a line"), debug=False) == 0
    assert capsys.readouterr().err == "a line\na line\n"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--sample-size", "many"], "--sample-size: got many, must be a whole number"),
        (["--share", "half"], "--share: got half, must be a number"),
        (["--kind", "c"], "--kind: got c, must be one of a, b"),
        (["--sizes", "1", "x"], "--sizes: got 1 x, must be what --help shows"),
        (
            ["--smaple-size", "3"],
            "--smaple-size: no such option or argument; did you mean --sample-size? --help lists all",
        ),
    ],
)
def test_a_flag_that_cannot_be_read_is_one_line(argv, says, capsys):
    @dataclasses.dataclass(kw_only=True)
    class Flags(CommonFlags):
        sample_size: int = 1
        share: float = 0.5
        kind: Literal["a", "b"] = "a"
        sizes: tuple[int | Literal["auto"], ...] = ()

    with pytest.raises(SystemExit) as left:
        runner.run_command(lambda flags: None, Flags, argv, prog="shirg")
    printed = capsys.readouterr().err.splitlines()
    assert left.value.code == 2
    assert len(printed) == 1 and printed[0].startswith(f"shirg: error: {says}")


def test_a_value_of_no_type_of_its_flag_is_named_with_what_would_work(capsys):
    with pytest.raises(SystemExit) as left:
        main(["answer", "page.png", "What?", "--budget", "many"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "shirg: error: --budget: got 'many', must be a whole number or auto\n"
