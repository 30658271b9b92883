"""What a long run has measured, written as it comes, so that a stopped run can go on."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

from shirg.errors import UserError
from shirg.evaluation.markdown import count
from shirg.files import write_text

Key = TypeVar("Key", bound=Hashable)
"""What tells entries apart."""

logger = logging.getLogger(__name__)


class OtherRunError(UserError):
    """What is there was measured by a run with other settings, so that this one cannot go on with it."""


class Journal(Generic[Key]):
    """A JSON Lines file: the run's settings, then one line per entry.

    Attributes:
        entries: key of an entry -> the entry, in the order in which they were added.
    """

    def __init__(
        self, path: Path, run: dict[str, Any], key: Callable[[dict[str, Any]], Key], *, resume: bool, noun: str
    ):
        """Opens the file; with `resume`, reads what an earlier run left. A line that a crash cut short is dropped.

        Args:
            run: settings that all entries of one file share.
            key: gives what tells entries apart.
            resume: go on after what is there; else the file starts over.
            noun: what an entry is, for messages.

        Raises:
            OtherRunError: if the file is of a run with other settings, or of no such run.
            UserError: if it cannot be written.
        """
        self.path, self.key = path, key
        self.entries: dict[Key, dict[str, Any]] = {}
        earlier = read_lines(path)
        if earlier and resume:
            check_same_run(path, earlier[0], run)
            self.entries = {key(entry): entry for entry in earlier[1:]}
            logger.info("%s: %d %ss are measured already", path, len(self.entries), noun)
        elif earlier:
            logger.info("%s: starting over; --resume would have gone on after %s", path, count(len(earlier) - 1, noun))
        elif resume:
            logger.info("%s: there is nothing to resume; starting with the first %s", path, noun)
        try:
            write_text(path, "".join(_line(entry) for entry in (run, *self.entries.values())))
        except OSError as error:
            raise UserError(
                f"output_dir: {path.parent} cannot be written ({error.strerror}); choose another folder"
            ) from error

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry. A crash loses at most the line being written."""
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(_line(entry))
        self.entries[self.key(entry)] = entry


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The file's settings and entries, up to the first line that is not whole; nothing where there is no file."""
    entries, absent = [], (FileNotFoundError, NotADirectoryError)
    with contextlib.suppress(*absent, json.JSONDecodeError), open(path, encoding="utf-8") as handle:
        for line in handle:
            entries.append(json.loads(line))
    return entries


def check_same_run(path: Path, before: dict[str, Any], run: dict[str, Any]) -> None:
    """Compare the settings of a file with those of this run.

    Raises:
        OtherRunError: at the first that differs, naming it and what it was.
    """
    for name, value in json.loads(json.dumps(run)).items():
        if before.get(name) == value:
            continue
        way_out = "leave --resume out to start over, or choose another folder"
        if not isinstance(value, dict) and name in before:
            raise OtherRunError(
                f"resume: {name} is {value!r}, but {path} was measured with {before[name]!r}; {way_out}"
            )
        raise OtherRunError(f"resume: {path} was measured with other {name} than this version's; {way_out}")


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
