"""What a run leaves in `logs/`: one JSON line per optimizer step and per validation, and a readable log."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shirg.files import write_text


class Journal:
    """A JSON Lines file that grows line by line; every line is one JSON object with a `step`."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, entry: dict[str, Any]) -> None:
        """Add one line. A crash loses at most the line being written."""
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry, allow_nan=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All complete lines; a line that a crash cut short is left out."""
        if not self.path.is_file():
            return []
        entries = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entries.append(json.loads(line))
        return entries

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them again."""
        kept = [json.dumps(entry) + "\n" for entry in self.read() if entry["step"] <= step]
        write_text(self.path, "".join(kept))


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
