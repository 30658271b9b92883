"""Time of `make demo` and `make test` in a fresh clone, on an idle machine and beside a busy program.

    python benchmarks/first_run.py [--busy] [--old-cpu] [--only demo] [--clone DIR] [--json benchmarks/results/first_run.json]

Clones the last commit into a temporary folder and runs the two commands of the README there; making the environment is timed
separately. --clone keeps the clone and its environment for the next call, which updates it to the last commit. --busy keeps
one processor busy with another program. --old-cpu restricts a newer processor to AVX2, by the environment variables of
oneDNN, ATen and MKL. The JSON has one entry per kind of processor and condition; a run replaces its own.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from shirg.evaluation.environment import processor
from shirg.files import write_json
from shirg.threads import usable_processors

ROOT = Path(__file__).resolve().parents[1]
OLD_CPU = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
NEWER = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""Instruction sets by which kinds of processor are told apart, the newest first."""


def kind(old_cpu: bool) -> str:
    """The newest of `NEWER` that this processor has, or is allowed to use."""
    if old_cpu:
        return "avx2 (a newer processor, its newer instructions switched off)"
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text(encoding="utf-8").split()) if info.exists() else set()
    return next((name for name in NEWER if name in flags), "unknown")


@contextlib.contextmanager
def busy_neighbour(wanted: bool) -> Iterator[None]:
    """Another program that never waits, while the block runs."""
    if not wanted:
        yield
        return
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        neighbour.kill()
        neighbour.wait()


def timed(command: str, folder: Path, environment: dict[str, str]) -> tuple[float, str]:
    """Seconds of a shell command, and what it printed; a failure ends the benchmark."""
    began = time.perf_counter()
    found = subprocess.run(
        command, shell=True, cwd=folder, env=environment, check=False, capture_output=True, text=True
    )
    if found.returncode != 0:
        raise SystemExit(f"{command}: exit code {found.returncode}\n{found.stdout[-3000:]}{found.stderr[-3000:]}")
    return time.perf_counter() - began, found.stdout + found.stderr


def run_demo(clone: Path, environment: dict[str, str]) -> dict[str, object]:
    """`make demo`, its environment before."""
    setup, _ = timed("sh scripts/setup.sh base", clone, environment)
    demo, _ = timed("make demo", clone, environment)
    stages = json.loads((clone / "shirg_lora_output" / "logs" / "stages.json").read_text(encoding="utf-8"))
    return {"setup_seconds": round(setup, 1), "demo_seconds": round(demo, 1), "demo_stages": stages}


def run_test(clone: Path, environment: dict[str, str]) -> dict[str, object]:
    """`make test`, what its environment needs on top before."""
    setup, _ = timed("sh scripts/setup.sh dev", clone, environment)
    seconds, printed = timed("make test", clone, environment)
    summary = re.findall(r"^\d+ passed.*$", printed, re.MULTILINE)
    return {
        "setup_tests_seconds": round(setup, 1),
        "test_seconds": round(seconds, 1),
        "tests": summary[-1] if summary else None,
    }


COMMANDS = {"demo": run_demo, "test": run_test}


def prepare_clone(folder: Path) -> None:
    """The last commit of this checkout in `folder`, which may hold an earlier one with its environment."""
    if not (folder / ".git").is_dir():
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        return
    subprocess.run(["git", "fetch", "--quiet", "origin", "HEAD"], cwd=folder, check=True)
    subprocess.run(["git", "reset", "--quiet", "--hard", "FETCH_HEAD"], cwd=folder, check=True)


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--busy", action="store_true", help="keep one processor busy with another program")
    parser.add_argument("--old-cpu", action="store_true", help="use no instructions newer than AVX2")
    parser.add_argument("--only", choices=COMMANDS, help="one of the two commands")
    parser.add_argument("--clone", type=Path, help="where to clone to, and to stay")
    parser.add_argument("--json", type=Path, help="add the result to this file")
    arguments = parser.parse_args()
    environment = {**os.environ, **(OLD_CPU if arguments.old_cpu else {})}
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder, busy_neighbour(arguments.busy):
        clone = arguments.clone or Path(folder) / "shirg"
        prepare_clone(clone)
        for name in [arguments.only] if arguments.only else COMMANDS:
            found |= COMMANDS[name](clone, environment)
    name = f"{kind(arguments.old_cpu)}, {'beside a busy program' if arguments.busy else 'quiet'}"
    entry = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "processors": len(usable_processors()),
        "python": sys.version.split()[0],
        **found,
    }
    print(json.dumps({name: entry}, indent=2))
    if arguments.json:
        before = json.loads(arguments.json.read_text(encoding="utf-8")) if arguments.json.exists() else {}
        write_json(arguments.json, {**before, name: before.get(name, {}) | entry})


if __name__ == "__main__":
    main()
