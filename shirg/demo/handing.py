"""From a function that calls back to an iterator: what it hands over can be looked at while it goes on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Hand = Callable[[Item], None]


class _Closed(BaseException):
    """Nobody looks any more. No `Exception`, so that nothing on its way takes it for a failure."""


def handed_over(work: Callable[[Hand[Item]], None]) -> Iterator[Item]:
    """What `work` hands over, in order, as soon as it does.

    It runs in a thread of its own, and does not wait for whoever looks. Closing the iterator ends it at its next hand-over,
    and waits for that.

    Raises:
        Exception: whatever `work` raises, after what it handed over before.
    """
    items: queue.SimpleQueue[tuple[bool, Item | BaseException | None]] = queue.SimpleQueue()
    closed = threading.Event()

    def hand(item: Item) -> None:
        if closed.is_set():
            raise _Closed
        items.put((True, item))

    def run() -> None:
        try:
            work(hand)
        except BaseException as error:
            items.put((False, error))
        else:
            items.put((False, None))

    thread = threading.Thread(target=run, name="shirg-answer", daemon=True)
    thread.start()
    try:
        while True:
            goes_on, item = items.get()
            if goes_on:
                yield item  # type: ignore[misc]  # what goes on is an Item
            elif item is None:
                return
            else:
                raise item  # type: ignore[misc]  # what ends is an exception
    finally:
        closed.set()
        thread.join()
