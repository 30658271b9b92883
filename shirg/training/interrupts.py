"""Ctrl-C and a scheduler's SIGTERM that wait for a good moment."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REQUEUE = 75
"""Exit code of a run that a scheduler stopped and that can go on: "temporary failure, try again" (sysexits.h
EX_TEMPFAIL). Ctrl-C leaves with 130, as a shell reports it."""


@dataclass
class StopRequest:
    """Which signal asked for an end since `deferred_interrupt` began, if one did."""

    signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None


class StopRequested(Exception):
    """Ends a loop between two steps, where everything is consistent and can be saved."""


class Preempted(SystemExit):
    """The run was asked to end by SIGTERM, has saved, and leaves with `REQUEUE`."""

    def __init__(self) -> None:
        super().__init__(REQUEUE)


def stopped_by(request: StopRequest) -> BaseException:
    """What a run that has saved is left with: `KeyboardInterrupt` after Ctrl-C, otherwise `Preempted`.

    A process that was not signalled itself, but stops with the others of its run, is preempted like them.
    """
    return KeyboardInterrupt() if request.signal == signal.SIGINT else Preempted()


@contextlib.contextmanager
def deferred_interrupt(told: Callable[[str], None] | None = None) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM inside the block into a request; a second one of its kind acts at once, as usual.

    `told` gets a line at the first one, since a step can take long. Signals reach the main thread alone: elsewhere the block
    changes nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    usual = {number: signal.getsignal(number) for number in SIGNALS}

    def remember(number: int, _frame: FrameType | None) -> None:
        request.signal = asked = signal.Signals(number)
        signal.signal(asked, usual[asked])
        if told is not None:
            with contextlib.suppress(RuntimeError):  # the signal came while another line was being written
                told("stopping: this step is finished and saved first; a second time stops at once")

    for number in SIGNALS:
        signal.signal(number, remember)
    try:
        yield request
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
