"""What the README tells people to type is understood, and its Python runs and prints what it says."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
import tyro

import shirg
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


def table_rows(first_column: str) -> dict[str, list[str]]:
    """Cells of the README's table of that first heading, by their row's first cell."""
    lines = README[README.index(f"| {first_column} |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def record(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def test_the_table_of_small_print_is_the_stored_run():
    run = record("nano_small_print.json")
    scores = {(entry["dataset"], entry["variant"], entry["metric"]): entry for entry in run["scores"]}
    costs = {row["variant"]: row for row in run["efficiency"]["rows"]}
    columns = [(dataset, metric) for dataset in ("documents", "charts") for metric in ("exact_match", "anls")]
    for variant, cells in table_rows("vision path").items():
        measured = [scores[dataset, variant, metric] for dataset, metric in columns]
        shown = [f"{100 * one['score']:.1f}% [{100 * one['low']:.1f}, {100 * one['high']:.1f}]" for one in measured]
        cost = costs[variant.removesuffix("+adapter")]
        selection = "-" if cost["selection_ms"] is None else f"{cost['selection_ms']:.1f}"
        assert cells == [
            str(cost["tokens"]), *shown, selection, f"{cost['prefill_ms']:.0f}", f"{cost['kv_bytes'] / 1e6:.2f}"
        ]  # fmt: skip


def test_the_table_of_kept_words_is_the_stored_run():
    names = {
        'SHIRG, `GateConfig.preset("ocr")`': "shirg (ocr)",
        "SHIRG, default": "shirg (default)",
        "DivPrune": "divprune",
        "CDPruner": "cdpruner",
        "VisPruner-like": "vispruner",
    }
    results = {(one["set"], one["variant"], one["budget"]): one for one in record("gate_recall.json")["results"]}
    rows = table_rows("rule")
    assert rows.keys() == names.keys()
    for name, cells in rows.items():
        recalls = [results["all", names[name], budget]["recall"]["mean"] for budget in (256, 512, 768, 1024)]
        assert cells == [f"{100 * recall:.1f}" for recall in recalls]
