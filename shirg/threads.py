"""How many threads to compute with beside other programs.

Two threads that share a product wait for each other at its end, and OpenMP waits by spinning. Where another program holds one
of two cores, one thread waits for the other to be given a core, a thousand times a second: two threads are then slower than
one. So the number of threads follows the cores that others leave. Results do not depend on it but for the last bits of float sums
where a library splits one (none that this package uses does so on the processors that were tried).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

LEAST_SECONDS = 0.5
"""Between two looks at the machine: its clocks tick a hundred times a second."""


@dataclass(frozen=True)
class Moment:
    """What the processors had done up to some moment, in seconds."""

    clock: float
    busy: float
    """All programs, on the processors that this one may use; work of low priority does not count, since it gives way."""
    own: float

    @classmethod
    def now(cls) -> Moment:
        """This moment."""
        import psutil  # here, so that benchmarks on a bare GPU machine do without

        every = psutil.cpu_times(percpu=True)
        mine = [every[number] for number in usable_processors() if number < len(every)]
        busy = sum(times.user + times.system for times in mine)
        own = time.process_time()
        return cls(time.perf_counter(), busy, own)

    def others_since(self, before: Moment) -> float:
        """Processors that other programs kept busy on average since `before`."""
        spent = (self.busy - before.busy) - (self.own - before.own)
        return max(spent / (self.clock - before.clock), 0.0)


def usable_processors() -> list[int]:
    """Numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class SpareThreads:
    """Keeps torch's number of threads at the processors that other programs leave, from one to what it was at first."""

    def __init__(self) -> None:
        self.most = torch.get_num_threads()
        self.before = Moment.now()
        self.others = 0.0
        """Processors that other programs kept busy when it was looked last."""

    def adjust(self, *, wait: float = 0.0) -> int:
        """Look at the machine, at most every `LEAST_SECONDS`, and set the number of threads; returns it.

        Args:
            wait: seconds to look for, where there was nothing before that could be looked at.
        """
        time.sleep(wait)
        now = Moment.now()
        if wait or now.clock - self.before.clock >= LEAST_SECONDS:
            self.others, self.before = now.others_since(self.before), now
            left = len(usable_processors()) - self.others
            torch.set_num_threads(min(max(int(left + 0.5), 1), self.most))
        return torch.get_num_threads()


@contextlib.contextmanager
def spare_threads() -> Iterator[SpareThreads]:
    """A `SpareThreads` for the block; afterwards torch has its number of threads back."""
    keeper = SpareThreads()
    try:
        yield keeper
    finally:
        torch.set_num_threads(keeper.most)
