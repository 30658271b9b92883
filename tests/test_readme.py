"""What README and docs tell people to type is understood, and the README's Python runs and prints what it says."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re

import pytest

from scripts import tables
from scripts.documented import PAGES, ROOT, Block, blocks, commands, words
from shirg.cli import COMMANDS, runner

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = [block.text for block in blocks("README.md") if block.kind == "python"]
FACES = {
    "shirg/run_shirg_lora_training.py": "run",
    "shirg/shirg_dataset_preparation.py": "prepare",
    "shirg/shirg_lora_training.py": "train",
    "shirg/shirg_evaluation.py": "evaluate",
    "shirg/test_shirg_lora.py": "components",
}
OURS = ("shirg", "python", "make", "sh", "sbatch", "torchrun")
OTHERS = ("hf", "unzip", "pip", ".", "cd", "tensorboard", "curl")
"""Programs that are not ours to test."""
MODULES = ("lmms_eval",)
"""Of other packages, run by `python -m`."""


def check(words: list[str]) -> None:
    """Fail unless the command exists and its own parser takes its flags; nothing is run."""
    program, arguments = words[0], words[1:]
    if program == "shirg":
        assert arguments[0] in COMMANDS
        parse(arguments[0], arguments[1:])
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    elif program == "torchrun":  # --nproc_per_node N, and then what python would get
        check(["python", *arguments[2:]])
    elif program == "python" and arguments[0] == "-m":
        check_module(arguments[1], arguments[2:])
    else:
        assert (ROOT / arguments[0]).is_file()
        if arguments[0] in FACES:
            parse(FACES[arguments[0]], arguments[1:])


def check_module(name: str, arguments: list[str]) -> None:
    if name == "shirg":
        check(["shirg", *arguments])
    elif name not in MODULES:
        assert importlib.util.find_spec(name)


def parse(command: str, arguments: list[str]) -> None:
    flags = runner.parse(importlib.import_module(f"shirg.cli.{command}").Flags, arguments, f"shirg {command}")
    assert flags is not None


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PAGES for line in commands(page)])
def test_command_is_understood(page, line):
    found = words(line)
    assert found[0] in OURS + OTHERS
    if found[0] in OURS:
        check(found)


def test_a_renamed_flag_or_file_is_found_out():
    for line in ("shirg select page.png --bugdet 512", "shirg chose", "make tea", "python examples/tea.py"):
        with pytest.raises((SystemExit, AssertionError)):
            check(words(line))


def test_what_a_command_is():
    block = Block("bash", "# a remark\nshirg select \\\n    page.png   # draws\n")
    assert block.commands == ["shirg select page.png"]
    assert Block("console", "$ shirg describe nano\nshirg says\n").commands == ["shirg describe nano"]
    assert words("shirg prepare ... --shard-index $TASK --output-dir ...") == [
        *("shirg", "prepare", "--shard-index", "0", "--output-dir", "...")
    ]


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


LINKS = [
    (page, target)
    for page in (*PAGES, "CONTRIBUTING.md")
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_link_leads_somewhere(page, target):
    assert ((ROOT / page).parent / target).exists()


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: f"{table.file}, {table.results}")
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


def test_what_was_printed_stands_behind_its_commands(tmp_path, monkeypatch):
    (tmp_path / "printed.json").write_text('{"printed": {"shirg a\\n": "one\\ntwo  \\n"}}')
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    printed = tables.Printed("T.md", "printed.json")
    page = "```bash\nshirg a\n```\n\n```text\nold\n```\n\n```bash\nshirg b\n```\n"
    assert printed.made(page) == page.replace("old", "one\ntwo")
    with pytest.raises(ValueError, match="has not run"):
        printed.made(page.replace("shirg a", "shirg c"))
