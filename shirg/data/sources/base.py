"""Base class of sources: questions grouped by image, and a list of the entries that are unusable."""

from __future__ import annotations

import json
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from shirg.data.images import as_png_or_jpeg, read_bytes, safe_relative
from shirg.data.records import Record, image_id
from shirg.data.sources.values import as_object
from shirg.errors import UserError

JSON_CHUNK = 2**20
"""Characters of a JSON list that are read at once."""

LONGEST_ENTRY = 64 * JSON_CHUNK
"""Characters of a JSON list's entry at most."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A question and its accepted answers, before the image is opened. Its `repr` is part of `Catalogue.digest`."""

    question: str
    answers: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An unusable entry of a source, the reason, and how many records it would have given."""

    source: str
    item: str
    reason: str
    records: int = 1


@dataclass(frozen=True, slots=True)
class ImageGroup:
    """All questions of one source about one image file `root / name`."""

    source: str
    licence: str
    root: Path
    name: str
    drafts: tuple[Draft, ...]

    def records(self, split: str) -> list[Record]:
        """Open the image and make one record per question.

        Raises:
            UserError: if the image is missing, damaged or too large.
        """
        data, width, height = as_png_or_jpeg(read_bytes(self.root / self.name), self.name)
        return self.records_from(data, image_id(data), (width, height), split)

    def records_from(self, data: bytes, name: str, size: tuple[int, int], split: str, path: str = "") -> list[Record]:
        """One record per question, for image bytes, `image_id` and size (width, height) that are known."""
        width, height = size
        return [
            Record(
                id=f"{self.source}:{self.name}:{number}",
                image=data,
                image_id=name,
                question=draft.question,
                answers=draft.answers,
                source=self.source,
                licence=self.licence,
                width=width,
                height=height,
                kind=draft.kind,
                split=split,
                path=path,
            )
            for number, draft in enumerate(self.drafts)
        ]


@dataclass
class Index:
    """A source's questions grouped by image, in file order, and its unusable entries."""

    groups: list[ImageGroup]
    rejected: list[Rejected]
    note: str = ""
    """A remark for the report, e.g. that the records are of another part than usual."""

    @property
    def num_records(self) -> int:
        """Questions over all groups."""
        return sum(len(group.drafts) for group in self.groups)


class Records(list[Record]):
    """A list of records with the entries that were rejected, and the note of its `Index`."""

    def __init__(self, records: Iterable[Record] = (), rejected: Iterable[Rejected] = (), note: str = ""):
        super().__init__(records)
        self.rejected: list[Rejected] = list(rejected)
        self.note = note


DUPLICATE = "duplicate question: the same question with the same answer occurs twice"


class Collector:
    """Collects a source's entries into an `Index`; unusable ones are listed with a reason."""

    note = ""
    """See `Index`."""

    def __init__(self, source: str, licence: str, root: Path):
        self.source, self.licence, self.root = source, licence, root
        self._drafts: dict[str, dict[Draft, None]] = {}
        self._rejected: list[Rejected] = []

    def objects(self, values: Iterable[object], what: str = "entry") -> Iterator[dict[str, Any]]:
        """The entries that are JSON objects; others are rejected as `what` and their number."""
        for number, value in enumerate(values, start=1):
            with self.listing(f"{what} {number}"):
                as_object(value, "the entry")
            if isinstance(value, dict):
                yield value

    @contextmanager
    def listing(self, item: object, records: int = 1) -> Iterator[None]:
        """Turns a `UserError` of the block into the reason why `item`, and so many records, are rejected."""
        try:
            yield
        except UserError as error:
            self.reject(_shown(item), str(error), records)

    def add(self, folder: Path, name: str, draft: Draft) -> None:
        """Add a question about the image `folder / name`; `folder` is inside the root.

        Raises:
            UserError: if the name leaves the folder.
        """
        self.take((folder / safe_relative(name)).relative_to(self.root).as_posix(), draft)

    def take(self, name: str, draft: Draft) -> None:
        """Keep a question about the image `root / name`; a duplicate is rejected."""
        drafts = self._drafts.setdefault(name, {})
        if draft in drafts:
            self.reject(name, DUPLICATE)
        drafts[draft] = None

    def reject(self, item: str, reason: str, records: int = 1) -> None:
        """List an unusable entry."""
        self._rejected.append(Rejected(self.source, item, reason, records))

    def index(self) -> Index:
        """Everything collected so far."""
        groups = [
            ImageGroup(self.source, self.licence, self.root, name, tuple(drafts))
            for name, drafts in self._drafts.items()
        ]
        return Index(groups, self._rejected, self.note)


class LocalSource(ABC):
    """A data set in a local folder, in the layout of its release.

    Subclasses describe themselves and read their files. They are constructed with the folder of the layout.
    """

    name: str
    licence: str
    layout: str
    """The files it needs, one line, for messages and documentation."""
    folders: tuple[str, ...]
    """Names of its folder, in any case; a longer name that begins with one of them counts too."""
    size: str
    """Size of the release, for `shirg prepare --list`."""
    home: str
    """Where to get the release."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    @abstractmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether `folder` has this source's files for `split` (`train` or `test`)."""

    @abstractmethod
    def read(self, split: str, collector: Collector) -> None:
        """Give each entry of the annotation files to `collector`; images are not opened.

        Raises:
            UserError: if an annotation file cannot be read.
        """

    def index(self, split: str = "test") -> Index:
        """All questions of a split, grouped by image.

        Raises:
            UserError: as `read`.
        """
        collector = Collector(self.name, self.licence, self.folder)
        self.read(split, collector)
        return collector.index()

    def answerable(self, split: str) -> Index:
        """The index without questions that the images cannot answer."""
        return self.index(split)

    def records(self, limit: int | None = None, seed: int = 0, split: str = "test") -> Records:
        """A seeded sample of `limit` records (all when None, in file order), images opened.

        Unusable images are rejected, and other records take their place in the sample.

        Raises:
            UserError: if no record is usable.
        """
        index = self.answerable(split)
        places = [(group, number) for group in index.groups for number in range(len(group.drafts))]
        if limit is not None and limit < len(places):
            random.Random(f"{self.name}:{seed}").shuffle(places)
        chosen = Records(rejected=index.rejected, note=index.note)
        opened: dict[str, list[Record]] = {}
        for group, number in places:
            if limit is not None and len(chosen) == limit:
                break
            if group.name not in opened:
                opened[group.name] = []
                try:
                    opened[group.name] = group.records(split)
                except UserError as error:
                    chosen.rejected.append(Rejected(group.source, group.name, str(error), len(group.drafts)))
            chosen += opened[group.name][number : number + 1]
        if not chosen:
            first = f"; the first: {chosen.rejected[0].reason}" if chosen.rejected else ""
            raise UserError(f"{self.name} in {self.folder}: no usable record ({len(chosen.rejected)} rejected{first})")
        return chosen


def find_source(kind: type[LocalSource], data_dir: Path, split: str) -> LocalSource | None:
    """The source in `data_dir`, which holds one folder per data set or is the set's own folder; None if absent.

    Raises:
        UserError: if the folder cannot be listed.
    """
    try:
        children = sorted(child for child in data_dir.iterdir() if child.is_dir())
    except OSError as error:
        raise UserError(f"data folder {data_dir}: {error.strerror or error}") from error
    exact = [child for child in children if child.name.lower() in kind.folders]
    longer = [child for child in children if child.name.lower().startswith(kind.folders)]
    for folder in (*exact, *longer, data_dir):
        if kind.fits(folder, split):
            return kind(folder)
    return None


def glob_upto(folder: Path, pattern: str, depth: int) -> list[Path]:
    """Files matching `pattern` in `folder` and at most `depth` folders below it, sorted."""
    return sorted(path for level in range(depth + 1) for path in folder.glob("*/" * level + pattern) if path.is_file())


def first_file(paths: Iterable[Path]) -> Path | None:
    """The first path that is a file."""
    return next((path for path in paths if path.is_file()), None)


def read_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        UserError: if it cannot be read or is not JSON; the message names the file and the position.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error


def read_json_list(path: Path, key: str | None = None) -> list[object]:
    """The list in a JSON file, or the one under `key`.

    Raises:
        UserError: if the file has another form.
    """
    value = read_json(path)
    if key is not None:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, list):
        raise UserError(f"{path}: expected a list{f' under {key!r}' if key else ''}")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: if the file has another form.
    """
    return as_object(read_json(path), str(path))


def iter_json_list(path: Path) -> Iterator[object]:
    """The entries of a file with one JSON list, with one entry and `JSON_CHUNK` characters in memory.

    Raises:
        UserError: if the file cannot be read, is no list, or is damaged; entries before the damage are yielded.
    """
    try:
        with open(path, encoding="utf-8-sig") as handle:
            yield from _list_entries(handle)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a JSON list ({error})") from error


def _list_entries(handle: TextIO) -> Iterator[object]:
    decode, blanks = json.JSONDecoder().raw_decode, re.compile(r"[ \t\r\n]*")
    text, place, sign = "", 0, "["  # `sign` precedes the next entry

    def skip_blanks(start: int) -> int:
        found = blanks.match(text, start)
        assert found is not None, "the pattern matches an empty string"
        return found.end()

    while True:
        try:
            start = skip_blanks(place)
            if text[start] == "]" and sign == ",":
                return
            if text[start] != sign:
                raise ValueError(f"expected {sign!r}, not {text[start : start + 20]!r}")
            start = skip_blanks(start + 1)
            if text[start] == "]" and sign == "[":
                return
            value, end = decode(text, start)
            after = text[skip_blanks(end)]  # at the end of `text` a number may be incomplete
            if after in ".eE":  # of `1.` or `1e+`, as far as read, the decoder takes the 1
                raise ValueError(f"expected ',', not {text[end : end + 20]!r}")
        except (ValueError, IndexError) as error:
            rest = text[place:]
            # The piece at least doubles the text, so that long entries need few attempts.
            piece = handle.read(max(JSON_CHUNK, len(rest))) if len(rest) <= LONGEST_ENTRY else ""
            if not piece:
                raise ValueError("the list does not end" if isinstance(error, IndexError) else error) from error
            text, place = rest + piece, 0
        else:
            yield value
            place, sign = end, ","


def iter_json_lines(path: Path, collector: Collector) -> Iterator[object]:
    """The entries of a JSON Lines file; invalid lines are rejected.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        with open(path, "rb") as handle:
            for number, line in enumerate(handle, start=1):
                if not line.strip():
                    continue
                try:
                    yield json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except (ValueError, RecursionError) as error:
                    collector.reject(f"{path.name} line {number}", f"not JSON ({error})")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _shown(item: object) -> str:
    """An entry's name in the list of rejected entries: its image or number, if that is printable."""
    one = item[0] if isinstance(item, list) and len(item) == 1 else item
    plain = isinstance(one, (str, int)) and not isinstance(one, bool) and one != ""
    return str(one).encode(errors="replace").decode() if plain else "entry without image"
