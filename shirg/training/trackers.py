"""TensorBoard, wandb and trackio, through accelerate; `logs/metrics.jsonl` is written whether they are there or not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shirg.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

TRACKERS = ("tensorboard", "wandb", "trackio")
"""Names of accelerate's trackers, and of the packages they need."""

PROJECT = "shirg"


def check_trackers(names: Sequence[str]) -> None:
    """Raise `UserError` unless every name is one of `TRACKERS` and its package is installed."""
    from accelerate.tracking import get_available_trackers

    installed = [str(tracker) for tracker in get_available_trackers()] if names else []
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"trackers: {name!r} is unknown; choose from {', '.join(TRACKERS)}")
        if name not in installed:
            raise UserError(f"trackers: {name} is not installed; `pip install {name}`, or go without it")


@contextlib.contextmanager
def tracking(accelerator: Accelerator, settings: dict[str, Any], *, step: int) -> Iterator[None]:
    """Let `accelerator.log` reach the trackers that it was made with while the block runs.

    A resumed run is a run of its own for wandb and trackio, on the same axis of steps; TensorBoard goes on in the same one.

    Args:
        accelerator: of `make_accelerator`.
        settings: of the run, for the trackers' tables; JSON values.
        step: optimizer steps done; what an earlier part of the run logged behind them is dropped from TensorBoard.
    """
    if accelerator.log_with:
        flat = {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in settings.items()
        }
        accelerator.init_trackers(PROJECT, config=flat, init_kwargs={"tensorboard": {"purge_step": step + 1}})
    try:
        yield
    finally:
        for tracker in accelerator.trackers:  # not end_training(), which would take the process group down too
            tracker.finish()


def step_values(entry: dict[str, Any]) -> dict[str, float]:
    """What trackers get of an optimizer step, from its line of `metrics.jsonl`; numbers that are None are left out."""
    found = {f"train/{name}": entry[name] for name in ("loss", "lr", "grad_norm", "memory")}
    found[f"loss_by_ratio/{entry['budget']}"] = entry["loss"]
    found["train/tokens_per_second"] = entry["tokens"] / entry["seconds"] if entry["seconds"] else None
    return {name: value for name, value in found.items() if value is not None}


def validation_values(entry: dict[str, Any]) -> dict[str, float]:
    """The same of a validation, from its line of `validation.jsonl`."""
    return {f"validation/{name}": loss for name, loss in {**entry["losses"], "mean": entry["mean"]}.items()}


def log_folder(folder: Path) -> Path:
    """Where TensorBoard finds a run that writes to `folder`."""
    return folder / "logs" / "tensorboard"
