"""Work over many images: worker processes whose results keep the order of the tasks, and a progress bar."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

LOG_SECONDS = 60.0
"""How often progress is logged where stderr is no terminal."""


def ordered_map(function: Callable[[Task], Result], tasks: Iterable[Task], num_workers: int | None) -> Iterator[Result]:
    """`function` of every task, in order. Workers are at most a few tasks ahead.

    Args:
        function: picklable; the same task must give the same result.
        tasks: read as the work proceeds; may be endless.
        num_workers: processes; 0 uses this process, None up to two.
    """
    import torch
    from torch.utils.data import DataLoader

    num_workers = min(2, os.cpu_count() or 1) if num_workers is None else num_workers
    work: Any = _Work(function)  # not a torch Dataset, so that this module loads without torch
    # A loader's workers end when this process is killed, which those of concurrent.futures do not.
    loader: DataLoader[Result] = DataLoader(
        work,
        batch_size=None,
        sampler=tasks,
        num_workers=num_workers,
        collate_fn=_same,
        generator=torch.Generator(),  # without it the loader draws from the global generator
    )
    return iter(loader)


class _Work:
    def __init__(self, function: Callable[[Any], Any]):
        self.function = function

    def __getitem__(self, task: Any) -> Any:
        return self.function(task)


def _same(value: Any) -> Any:
    return value


@contextlib.contextmanager
def progress_bar(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yields a function that advances a bar on stderr; where stderr is no terminal, progress is logged."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console, logged = Console(stderr=True), time.monotonic()
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    shown = console.is_terminal
    with Progress(*columns, console=console, disable=not shown, get_time=time.monotonic) as bar:
        bar.add_task(what, total=total, completed=done, rate="")
        task = bar.tasks[0]

        def advance(count: int) -> None:
            nonlocal logged
            speed = task.speed
            bar.update(task.id, advance=count, rate="" if speed is None else f"{speed:.1f}/s")
            now = time.monotonic()
            if not shown and now - logged >= LOG_SECONDS:
                logged, speed = now, (task.completed - done) / max(task.elapsed or 0.0, 1e-9)
                minutes = (total - task.completed) / speed / 60
                logger.info("%s: %d of %d, %.1f/s, %.0f minutes left", what, task.completed, total, speed, minutes)

        yield advance
