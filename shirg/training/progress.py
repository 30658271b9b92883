"""The bar that shows a run on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

SPEED_PERIOD = 600.0
"""Seconds of the past from which the time left follows; ratios differ in length, so it should hold many steps."""


class Progress:
    """Steps done and to do, loss, rate, ratio, speed, memory in use and time left, on standard error.

    Shows nothing when `shown` is False.
    """

    def __init__(self, total_steps: int, done: int, *, shown: bool):
        columns = [
            BarColumn(bar_width=20),  # the one column that gives way on a narrow terminal
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
        ]
        self.bar = RichProgress(
            *columns, console=Console(stderr=True), disable=not shown, speed_estimate_period=SPEED_PERIOD
        )
        self.task = self.bar.add_task("training", total=total_steps, completed=done, line="")

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.bar.stop()

    @contextlib.contextmanager
    def validating(self, batches: int) -> Iterator[Callable[[], None]]:
        """A second bar while records are validated; yields a function that advances it."""
        task = self.bar.add_task("validating", total=batches, line="validating")
        try:
            yield lambda: self.bar.advance(task)
        finally:
            self.bar.remove_task(task)

    def step(self, entry: dict[str, Any]) -> None:
        """Show one optimizer step, given as its line of `metrics.jsonl`."""
        loss = "-" if entry["loss"] is None else f"{entry['loss']:.4f}"
        speed = entry["tokens"] / max(entry["seconds"], 1e-9)
        line = (
            f"loss {loss} lr {entry['lr']:.1e} ratio {entry['budget']} {speed:,.0f} tok/s {in_units(entry['memory'])}"
        )
        self.bar.update(self.task, completed=entry["step"], line=line)


def in_units(size: int) -> str:
    """Bytes as people read them: 640 MB, 12.3 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def in_words(seconds: float) -> str:
    """A duration: 45 s, 12 min, 3.6 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
