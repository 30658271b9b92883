"""`shirg sweep` by its flags: help, the table on the screen, the files, mistakes in one line."""

from __future__ import annotations

import dataclasses
import json

import pytest

from shirg import cli
from shirg.cli import sweep
from shirg.evaluation.sweep import named_settings
from tests.cli.test_commands import documented
from tests.tiny import tiny_model

SMALL = ("--image-resolution", 168, "--pages", 2, "--questions", 1, "--token-budgets", 12, 24)


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", *map(str, arguments)])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model().save_pretrained(folder)
    return folder


def untimed(folder) -> dict:
    """What `sweep.json` holds, without what differs from run to run."""
    record = json.loads((folder / "sweep.json").read_text())
    for entry in record["results"]:
        del entry["gate_ms"]
    return {name: value for name, value in record.items() if name not in ("date", "command", "seconds", "hardware")}


@pytest.mark.parametrize("columns", ["60", "120"])
def test_one_command_writes_the_files_and_shows_the_table(columns, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    code, out, err = run(capsys, "--model", checkpoint, *SMALL, "--output-dir", tmp_path)
    assert (code, err.strip()) == (0, "")
    files = ["heatmap.png", "pages.jsonl", "sweep.html", "sweep.json", "sweep.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    tables = out.split("in %;")[0]
    assert "K = 12" in tables and "K = 24" in tables and max(map(len, tables.splitlines())) <= max(int(columns), 80)
    for name in named_settings():
        assert tables.count(f"\n {name} ") == (0 if name.startswith("alpha") else 2)
    assert "\u2026" not in out and str(tmp_path / "sweep.html") in out and str(tmp_path / "heatmap.png") in out


def test_resume_where_there_is_nothing_says_so(checkpoint, tmp_path, capsys):
    code, _, err = run(capsys, "--model", checkpoint, *SMALL, "--output-dir", tmp_path, "--resume")
    assert code == 0 and "there is nothing to resume; starting with the first page" in err


def test_refused_sweep_leaves_no_folder(checkpoint, tmp_path, capsys):
    code, _, _ = run(capsys, "--model", checkpoint, *SMALL, "--token-budgets", 500, "--output-dir", tmp_path / "new")
    assert code == 2 and not (tmp_path / "new").exists()


def test_stopped_by_ctrl_c_and_resumed(checkpoint, tmp_path, capsys, monkeypatch):
    arguments = ("--model", checkpoint, *SMALL, "--output-dir")
    run(capsys, *arguments, tmp_path / "whole")
    from shirg.evaluation.sweep import Sweep

    measure = Sweep.measure_page

    def stopped(self, number, *left_out):
        if number == 1:
            raise KeyboardInterrupt
        return measure(self, number, *left_out)

    with monkeypatch.context() as patched:
        patched.setattr(Sweep, "measure_page", stopped)
        code, _, err = run(capsys, *arguments, tmp_path / "parts")
    assert code == 130 and "1 of 2 pages are measured; --resume goes on from there" in err
    code, _, err = run(capsys, *arguments, tmp_path / "parts", "--resume")
    assert code == 0 and "1 pages are measured already" in err
    assert untimed(tmp_path / "parts") == untimed(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--pages", 0], "--pages: got 0, must be a whole number from 1"),
        (["--questions", 0], "questions: got 0"),
        (["--token-budgets", 3000], "--token-budgets: got 3000, must be at most 2304"),
        (["--token-budgets", 64, 64], "--token-budgets: "),
        (["--token-budgets"], "--token-budgets: "),
        (["--image-resolution", 100], "multiple of 14"),
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
        (["--pages", "many"], "--pages"),
        (["--relevance", "siglip"], "--text-tower"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_help_explains_every_flag(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = run(capsys, "--help")
    text = " ".join(out.replace("\u2502", " ").split())
    assert code == 0
    for field in dataclasses.fields(sweep.Flags):
        assert field.name.replace("_", "-") in text
    assert all(documented(sweep.Flags, field) for field in vars(sweep.Flags)["__annotations__"])
    for word in (
        "no coverage",
        "similarity only",
        "held out from training",
        "--resume goes on",
        "--no-early-stop",
        "(default: 256 768)",
    ):
        assert word in text
