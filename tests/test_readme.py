"""What the README tells people to type is understood, and its Python runs and prints what it says."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest
import tyro

import shirg
from scripts import tables
from shirg.cli import COMMANDS

ROOT = Path(shirg.__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
SHELL = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
FACES = {
    "shirg/run_shirg_lora_training.py": "run",
    "shirg/shirg_dataset_preparation.py": "prepare",
    "shirg/shirg_lora_training.py": "train",
    "shirg/shirg_evaluation.py": "evaluate",
    "shirg/test_shirg_lora.py": "components",
}


@pytest.mark.parametrize("line", SHELL)
def test_command_is_understood(line):
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        return
    program, arguments = words[1], words[2:]
    if words[0] == "python":
        assert (ROOT / program).is_file()
    else:
        assert words[0] == "shirg" and program in COMMANDS
    module = importlib.import_module(f"shirg.cli.{FACES.get(program, program)}")
    assert tyro.cli(module.Flags, args=arguments)


def test_the_two_commands_stand_on_the_first_screen():
    first = README.splitlines()[:25]
    assert any(line.startswith("make demo") for line in first) and any(line.startswith("make test") for line in first)


@pytest.mark.parametrize("code", PYTHON, ids=["answer", "gate"])
def test_python_prints_what_it_says(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = re.findall(r"^# (.*)$", code, flags=re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().splitlines() == said


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_link_leads_somewhere(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: table.results)
def test_tables_are_the_stored_results(table):
    text = (ROOT / table.file).read_text(encoding="utf-8")
    assert table.made(text) == text, "run python scripts/tables.py"


def test_a_table_is_made_anew_and_nothing_else_is_touched():
    before = "# T\n\n| rule | 256 |\n| --- | --- |\n| old | 1 |\n\nafter | it\n"
    table = tables.Table(
        "T.md", "rule", "gate_cpu.json", lambda run: iter([["new", str(run["threads"])], ["more", "3"]])
    )
    assert table.made(before) == "# T\n\n| rule | 256 |\n| --- | --- |\n| new | 2 |\n| more | 3 |\n\nafter | it\n"
    with pytest.raises(ValueError, match="T.md: 0 tables begin with 'rule'"):
        table.made("nothing")
