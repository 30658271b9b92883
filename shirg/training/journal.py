"""What a run leaves in `logs/`: one JSON line per optimizer step and per validation, and a readable log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shirg.files import append_line, json_line, read_lines, write_text


class Journal:
    """A JSON Lines file that grows line by line; every line is one JSON object with a `step`."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, entry: dict[str, Any]) -> None:
        """Add one line. A crash loses at most the line being written."""
        append_line(self.path, entry)

    def read(self) -> list[dict[str, Any]]:
        """All lines; one that a crash cut short is left out."""
        return read_lines(self.path)

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them again."""
        write_text(self.path, "".join(json_line(entry) for entry in self.read() if entry["step"] <= step))


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Send what `shirg` logs, from INFO on, to `path` as well (appended) while the block runs."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("shirg")
    level = package.level
    package.addHandler(handler)
    package.setLevel(min(package.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()
