"""What README and docs tell people to type: the blocks of every page, in order, and a way to run them.

python scripts/documented.py    runs docs/quickstart.md and stores what it prints, from which scripts/tables.py fills that page
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))))
PAGES += ("shirg/nano/weights/README.md",)
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)
CHECKOUT = ("shirg", "scripts", "examples", "benchmarks", "configs", "docs", "Makefile")
"""What a reader has before them, with the environment's programs on the path."""
TIMEOUT = 1800
"""Seconds for one command, on a machine that has other things to do."""

QUICKSTART = "docs/quickstart.md"
PRINTED = ROOT / "benchmarks" / "results" / "quickstart.json"
MAKES_ENVIRONMENT = "sh scripts/setup.sh"
"""The block that makes the environment which the others are run in."""


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    kind: str
    """bash, console or python."""
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines without their comments, continued ones joined; in a console block those behind a `$ `."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.kind == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        bare = (re.sub(r"(^|\s)#.*", "", line) for line in lines)
        return [" ".join(line.split()) for line in bare if line.strip()]


def blocks(page: str) -> list[Block]:
    """The blocks of shell and Python on a page of `PAGES`."""
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    kinds = ("bash", "console", "python")
    return [Block(kind, textwrap.dedent(text)) for _, kind, text in found if kind in kinds]


def commands(page: str) -> list[str]:
    """The shell commands of a page."""
    return [command for block in blocks(page) if block.kind != "python" for command in block.commands]


def words(command: str) -> list[str]:
    """The words of a command as a shell would hand them over, with 0 for every variable.

    Three points stand for what the reader knows: a value behind a flag, and elsewhere further flags, which are left out.
    """
    found = shlex.split(re.sub(r"\$\w+", "0", command))
    return [word for before, word in zip(["", *found], found, strict=False) if word != "..." or before.startswith("--")]


def link_checkout(folder: Path) -> None:
    """Make `folder` look like the checkout, so that what commands write is written there."""
    for name in CHECKOUT:
        (folder / name).symlink_to(ROOT / name)


def run(command: str, kind: str, folder: Path) -> str:
    """What a line of shell, or a block of Python, prints in `folder`.

    Raises:
        RuntimeError: with all that it said, if its exit code is not 0.
    """
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
    }
    program = [sys.executable, "-c", command] if kind == "python" else ["bash", "-c", command]
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"{command}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Run the quick start and store what every block prints."""
    from shirg.files import write_json

    printed = {}
    with tempfile.TemporaryDirectory() as name:
        link_checkout(Path(name))
        for block in blocks(QUICKSTART):
            if block.text.startswith(MAKES_ENVIRONMENT):
                continue
            parts = [block.text] if block.kind == "python" else block.commands
            printed[block.text] = "".join(run(part, block.kind, Path(name)) for part in parts)
            print(printed[block.text], end="", flush=True)
    machine = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    write_json(PRINTED, {**machine, "printed": printed})


if __name__ == "__main__":
    main()
