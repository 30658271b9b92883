"""The examples run, on a model with random weights where they load one."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

import shirg
from shirg import Lavida
from tests.tiny import tiny_model

EXAMPLES = Path(shirg.__file__).resolve().parents[1] / "examples"


def test_select_tokens(capsys):
    runpy.run_path(str(EXAMPLES / "select_tokens.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert [line.split(", ", 1)[0] for line in said] == [
        f"budget {budget}: tokens (1" for budget in (256, 512, 768, 1024)
    ]
    assert all(
        f"tokens (1, {budget + 1}, 1152)" in line for budget, line in zip((256, 512, 768, 1024), said, strict=True)
    )


def test_contact_sheet(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["contact_sheet.py", "--output", str(tmp_path / "pages.png")])
    runpy.run_path(str(EXAMPLES / "contact_sheet.py"), run_name="__main__")
    assert "16 pages, 1640 x 1640 pixels" in capsys.readouterr().out
    with Image.open(tmp_path / "pages.png") as sheet:
        assert sheet.size == (1640, 1640) and (tmp_path / "pages.png").stat().st_size < 700_000


def test_prepare_train_evaluate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Lavida, "from_pretrained", lambda name: tiny_model())
    runpy.run_path(str(EXAMPLES / "prepare_train_evaluate.py"), run_name="__main__")
    report = capsys.readouterr().out.splitlines()[-1].removeprefix("report: ")
    assert (tmp_path / report).read_text(encoding="utf-8").startswith("#")


def test_official_loss(monkeypatch, capsys):
    monkeypatch.setattr(Lavida, "from_pretrained", lambda name: tiny_model())
    runpy.run_path(str(EXAMPLES / "official_loss.py"), run_name="__main__")
    before, after = re.fullmatch(r"loss: (\S+) before, (\S+) after 5 steps\n", capsys.readouterr().out).groups()
    assert float(after) < float(before)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_what_an_example_imports_of_ours_exists(example):
    """Also for the one that needs the official code base and cannot run here."""
    for node in ast.walk(ast.parse(example.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("shirg"):
            module = __import__(node.module, fromlist=["_"])
            assert all(hasattr(module, alias.name) for alias in node.names)
