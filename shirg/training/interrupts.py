"""Ctrl-C that waits for a good moment."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class StopRequest:
    """Whether Ctrl-C was pressed since `deferred_interrupt` began."""

    requested: bool = False


class StopRequested(Exception):
    """Ends a loop between two steps, where everything is consistent and can be saved."""


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C inside the block into a request; a second one interrupts at once, as usual.

    Signals reach the main thread alone: elsewhere the block changes nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    usual = signal.getsignal(signal.SIGINT)

    def remember(_number, _frame):
        request.requested = True
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, remember)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, usual)
