"""What only a GPU can tell, at the size of LaViDa-LLaDA-8B, with random weights and without any download.

    python benchmarks/full_size.py --json benchmarks/results/full_size.json

* paths: time and memory of every vision path, stage by stage, from an image's bytes to an answer.
* train: the training step, packed against two rows, for every budget, micro-batch, with and without checkpointing.
* gate: every rule alone, eager, compiled and captured, and whether the device chooses as a CPU does.

Every row is written as soon as it is measured. A call ends after `--minutes`, or is killed; the same command then goes on with
what is missing, and rows that failed are tried again. Needed are torch, transformers, safetensors, peft and a card of 40 GB or
more; a training step that does not fit is a row that says so. `--size tiny` does the same with tiny shapes: on a GPU to see
that everything runs there, or on a CPU, by the wall clock and without what needs CUDA.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import platform
import shlex
import subprocess
import sys
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from full_size_clock import CARDS, Clock
from full_size_gate import GatePart
from full_size_model import SIZES
from full_size_paths import PathsPart
from full_size_train import ASSUMPTIONS, TrainPart, summary

from shirg import __version__
from shirg.errors import UserError
from shirg.evaluation.environment import processor
from shirg.files import write_json

FORMAT = 1
PARTS = {"paths": PathsPart, "train": TrainPart, "gate": GatePart}
PACKAGES = ("torch", "transformers", "peft", "triton", "numpy")
MEASURED, NO_MEMORY = "measured", "out of memory"
FINAL = (MEASURED, NO_MEMORY)
"""Outcomes that stand; a row with another one is measured again."""


class Record:
    """The file of results: what was measured, on what, by which call."""

    def __init__(self, path: Path, size: str, clock: Clock):
        """Go on with the file, or begin it with the first row.

        Raises:
            UserError: if the file is no record, or of another size, device or version of torch.
        """
        self.path = path
        opening = {"format": FORMAT, "size": size, "machine": machine(clock), "assumptions": list(ASSUMPTIONS)}
        self.content = self._read() or {**opening, "calls": [], **{part: [] for part in PARTS}, "summary": {}}
        known, now = self._identity(self.content), self._identity(opening)
        for name, value in now.items():
            if known[name] != value:
                raise UserError(f"--json: {path} holds {name} {known[name]!r}, this is {value!r}; use another file")

    def _read(self) -> dict | None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except json.JSONDecodeError as error:
            raise UserError(f"--json: {self.path} is not readable JSON: {error}") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(f"--json: {self.path} is no record of this script; use another file")
        return content

    @staticmethod
    def _identity(content: dict) -> dict:
        return {
            "size": content["size"],
            "device": content["machine"]["device"],
            "torch": content["machine"]["packages"]["torch"],
        }

    def begin_call(self, arguments: argparse.Namespace) -> None:
        """What the rows from here on were measured by; written with the first of them."""
        self.call = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["python", *sys.argv]),
            "minutes": arguments.minutes,
            "revision": arguments.revision or git_revision(),
            "packages": package_versions(),
        }

    def missing(self, part: str, keys: list[str]) -> list[str]:
        """Of the rows `keys`, in their order, those that are not there or failed."""
        done = {row["key"] for row in self.content[part] if row["outcome"] in FINAL}
        return [key for key in keys if key not in done]

    def add(self, part: str, row: dict) -> None:
        """Write a row, in place of one with its key."""
        calls, rows = self.content["calls"], self.content[part]
        if not any(call is self.call for call in calls):  # two calls may begin within one second
            calls.append(self.call)
        rows[:] = [one for one in rows if one["key"] != row["key"]] + [{**row, "call": len(calls) - 1}]
        self.content["summary"] = summary(self.content["train"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.content)


def machine(clock: Clock) -> dict:
    """The device and what drives it."""
    found = {
        "device": clock.device_name,
        "clock": clock.kind,
        "processor": processor(),
        "python": platform.python_version(),
        "shirg": __version__,
        "packages": package_versions(),
    }
    if clock.cuda:
        card = CARDS.get(clock.device_name)
        found |= {
            "memory_bytes": torch.cuda.get_device_properties(clock.device).total_memory,
            "driver": driver(),
            "cuda": torch.version.cuda,
            "published_peaks": None if card is None else {"bytes/s": card.bytes_per_second, "FLOP/s": card.flops},
        }
    return found


def package_versions() -> dict[str, str | None]:
    """Of the libraries that times depend on; None where one is not there."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def driver() -> str | None:
    """Version of NVIDIA's driver, if its tool tells."""
    return said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def git_revision() -> str | None:
    """The commit of this checkout, with a mark if files differ from it; None outside of one."""
    return said("git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--abbrev=40", "--dirty")


def said(*command: str) -> str | None:
    """First line of a program's output; None if there is none, or no such program."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


def attempt(part, case) -> dict:
    """A row, whatever happens: no memory is a result, and an error of one row leaves the others alone."""
    row = {"key": case.key}
    try:
        found = part.measure(case)
        json.dumps(found, allow_nan=False)  # what cannot be written is an error of this row
        return {**row, "outcome": MEASURED, **found}
    except torch.OutOfMemoryError:
        return {**row, "outcome": NO_MEMORY, **dataclasses.asdict(case)}
    except Exception as error:
        traceback.print_exc()
        return {**row, "outcome": f"failed: {type(error).__name__}: {str(error)[:300]}", **dataclasses.asdict(case)}


def measure(arguments: argparse.Namespace, clock: Clock, record: Record, deadline: float) -> dict[str, int]:
    """All rows of the parts asked for, until the deadline; how many of each part are left."""
    left = {}
    for name in arguments.parts:
        part = PARTS[name](SIZES[arguments.size], clock)
        cases = {case.key: case for case in part.cases}
        missing = record.missing(name, list(cases))
        while missing and time.monotonic() < deadline:
            began = time.monotonic()
            row = attempt(part, cases[missing.pop(0)])
            clock.release()
            record.add(name, row)
            print(f"{name:6} {row['key']:44} {row['outcome'][:60]:14} {time.monotonic() - began:6.1f} s", flush=True)
        left[name] = len(record.missing(name, list(cases)))
        del part
        clock.release()
    return left


def work(arguments: argparse.Namespace) -> None:
    """Measure what is missing, and say what is left."""
    deadline = time.monotonic() + 60 * arguments.minutes
    clock = Clock(torch.device("cuda:0" if torch.cuda.is_available() else "cpu"))
    if arguments.size == "full" and not clock.cuda:
        raise UserError("--size: full needs a CUDA device, and torch sees none; --size tiny runs on a CPU")
    record = Record(arguments.json, arguments.size, clock)
    record.begin_call(arguments)
    left = measure(arguments, clock, record, deadline)
    if any(left.values()):
        rows = ", ".join(f"{name} {count}" for name, count in left.items() if count)
        print(f"rows left or failed: {rows}; the same command goes on with them")
    else:
        print(f"all rows of {', '.join(arguments.parts)} are in {arguments.json}")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the record, begun or gone on with")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="in this order (default: all)")
    parser.add_argument("--size", choices=SIZES, default="full", help="default: %(default)s")
    parser.add_argument(
        "--minutes",
        type=float,
        default=9,
        help="no row is begun after so many; a row takes a minute at most (default: 9)",
    )
    parser.add_argument("--revision", help="of the code, where there is no git to ask")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, 2 for what the user can mend, 130 for Ctrl-C."""
    try:
        work(parse(argv))
    except UserError as error:
        print(f"full_size: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("full_size: stopped by Ctrl-C; the rows that were finished are in the file", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
