"""The pages that a sweep has measured, written as they come, so that a stopped sweep can go on."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path

from shirg.errors import UserError
from shirg.files import write_text

logger = logging.getLogger(__name__)


class SweepJournal:
    """A JSON Lines file: the run's settings, then one line per page.

    Attributes:
        pages: number of a page -> its entry.
    """

    def __init__(self, path: Path, run: dict, resume: bool):
        """Opens the file; with `resume`, reads what an earlier run left. A line that a crash cut short is dropped.

        Args:
            run: settings that all pages of one file share.

        Raises:
            UserError: if the file is of a run with other settings, or of no sweep, or cannot be written.
        """
        self.path = path
        self.pages: dict[int, dict] = {}
        earlier = _read_lines(path)
        if earlier and resume:
            _check_same_run(path, earlier[0], run)
            self.pages = {entry["page"]: entry for entry in earlier[1:]}
            logger.info("%s: %d pages are measured already", path, len(self.pages))
        elif earlier:
            logger.info("%s: starting over; --resume would have gone on after %d pages", path, len(earlier) - 1)
        try:
            write_text(path, "".join(json.dumps(entry) + "\n" for entry in (run, *self.pages.values())))
        except OSError as error:
            raise UserError(
                f"output_dir: {path.parent} cannot be written ({error.strerror}); choose another folder"
            ) from error

    def add(self, entry: dict) -> None:
        """Add a page. A crash loses at most the line being written."""
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry, allow_nan=False) + "\n")
        self.pages[entry["page"]] = entry


def _read_lines(path: Path) -> list[dict]:
    entries = []
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError), open(path, encoding="utf-8") as handle:
        for line in handle:
            entries.append(json.loads(line))
    return entries


def _check_same_run(path: Path, before: dict, run: dict) -> None:
    for name, value in json.loads(json.dumps(run)).items():
        if before.get(name) == value:
            continue
        way_out = "leave --resume out to start over, or choose another folder"
        if not isinstance(value, dict) and name in before:
            raise UserError(f"resume: {name} is {value!r}, but {path} was measured with {before[name]!r}; {way_out}")
        raise UserError(f"resume: {path} was measured with other {name} than this version's; {way_out}")
