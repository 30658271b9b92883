"""A progress bar with rate and time left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(what: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal; gives a function that counts on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=total, completed=done, rate="-")

        def advance(count: int) -> None:
            speed = shown.tasks[0].speed
            shown.update(task, advance=count, rate="-" if speed is None else f"{speed:.1f}")

        yield advance
