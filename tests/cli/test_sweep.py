"""`shirg sweep` by its flags: help, the tables on the screen, the files, mistakes in one line."""

from __future__ import annotations

import dataclasses

import pytest

from shirg import cli
from shirg.cli import sweep
from shirg.evaluation.sweep import ablations
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


def test_one_command_writes_the_files_and_shows_the_tables(checkpoint, tmp_path, capsys):
    code, out, err = run(capsys, "--model", checkpoint, *SMALL, "--output-dir", tmp_path)
    assert (code, err.strip()) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pages.jsonl", "sweep.json", "sweep.md", "sweep.png"]
    assert "K = 12" in out and "K = 24" in out and "\u2026" not in out and str(tmp_path / "sweep.md") in out
    for name in ablations():
        assert out.count(f"\n {name} ") == 2
    code, again, err = run(capsys, "--model", checkpoint, *SMALL, "--output-dir", tmp_path, "--resume")
    assert code == 0 and again == out and "2 pages are measured already" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--pages", 0], "--pages: got 0, must be a whole number from 1"),
        (["--token-budgets", 3000], "--token-budgets: got 3000, must be at most 2304"),
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
    for word in ("no coverage", "similarity only", "held-out split", "(default: 256 512)"):
        assert word in text
