"""The second drawing of pages: what is asked stands there, in the size that is said, and the table is of every path."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import shirg
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def plain():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(shirg.__file__).resolve().parents[1] / "benchmarks"))
        import plain_pages

        yield plain_pages


@pytest.mark.parametrize("size", [8, 20, 40])
def test_lines_are_as_high_as_they_are_said_to_be_and_inside_the_page(plain, size):
    for seed in range(6):
        page = plain.draw_page(seed, size)
        ink = np.asarray(page.image.convert("L")) < 128
        rows, cols = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        assert rows[0] >= plain.MARGIN and rows[-1] < plain.SIDE - 12 and cols[-1] < plain.SIDE - 12
        # A line's ink reaches from capitals or ascenders to the baseline or descenders: 0.7 to 1 em.
        first = rows[0] + np.argmin(np.append(ink.any(1)[rows[0] :], False))
        assert 0.6 * size <= first - rows[0] <= 1.05 * size + 1
        assert 5 <= len(page.lines) <= len(plain.KEYS) and len(dict(page.lines)) == len(page.lines)


def test_what_is_asked_is_on_the_page_and_repeats_by_seed(plain):
    page = plain.draw_page(3, 16)
    questions = plain.asked(page, 3)
    assert len(questions) == 3 and questions == plain.asked(plain.draw_page(3, 16), 3)
    for question, value in questions:
        assert (question.removeprefix("What is the ").rstrip("?"), value) in page.lines


def test_a_table_for_any_model_folder(plain, tmp_path, monkeypatch, capsys):
    tiny_model(shirg={"resolution": 168, "answer_tokens": 16}).save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr(plain, "BANDS", ((8, 13), (34, 40)))
    monkeypatch.setattr(plain, "BUDGET", 24)
    target = tmp_path / "plain.json"
    arguments = ["--model", str(tmp_path / "tiny"), "--pages", "1", "--json", str(target)]
    monkeypatch.setattr("sys.argv", ["plain_pages.py", *arguments])
    plain.main()
    printed = capsys.readouterr().out
    assert "| px | questions | lowres | hd | highres | shirg |" in printed and "| 34-40 | 3 |" in printed
    assert set(json.loads(target.read_text())["8-13"]) == {"questions", *plain.PATHS}
