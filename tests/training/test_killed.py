"""A run that is killed again and again always goes on, and ends as if nothing had happened.

The suite kills a few times; many more from the command line:

    PYTHONPATH=. python tests/training/test_killed.py 20
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from shirg.lavida import adapter
from shirg.training import checkpoints
from tests.tiny import tiny_model
from tests.training.helpers import RESOLUTION, fake_records, loader, losses_of, small_trainer, validations_of

SETTINGS = {"num_epochs": 3, "save_steps": 1, "save_total_limit": 2, "validation_steps": 1, "lora_dropout": 0.1}


def run(folder: Path):
    """Train to the end, going on from what is there."""
    trainer = small_trainer(folder, resume=True, **SETTINGS)
    trainer.train(loader(fake_records(4)), loader(fake_records(2), shuffle=False))
    return trainer


def killed_run(folder: Path, seconds: float) -> bool:
    """Train in a process of its own and kill it after so long; whether it was killed before it ended."""
    child = multiprocessing.get_context("fork").Process(target=run, args=(folder,))  # fork: no second import of torch
    child.start()
    child.join(seconds)
    child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def check_complete(folder: Path) -> None:
    """Every checkpoint that can be seen is complete, and `best_model` loads if it is there."""
    found = checkpoints.all_checkpoints(folder)
    files = (*adapter.ADAPTER_FILES, checkpoints.OPTIMIZER_FILE, checkpoints.STATE_FILE, "README.md")
    assert all((path / name).is_file() for path in found for name in files)
    for path in (*found, folder / checkpoints.BEST):
        if path.exists():
            tiny_model(shirg={"resolution": RESOLUTION}).load_adapter(path)


def survive(folder: Path, kills: int, seed: int) -> int:
    """Kill runs at random moments until `kills` did not reach their end, then let one; how many runs it took."""
    threads, moments, runs, done = torch.get_num_threads(), random.Random(seed), 0, 0
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    whole = folder / "whole"
    began = time.perf_counter()
    expected = run(whole)
    duration = time.perf_counter() - began
    attempt = folder / "0"
    while done < kills:
        runs += 1
        if killed_run(attempt, moments.uniform(0, duration)):
            done += 1
            check_complete(attempt / "checkpoints")
        else:
            attempt = folder / str(runs)  # it was done: begin another
    trainer = run(attempt)
    torch.set_num_threads(threads)
    assert losses_of(trainer) == losses_of(expected)
    assert validations_of(trainer) == validations_of(expected)
    check_complete(trainer.checkpoints)
    weights = [(one.checkpoints / checkpoints.BEST / adapter.WEIGHTS_FILE).read_bytes() for one in (trainer, expected)]
    assert weights[0] == weights[1]
    assert not list(trainer.checkpoints.glob(".*"))
    return runs


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    survive(tmp_path, kills=3, seed=0)


if __name__ == "__main__":
    kills = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        print(f"{kills} kills in {survive(Path(scratch), kills, seed=1)} runs: always resumed, bit-equal at the end")
