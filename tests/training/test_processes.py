"""The number of processes that was asked for, from every launcher's way to tell it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from shirg.errors import UserError
from shirg.training import processes
from shirg.training.processes import check_processes, wanted_processes

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize(
    ("environment", "parent", "wanted"),
    [
        ({}, [], (1, "")),
        ({"WORLD_SIZE": "2"}, [], (2, "torchrun")),
        ({"SLURM_STEP_NUM_TASKS": "16"}, ["slurmstepd"], (16, "srun")),
        ({"SLURM_STEP_NUM_TASKS": "1", "WORLD_SIZE": "8"}, [], (8, "torchrun")),
        (
            {},
            ["python", "/bin/accelerate", "launch", "--cpu", "--num_processes", "2", "a.py"],
            (2, "accelerate launch"),
        ),
        ({}, ["accelerate", "launch", "--num-processes=4", "a.py"], (4, "accelerate launch")),
        ({}, ["my-tool", "--num_processes", "9"], (1, "")),
    ],
)
def test_what_a_launcher_was_asked_for(environment, parent, wanted):
    assert wanted_processes(environment, parent) == wanted


def accelerator(number: int, kind: str = "NO") -> SimpleNamespace:
    return SimpleNamespace(num_processes=number, distributed_type=SimpleNamespace(value=kind))


def test_processes_that_would_train_alone_are_stopped(monkeypatch):
    monkeypatch.setattr(processes, "parent_command", lambda: ["accelerate", "launch", "--num_processes", "2"])
    with pytest.raises(UserError, match="accelerate launch was asked for 2, but this run has 1; use `torchrun"):
        check_processes(accelerator(1))
    check_processes(accelerator(2, "MULTI_CPU"))
    with pytest.raises(UserError, match="FSDP shards the trained weights.*shard_body"):
        check_processes(accelerator(2, "FSDP"))


def test_the_slurm_example_is_a_script_with_the_code_to_requeue_on():
    script = CONFIGS / "slurm" / "train.sbatch"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert "-eq 75 ]" in script.read_text() and "--signal=TERM@" in script.read_text()
