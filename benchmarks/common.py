"""What benchmarks share: time and memory of a call, the machine of a record, and how a program ends."""

from __future__ import annotations

import datetime
import gc
import logging
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from shirg.errors import UserError
from shirg.evaluation.efficiency import timed
from shirg.evaluation.environment import describe_environment, processor
from shirg.lavida import Lavida

CPU = torch.device("cpu")


def now() -> str:
    """Date and time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def machine(device: torch.device = CPU) -> dict[str, object]:
    """When and on what times are taken."""
    return {
        "date": now(),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }


def time_call(call: Callable[[], object], warm_up: int, runs: int, device: torch.device = CPU) -> tuple[float, float]:
    """Median and best milliseconds of `runs` calls, after `warm_up` untimed ones."""
    for _ in range(warm_up):
        call()
    times = [timed(device, call)[1] for _ in range(runs)]
    return statistics.median(times), min(times)


def run_facts(model: Lavida) -> dict[str, object]:
    """When, on what and with what a record is made."""
    return {"date": now(), "processor": processor(), "environment": describe_environment(model)}


def peak_memory(call: Callable[[], object]) -> int:
    """Bytes by which a call raises this process's resident memory at its peak (Linux)."""
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the current resident memory
    call()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


def exit_code(name: str, work: Callable[[], None]) -> int:
    """Run `work`, which logs: 0, 2 for a mistake of the user, 130 for Ctrl-C; these two with one line on standard error.

    Args:
        name: of the program.
        work: may be called again to resume.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("shirg").setLevel(logging.INFO)
    try:
        work()
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: stopped by Ctrl-C; what was finished before is kept", file=sys.stderr)
        return 130
    return 0
