"""The recipe of LaViDa-nano: its targets by hand, who sees whom, and all stages run for a few seconds."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from shirg.data.pages import Word
from shirg.data.render import render_page
from shirg.lavida import Lavida
from shirg.nano.recipe import __main__ as recipe
from shirg.nano.recipe.reader import Reader, train_reader
from shirg.nano.recipe.score import MEASURES, print_table, summarised
from shirg.nano.recipe.stage import Stage
from shirg.nano.recipe.tower import train_tower


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    return Reader()


def word(text: str, left: float, top: float, step: float) -> Word:
    edges = tuple(left + step * number for number in range(len(text) + 1))
    return Word(text, (left, top, edges[-1], top + 10), edges)


def test_all_stages_run_stop_and_go_on(tmp_path, monkeypatch):
    """A step or a few of every stage, of few pages. The second call finds them finished and trains nothing, a third with more
    hours goes on with the last, and leaves the tower's first stage behind."""
    monkeypatch.setattr(recipe, "train_tower", partial(train_tower, batch=4))
    monkeypatch.setattr(recipe, "train_reader", partial(train_reader, batch=2))

    def run(seconds: float) -> dict[str, int]:
        monkeypatch.setattr("sys.argv", ["recipe", "--work", str(tmp_path), "--hours", str(seconds / 3600)])
        recipe.main()
        return {name: Stage(tmp_path / name, 1.0).steps for name in recipe.SHARES}

    steps = run(1)
    assert all(steps.values())
    assert run(1) == steps
    longer = run((Stage(tmp_path / "together", 1.0).spent + 0.2) / recipe.SHARES["together"])
    assert longer.pop("together") > steps.pop("together") and longer == steps
    model = Lavida.from_pretrained(tmp_path / "nano")
    page = render_page("form", 1, size=384)
    assert isinstance(model.answer(page.image, page.questions[0].question, mode="lowres", max_new_tokens=8), str)


def test_a_single_page_is_scored_without_an_interval(capsys):
    rows = [{"page": "0", **dict.fromkeys(MEASURES, value)} for value in (1.0, 0.0)]
    found = summarised(rows)
    assert found == {"questions": 2, **{label: [0.5, None, None] for label in MEASURES}}
    print_table("pages | shown", {"form": {"right": found}})
    assert capsys.readouterr().out.splitlines()[-1] == "| form | right | 2 | 50.0% | 50.0% |"
