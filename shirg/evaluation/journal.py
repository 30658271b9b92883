"""A file of finished entries, from which a stopped run resumes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

from shirg.errors import UserError
from shirg.evaluation.markdown import count
from shirg.files import append_line, json_line, read_lines, write_text
from shirg.identity import check_same_run, fingerprint

Key = TypeVar("Key", bound=Hashable)
"""Of an entry."""

NAME = "fingerprint"
"""Of the run, among the settings in a file's first line."""

logger = logging.getLogger(__name__)


class Journal(Generic[Key]):
    """A JSON Lines file: the run's settings, then one line per entry.

    Attributes:
        entries: key of an entry -> the entry, in the order in which they were added.
    """

    def __init__(
        self,
        path: Path,
        run: dict[str, Any],
        key: Callable[[dict[str, Any]], Key],
        *,
        resume: bool,
        noun: str,
        name: str | None = None,
    ):
        """Opens the file; with `resume`, reads the entries of an earlier run. A line that a crash truncated is dropped.

        Args:
            run: settings that all entries of one file share.
            key: of an entry; entries with one key are the same.
            resume: keep the existing entries; else the file starts again.
            noun: what an entry is, for messages.
            name: the run's fingerprint, which every entry gets; None takes that of `run`. (Shares of a run have one name.)

        Raises:
            OtherRunError: if the file is of a run with other settings, or of a run of another kind.
            UserError: if it cannot be written.
        """
        self.path, self.key = path, key
        self.entries: dict[Key, dict[str, Any]] = {}
        earlier = read_lines(path)
        self.name = name or fingerprint(run)
        if earlier and resume:
            check_same_run(path, earlier[0], run)
            for entry in entries_of(path, earlier):
                self.entries[key(entry)] = {**entry, "run": self.name}
            logger.info("%s: %d %ss are measured already", path, len(self.entries), noun)
        elif earlier:
            logger.info(
                "%s: starting over; --resume would have continued after %s", path, count(len(earlier) - 1, noun)
            )
        elif resume:
            logger.info("%s: there is nothing to resume; starting with the first %s", path, noun)
        try:
            write_text(path, "".join(json_line(entry) for entry in ({**run, NAME: self.name}, *self.entries.values())))
        except OSError as error:
            raise UserError(
                f"output_dir: {path.parent} cannot be written ({error.strerror}); choose another folder"
            ) from error

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry, with the run's fingerprint as `run`. A crash loses at most the line being written."""
        entry = {**entry, "run": self.name}
        append_line(self.path, entry)
        self.entries[self.key(entry)] = entry


def entries_of(path: Path, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries among a file's lines that the run of its first line wrote. Earlier versions did not name the run; entries of
    another one are left out with a warning."""
    own = lines[0].get(NAME)
    entries = [entry for entry in lines[1:] if entry.get("run", own) == own]
    if len(entries) < len(lines) - 1:
        logger.warning("%s: %s of another run left out", path, count(len(lines) - 1 - len(entries), "line"))
    return entries
