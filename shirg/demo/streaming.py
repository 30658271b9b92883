"""An iterator over values that a function emits in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Emit = Callable[[Item], None]


class _Closed(BaseException):
    """The iterator is closed. No `Exception`, so that the function does not catch it as an error."""


def stream_from_thread(work: Callable[[Emit[Item]], None]) -> Iterator[Item]:
    """The values that `work` emits, in order.

    `work` runs in its own thread and does not wait for the reader of the iterator. Closing the iterator ends `work` at its next
    emitted value and waits for that.

    Raises:
        Exception: raised by `work`, after the values that it emitted.
    """
    items: queue.SimpleQueue[tuple[bool, Item | BaseException | None]] = queue.SimpleQueue()
    closed = threading.Event()

    def emit(item: Item) -> None:
        if closed.is_set():
            raise _Closed
        items.put((True, item))

    def run() -> None:
        try:
            work(emit)
        except BaseException as error:
            items.put((False, error))
        else:
            items.put((False, None))

    thread = threading.Thread(target=run, name="shirg-answer", daemon=True)
    thread.start()
    try:
        while True:
            is_item, item = items.get()
            if is_item:
                yield item  # type: ignore[misc]  # by the Boolean it is an Item
            elif item is None:
                return
            else:
                raise item  # type: ignore[misc]  # by the Boolean it is an exception
    finally:
        closed.set()
        thread.join()
