"""Two processes that train the nano together: one gradient, one clock, pages of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from shirg.nano.recipe.muon import Muon
from shirg.nano.recipe.stage import Stage, _from_first, optimizer_step
from shirg.process_group import shut_down_process_group
from tests.forked import TORCHRUN, launched


def test_two_processes_take_one_step_and_see_pages_of_their_own(tmp_path):
    run = launched(TORCHRUN, one_step, tmp_path)
    assert run.code == 0, run.err[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    # Gradients are 0.1 and 0.2 for the first number, 0.3 in one process alone for the second: their means, once down a rate of 1.
    assert first["weights"] == second["weights"] == pytest.approx([-0.15, -0.15])
    assert first["clock"] == second["clock"] == 5.0
    assert first["common"] == second["common"] and first["own"] != second["own"]


def one_step(folder: Path) -> None:
    """A step down a gradient that differs between the processes, and what they agree on."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    both, one = torch.nn.Parameter(torch.zeros(())), torch.nn.Parameter(torch.zeros(()))
    modules = torch.nn.ParameterList([both, one])
    optimizer_step(
        modules,
        [torch.optim.SGD(modules.parameters(), lr=1.0)],
        lambda: 0.1 * (rank + 1) * both + (0.3 * one if rank == 0 else 0.0),
    )
    stage = Stage(folder / "stage", 1.0)
    found = {
        "weights": [both.item(), one.item()],
        "clock": _from_first(5.0 + rank),
        "common": stage.common_seed(1),
        "own": stage.own_seed(1),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    shut_down_process_group()


def test_processes_share_the_work_of_muon_and_take_the_steps_of_one(tmp_path):
    run = launched(TORCHRUN, shared_muon, tmp_path)
    assert run.code == 0, run.err[-3000:]
    alone = muon_steps()
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert all(torch.equal(found[str(number)], matrix) for number, matrix in enumerate(alone))


def muon_steps() -> list[torch.Tensor]:
    """Two steps of matrices of several shapes down gradients that all processes know."""
    draw = torch.Generator().manual_seed(0)
    matrices = [
        torch.nn.Parameter(torch.randn(*shape, generator=draw)) for shape in ((8, 8), (8, 24), (24, 8), (6, 6), (5, 9))
    ]
    muon = Muon(matrices, lr=0.1, weight_decay=0.1, dtype=torch.float32)
    for _ in range(2):
        for matrix in matrices[:-1]:
            matrix.grad = torch.randn(matrix.shape, generator=draw)
        muon.step()
    return [matrix.detach() for matrix in matrices]


def shared_muon(folder: Path) -> None:
    """`muon_steps` in processes that share the work."""
    dist.init_process_group("gloo")
    steps = muon_steps()
    save_file({str(number): matrix for number, matrix in enumerate(steps)}, folder / f"{dist.get_rank()}.safetensors")
    shut_down_process_group()
