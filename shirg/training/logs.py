"""Logs of a run: `logs/training.log`, a progress bar, TensorBoard, wandb and trackio.

`logs/metrics.jsonl` has every optimizer step and `logs/validation.jsonl` every validation, whatever else is on.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from shirg.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

TRACKERS = ("tensorboard", "wandb", "trackio")
"""Names of accelerate's trackers, and of the packages they need."""

PROJECT = "shirg"

SPEED_PERIOD = 600.0
"""Seconds over which the speed is averaged for the time left; it should span many steps, since components differ in length."""


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Send what `shirg` logs, from INFO on, to `path` as well (appended) while the block runs."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("shirg")
    level = package.level
    package.addHandler(handler)
    package.setLevel(min(package.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()


def progress_bar(*, shown: bool) -> Progress:
    """A bar on standard error for tasks with a field `line`; it shows nothing when `shown` is False."""
    columns = (
        BarColumn(bar_width=20),  # the only column that shrinks on a narrow terminal
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[line]}"),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not shown, speed_estimate_period=SPEED_PERIOD)


def step_text(entry: Mapping[str, Any]) -> str:
    """An optimizer step in 60 characters, from its line of `metrics.jsonl`."""
    loss = "-" if entry["loss"] is None else f"{entry['loss']:.4f}"
    speed = entry["tokens"] / max(entry["seconds"], 1e-9)
    return f"loss {loss} budget {entry['budget']} lr {entry['lr']:.1e} {speed:,.0f} tok/s {size_text(entry['memory'])}"


def size_text(size: int) -> str:
    """Bytes: 640 MB, 12.3 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def time_text(seconds: float) -> str:
    """A duration: 45 s, 12 min, 3.6 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def check_trackers(names: Sequence[str]) -> None:
    """Raise `UserError` unless every name is one of `TRACKERS` and its package is installed."""
    if not names:
        return
    from accelerate.tracking import get_available_trackers

    installed = [str(tracker) for tracker in get_available_trackers()]
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"trackers: {name!r} is unknown; choose from {', '.join(TRACKERS)}")
        if name not in installed:
            raise UserError(f"trackers: {name} is not installed; `pip install {name}`, or leave it out")


@contextlib.contextmanager
def tracking(accelerator: Accelerator, settings: Mapping[str, Any], *, step: int) -> Iterator[None]:
    """Let `accelerator.log` reach the trackers that it was made with while the block runs.

    A resumed run is a run of its own for wandb and trackio, on the same axis of steps; TensorBoard continues the same one.

    Args:
        settings: of the run, for the trackers' tables; JSON values.
        step: optimizer steps done; later steps that an earlier session logged are dropped from TensorBoard.
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
        for tracker in accelerator.trackers:  # not end_training(), which would shut down the process group too
            tracker.finish()


def step_values(entry: Mapping[str, Any]) -> dict[str, float]:
    """What trackers get of an optimizer step, from its line of `metrics.jsonl`; numbers that are None are left out."""
    found = {f"train/{name}": entry[name] for name in ("loss", "lr", "grad_norm", "memory")}
    found[f"loss_by_ratio/{entry['component']}"] = entry["loss"]
    found["train/tokens_per_second"] = entry["tokens"] / entry["seconds"] if entry["seconds"] else None
    return {name: value for name, value in found.items() if value is not None}


def validation_values(entry: Mapping[str, Any]) -> dict[str, float]:
    """The same of a validation, from its line of `validation.jsonl`."""
    found = {f"validation/{name}": loss for name, loss in {**entry["losses"], "mean": entry["mean"]}.items()}
    for part in ("answers", "padding"):
        found |= {f"validation_{part}/{name}": loss for name, loss in entry[part].items()}
    found["validation/relative"] = entry.get("relative")
    return {name: value for name, value in found.items() if value is not None}


def log_folder(folder: Path) -> Path:
    """Where TensorBoard finds a run that writes to `folder`."""
    return folder / "logs" / "tensorboard"
