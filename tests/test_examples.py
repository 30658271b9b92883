"""The examples run: on the nano where its answer is shown, else on a model with random weights where they load one."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import shirg
from shirg import GateConfig, Lavida, ShirgGate
from shirg.gate import SELECTORS
from tests.tiny import tiny_model

EXAMPLES = Path(shirg.__file__).resolve().parents[1] / "examples"


def run(name: str) -> None:
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_select_tokens(capsys):
    run("select_tokens.py")
    said = capsys.readouterr().out.splitlines()
    assert [line.split(", ", 1)[0] for line in said] == [
        f"budget {budget}: tokens (1" for budget in (256, 512, 768, 1024)
    ]
    assert all(
        f"tokens (1, {budget + 1}, 1152)" in line for budget, line in zip((256, 512, 768, 1024), said, strict=True)
    )


def test_contact_sheet(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["contact_sheet.py", "--output", str(tmp_path / "pages.png")])
    run("contact_sheet.py")
    assert "16 pages, 1640 x 1640 pixels" in capsys.readouterr().out
    with Image.open(tmp_path / "pages.png") as sheet:
        assert sheet.size == (1640, 1640) and (tmp_path / "pages.png").stat().st_size < 700_000


def test_answer_reads_the_page(capsys):
    run("answer.py")
    question, *answers = capsys.readouterr().out.splitlines()
    assert question == "What is the share of Cows?" and len(answers) == 4
    assert answers[-1] == "shirg, 768 of 2304 tokens: 51.8%"


def test_train_then_evaluate(tmp_path, monkeypatch, capsys):
    """On a page of 784 tokens, which the examples' budgets of 512 and 768 still choose from."""
    monkeypatch.chdir(tmp_path)
    small = {"resolution": 392, "answer_tokens": 4}
    monkeypatch.setattr(Lavida, "from_pretrained", lambda name: tiny_model(shirg=small))
    run("train.py")
    adapter = tmp_path / capsys.readouterr().out.splitlines()[-1].removeprefix("adapter: ")
    assert (adapter / "adapter_model.safetensors").is_file()
    run("evaluate.py")
    *scores, report = capsys.readouterr().out.splitlines()
    assert any(line.startswith("shirg-768+adapter, ") for line in scores)
    assert (tmp_path / report.removeprefix("report: ")).read_text(encoding="utf-8").startswith("#")


def test_own_selector(capsys):
    try:
        run("own_selector.py")
        shown = capsys.readouterr().out.splitlines()
        assert shown[1] == "ink: 51.8%" and [line.split(":")[0] for line in shown] == ["shirg", "ink", "random"]
        pixels = torch.ones(1, 3, 56, 56)
        pixels[:, :, 14:28, 28:42] = -1  # the third patch of the second row is black
        gate = ShirgGate(GateConfig(selector="ink"))
        kept = gate(torch.randn(1, 16, 8), budget=1, grid=(4, 4), pixels=pixels)
        assert kept.indices.tolist() == [[6]]
    finally:
        SELECTORS.pop("ink", None)


def test_own_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("own_data.py")
    assert re.fullmatch(r"\d records; rooms: Which room is it\? \d\n", capsys.readouterr().out)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(example):
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 40


def test_official_loss(monkeypatch, capsys):
    monkeypatch.setattr(Lavida, "from_pretrained", lambda name: tiny_model())
    run("official_loss.py")
    before, after = re.fullmatch(r"loss: (\S+) before, (\S+) after 5 steps\n", capsys.readouterr().out).groups()
    assert float(after) < float(before)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_what_an_example_imports_of_ours_exists(example):
    """Also for the one that needs the official code base and cannot run here."""
    for node in ast.walk(ast.parse(example.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("shirg"):
            module = __import__(node.module, fromlist=["_"])
            assert all(hasattr(module, alias.name) for alias in node.names)
