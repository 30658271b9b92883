"""One image through `Lavida.answer` and one record through an optimizer step enter every module once.

Both are run with the nano while Python reports every call. A call is one from the nearest function of this package on the
stack (torch, transformers and peft in between do not count), if it leads into another module. Then:

* straight: the module at the top (`lavida.model`, `training.trainer`) calls the others one after the other, and none again after
  the next one was called. Calls repeated by a loop count once. The order is written out below.
* down: no module calls one above it, directly or through others, in which case there would be a circle.
* leaves: the modules in `LEAVES` are called from everywhere, for a value, an id, a check or a file. They call leaves only.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from shirg.lavida import Lavida
from shirg.training import SHIRGLoRATrainer
from shirg.training.trainer import Session
from tests.test_layers import reached
from tests.tiny import tiny_page
from tests.training.helpers import Records, fake_records, loader, small_config

PACKAGE = str(Path(sys.modules["shirg"].__file__).parent)
LEAVES = {
    "seeds": "random generators by seed and purpose",
    "ranges": "the valid values of a setting",
    "files": "atomic writes",
    "lavida.config": "sizes and special ids of the checkpoint, a value",
    "lavida.settings": "the vision settings, a value",
    "lavida.vision": "the table of vision paths, and an image's features, a value",
    "lavida.chat": "the tokenizer's template and special ids",
    "training.plan": "the frozen plan of the run, a value",
    "data.sampler": "the order of records in the plan, a value",
    "training.guards": "checks that losses, gradients and memory are in order",
}
"""Module -> what it is called for."""


class Walk:
    """The calls between modules while `function` runs, in order."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.calls: list[tuple[str, int, str]] = []
        """(calling module, line of the call, called module)."""
        sys.setprofile(self._record)
        try:
            self.result = function()
        finally:
            sys.setprofile(None)

    def _record(self, frame: FrameType, event: str, _argument: object) -> None:
        called = module_of(frame)
        if event != "call" or called is None:
            return
        above = frame.f_back
        while above is not None and module_of(above) is None:
            above = above.f_back
        calling = None if above is None else module_of(above)
        if above is not None and calling is not None and calling != called:
            self.calls.append((calling, above.f_lineno, called))

    def from_module(self, top: str) -> list[str]:
        """The modules that `top` calls, in order, without leaves; one that is called after another again is there twice."""
        sites = dict.fromkeys((line, called) for calling, line, called in self.calls if calling == top)
        return [called for called, _ in itertools.groupby(called for _, called in sites if called not in LEAVES)]

    def graph(self) -> dict[str, set[str]]:
        """Every module that calls another one -> those that it calls."""
        found: dict[str, set[str]] = {}
        for calling, _, called in self.calls:
            found.setdefault(calling, set()).add(called)
        return found


def module_of(frame: FrameType) -> str | None:
    """ "lavida.model" for a function in that file; None for code of others, and for the code that dataclasses generate."""
    path = frame.f_code.co_filename
    return None if not path.startswith(PACKAGE) else path[len(PACKAGE) + 1 : -3].replace("/", ".")


def check_down(walk: Walk) -> None:
    graph = walk.graph()
    assert [module for module in graph if module in reached(module, graph)] == []
    assert {module: called for module, called in graph.items() if module in LEAVES and called - LEAVES.keys()} == {}


BEFORE = ["lavida.prompt", "lavida.drafts", "images", "lavida.views", "lavida.tower"]
AFTER = ["lavida.diffusion.decoding", "lavida.prefix", "lavida.diffusion.families", "lavida.text"]


@pytest.fixture(scope="module")
def nano() -> Lavida:
    model = Lavida.from_pretrained("nano")
    model.answer(tiny_page(), "Total?", "lowres", max_new_tokens=1)  # imports what is imported late
    return model


@pytest.mark.parametrize(
    ("mode", "between"),
    [
        ("lowres", []),
        ("hd", ["lavida.pooling"]),
        ("shirg", ["lavida.relevance", "gate.gate"]),
        ("early", ["gate.gate", "lavida.tower"]),  # which embeds before the selection, and encodes after it
    ],
)
def test_an_answer_goes_straight_down(nano: Lavida, mode: str, between: list[str]):
    walk = Walk(lambda: nano.answer(tiny_page(), "Total?", mode, max_new_tokens=1))
    assert isinstance(walk.result, str)
    assert walk.from_module("lavida.model") == [*BEFORE, *between, *AFTER]
    check_down(walk)


def test_an_optimizer_step_goes_straight_down(nano: Lavida, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    walks, optimizer_step = [], Session.optimizer_step
    monkeypatch.setattr(Session, "optimizer_step", lambda *given: walks.append(Walk(lambda: optimizer_step(*given))))
    settings = {"max_answer_tokens": None, "share_prefix": True, "logging_steps": 1}
    trainer = SHIRGLoRATrainer(small_config(tmp_path, **settings), nano)
    trainer.train(loader(Records(fake_records(2, images=2)), batch_size=1))
    nano.unload_adapter()
    assert walks[-1].from_module("training.trainer") == [
        "training.budgets",
        "training.examples",
        "training.loss_model",
        "lavida.adapter",
        "training.logs",
        "training.report",
    ]
    below = {"lavida.model", "lavida.prompt", "training.objective", "lavida.language", "gate.gate"}
    assert below <= {called for _, _, called in walks[-1].calls}
    check_down(walks[-1])


def test_a_return_is_seen(nano: Lavida):
    ids = nano.prompt_ids("Total?")
    walk = Walk(lambda: (nano.prompt_ids("Total?"), nano.answer_text(ids[:1]), nano.question_ids(ids)))
    assert walk.from_module("lavida.model") == ["lavida.prompt", "lavida.text", "lavida.prompt"]
