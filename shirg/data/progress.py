"""Progress with rate and time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

LOG_SECONDS = 60.0
"""How often a run that nobody watches says where it is."""


@contextlib.contextmanager
def bar(what: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that counts on; what it counts to is seen on stderr, or logged where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _LogLines(what, total, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as shown:
        task = shown.add_task(what, total=total, completed=done, rate="-")

        def advance(count: int) -> None:
            speed = shown.tasks[0].speed
            shown.update(task, advance=count, rate="-" if speed is None else f"{speed:.1f}")

        yield advance


class _LogLines:
    """Says every `LOG_SECONDS` how far it is, how fast and how long it will take."""

    def __init__(self, what: str, total: int, done: int):
        self.what, self.total, self.done, self.before = what, total, done, done
        self.began = self.said = time.monotonic()

    def __call__(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.said < LOG_SECONDS:
            return
        self.said = now
        rate = (self.done - self.before) / (now - self.began)
        minutes = (self.total - self.done) / rate / 60
        logger.info("%s: %d of %d, %.1f/s, %.0f minutes left", self.what, self.done, self.total, rate, minutes)
