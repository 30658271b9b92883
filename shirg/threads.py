"""The number of torch's threads, adjusted to the processors that other programs leave.

OpenMP's threads wait for each other by spinning. If another program uses one of two cores, two threads are slower than one, since
one of them often waits for a core. Results do not depend on the number of threads, except for the last bits of float sums if a
library splits one (none did so on the processors that were tried).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

LEAST_SECONDS = 0.5
"""Shortest time between two readings of the processors' clocks, which tick a hundred times a second."""


@dataclass(frozen=True)
class ProcessorTimes:
    """Processor time used so far, in seconds."""

    clock: float
    """Wall clock."""
    busy: float
    """Of all programs on the processors that this process may use, without work of low priority, which yields."""
    own: float
    """Of this process."""

    @classmethod
    def now(cls) -> ProcessorTimes:
        """Read the clocks."""
        import psutil  # imported here, since benchmarks on a bare GPU machine run without it

        every = psutil.cpu_times(percpu=True)
        mine = [every[number] for number in usable_processors() if number < len(every)]
        busy = sum(times.user + times.system for times in mine)
        own = time.process_time()
        return cls(time.perf_counter(), busy, own)

    def others_since(self, before: ProcessorTimes) -> float:
        """Mean number of processors that other programs used since `before`."""
        spent = (self.busy - before.busy) - (self.own - before.own)
        return max(spent / (self.clock - before.clock), 0.0)


def usable_processors() -> list[int]:
    """Numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class SpareThreads:
    """Sets torch's number of threads to the processors that other programs leave, from one to the initial number."""

    def __init__(self) -> None:
        self.most = torch.get_num_threads()
        self.before = ProcessorTimes.now()
        self.others = 0.0
        """Processors that other programs used, at the last reading."""

    def adjust(self, *, wait: float = 0.0) -> int:
        """Read the clocks, at most every `LEAST_SECONDS`, and set the number of threads; returns it.

        Args:
            wait: seconds to measure before the reading, if nothing has been measured yet.
        """
        time.sleep(wait)
        now = ProcessorTimes.now()
        if wait or now.clock - self.before.clock >= LEAST_SECONDS:
            self.others, self.before = now.others_since(self.before), now
            left = len(usable_processors()) - self.others
            torch.set_num_threads(min(max(int(left + 0.5), 1), self.most))
        return torch.get_num_threads()


@contextlib.contextmanager
def spare_threads() -> Iterator[SpareThreads]:
    """A `SpareThreads` for the block; afterwards torch's initial number of threads is restored."""
    threads = SpareThreads()
    try:
        yield threads
    finally:
        torch.set_num_threads(threads.most)
