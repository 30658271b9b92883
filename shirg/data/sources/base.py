"""What every source gives: questions grouped by image, and a list of what it could not use."""

from __future__ import annotations

import json
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from shirg.data.images import as_png_or_jpeg, read_bytes, safe_relative
from shirg.data.records import Record, image_id
from shirg.data.sources.values import as_object
from shirg.errors import UserError

JSON_CHUNK = 2**20
"""Characters of a long list that are read at once."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A question and its accepted answers, before the image was opened."""

    question: str
    answers: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something a source holds that cannot be used: which, why, and how many records went with it."""

    source: str
    item: str
    reason: str
    records: int = 1

    def as_dict(self) -> dict[str, object]:
        """For the manifest."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ImageGroup:
    """All questions of one source about one image file `root / name`."""

    source: str
    licence: str
    root: Path
    name: str
    drafts: tuple[Draft, ...]

    @property
    def item(self) -> str:
        """How a list of rejected things names the group."""
        return self.name

    def records(self, split: str) -> list[Record]:
        """Opens the image and makes one record per question.

        Raises:
            UserError: if the image is missing, damaged or too large.
        """
        data, width, height = as_png_or_jpeg(read_bytes(self.root / self.name), self.name)
        return self.records_from(data, image_id(data), (width, height), split)

    def records_from(self, data: bytes, name: str, size: tuple[int, int], split: str, path: str = "") -> list[Record]:
        """One record per question about an image of that content, id and size (width, height)."""
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
    """A source's questions grouped by image, in the order of its files, and its unusable entries."""

    groups: list[ImageGroup]
    rejected: list[Rejected]
    note: str = ""
    """What a reader of results has to know about these records, e.g. that they are of another part than usual."""

    @property
    def num_records(self) -> int:
        """Questions over all groups."""
        return sum(len(group.drafts) for group in self.groups)


class Records(list[Record]):
    """A list of records that remembers what was skipped while it was made, and the note of its `Index`."""

    def __init__(self, records: Iterable[Record] = (), rejected: Iterable[Rejected] = (), note: str = ""):
        super().__init__(records)
        self.rejected: list[Rejected] = list(rejected)
        self.note = note


TWICE = "the same question with the same answer stands there twice"


class Collector:
    """Gathers a source's entries into an `Index`; whatever is wrong with one becomes a reason in its list."""

    note = ""
    """What the source says about all its records, see `Index`."""

    def __init__(self, source: str, licence: str, root: Path):
        self.source, self.licence, self.root = source, licence, root
        self._drafts: dict[str, dict[Draft, None]] = {}
        self._rejected: list[Rejected] = []

    def objects(self, values: Iterable[object], what: str = "entry") -> Iterator[dict[str, Any]]:
        """Those entries that are JSON objects; others are listed as `what` and their number."""
        for place, value in enumerate(values, start=1):
            if isinstance(value, dict):
                yield value
                continue
            with self.listing(f"{what} {place}"):
                as_object(value, "the entry")

    @contextmanager
    def listing(self, item: object, records: int = 1) -> Iterator[None]:
        """What a `UserError` in the block says becomes the reason why `item`, and so many records, cannot be used."""
        try:
            yield
        except UserError as error:
            self.reject(_shown(item), str(error), records)

    def add(self, folder: Path, name: str, draft: Draft) -> None:
        """Adds one question about the image `folder / name`; `folder` lies in the root.

        Raises:
            UserError: if the name leaves the folder.
        """
        self.take((folder / safe_relative(name)).relative_to(self.root).as_posix(), draft)

    def take(self, name: str, draft: Draft) -> None:
        """Keeps a sound question about the image `root / name`; one that was asked before is listed instead."""
        drafts = self._drafts.setdefault(name, {})
        if draft in drafts:
            self.reject(name, TWICE)
        drafts[draft] = None

    def reject(self, item: str, reason: str, records: int = 1) -> None:
        """Lists an entry that cannot be used."""
        self._rejected.append(Rejected(self.source, item, reason, records))

    def index(self) -> Index:
        """Everything gathered so far."""
        groups = [
            ImageGroup(self.source, self.licence, self.root, name, tuple(drafts))
            for name, drafts in self._drafts.items()
        ]
        return Index(groups, self._rejected, self.note)


class LocalSource(ABC):
    """A data set in a local folder, in the layout of its release.

    Subclasses name themselves and turn their files into an `Index`. They are built with the folder of the layout.
    """

    name: str
    licence: str
    layout: str
    """The files it needs, one line, for messages and documentation."""
    folders: tuple[str, ...]
    """Folder names it goes by; also as the beginning of a longer name, in any case."""
    size: str
    """How much the release holds, for `shirg prepare --list`."""
    home: str
    """Where the release is to be had."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    @abstractmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether `folder` has this source's files for `split` (`train` or `test`)."""

    @abstractmethod
    def read(self, split: str, collector: Collector) -> None:
        """Gives every entry of the annotation files to `collector`; images are not opened.

        Raises:
            UserError: if an annotation file cannot be read.
        """

    def index(self, split: str = "test") -> Index:
        """Everything of a split in memory, grouped by image.

        Raises:
            UserError: as `read`.
        """
        collector = Collector(self.name, self.licence, self.folder)
        self.read(split, collector)
        return collector.index()

    def askable(self, split: str) -> Index:
        """What of the index can be asked: all of it, unless a source knows better."""
        return self.index(split)

    def records(self, limit: int | None = None, seed: int = 0, split: str = "test") -> Records:
        """A seeded sample of `limit` records (all when None, in file order), images opened.

        An image that cannot be opened is skipped and listed, and the sample drawn on until it is full.

        Raises:
            UserError: if nothing usable is left.
        """
        index = self.askable(split)
        places = [(group, number) for group in index.groups for number in range(len(group.drafts))]
        if limit is not None and limit < len(places):
            random.Random(f"{self.name}:{seed}").shuffle(places)
        chosen = Records(rejected=index.rejected, note=index.note)
        opened: dict[str, list[Record] | None] = {}
        for group, number in places:
            if limit is not None and len(chosen) == limit:
                break
            if group.name not in opened:
                opened[group.name] = self._open(group, split, chosen.rejected)
            records = opened[group.name]
            if records is not None:
                chosen.append(records[number])
        if not chosen:
            first = f"; the first: {chosen.rejected[0].reason}" if chosen.rejected else ""
            raise UserError(f"{self.name} in {self.folder}: no usable record ({len(chosen.rejected)} rejected{first})")
        return chosen

    @staticmethod
    def _open(group: ImageGroup, split: str, rejected: list[Rejected]) -> list[Record] | None:
        try:
            return group.records(split)
        except UserError as error:
            rejected.append(Rejected(group.source, group.item, str(error), len(group.drafts)))
            return None


def find_source(kind: type[LocalSource], data_dir: Path, split: str) -> LocalSource | None:
    """The source in `data_dir`, which holds one folder per data set or is that folder itself; None if it is missing.

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


def read_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        UserError: if it cannot be read or is not JSON; the message names the file and the place.
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
        where = f"a list under {key!r}" if key else "a list"
        raise UserError(f"{path}: {where} was expected")
    return value


def iter_json_list(path: Path) -> Iterator[object]:
    """The entries of a file that holds one JSON list, in the memory of one entry and `JSON_CHUNK` characters.

    Raises:
        UserError: if the file cannot be read, is no list, or is broken somewhere; what stands before that was given.
    """
    try:
        with open(path, encoding="utf-8-sig") as handle:
            yield from _Pieces(handle).entries()
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a JSON list ({error})") from error


class _Pieces:
    """A JSON list, read a piece at a time; what lies before `place` was given and goes with the next piece."""

    blanks = re.compile(r"[ \t\r\n]*")
    longest_entry = 64 * JSON_CHUNK

    def __init__(self, handle: TextIO):
        self.handle, self.text, self.place = handle, "", 0
        self.decode = json.JSONDecoder().raw_decode

    def entries(self) -> Iterator[object]:
        if self._sign() != "[":
            raise ValueError("a list was expected")
        self.place += 1
        if self._sign() == "]":
            return
        while True:
            yield self._value()
            sign = self._sign()
            if sign == "]":
                return
            if sign != ",":
                raise ValueError(f"',' or ']' was expected, not {self.text[self.place : self.place + 20]!r}")
            self.place += 1

    def _value(self) -> object:
        self._sign()
        while True:
            try:
                value, end = self.decode(self.text, self.place)
                behind = self._behind_blanks(end)
                # Without a comma or bracket behind it the value may go on in the next piece: "1" as "1.5".
                if self.text[behind : behind + 1] in (",", "]") or not self._more():
                    self.place = end
                    return value
            except ValueError:
                if len(self.text) - self.place > self.longest_entry or not self._more():
                    raise

    def _behind_blanks(self, place: int) -> int:
        found = self.blanks.match(self.text, place)
        assert found is not None, "no blanks match, too"
        return found.end()

    def _sign(self) -> str:
        """The next character that is not blank; `place` moves to it."""
        while True:
            self.place = self._behind_blanks(self.place)
            if self.place < len(self.text):
                return self.text[self.place]
            if not self._more():
                raise ValueError("the list does not end")

    def _more(self) -> bool:
        rest = self.text[self.place :]
        piece = self.handle.read(max(JSON_CHUNK, len(rest)))  # at least doubled, so that long entries are read quickly
        self.text, self.place = rest + piece, 0
        return bool(piece)


def iter_json_lines(path: Path, collector: Collector) -> Iterator[object]:
    """The entries of a file with one JSON value a line; a broken line is listed and left out.

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
    """How a list of rejected things names an entry by its image or number, whatever these are."""
    one = item[0] if isinstance(item, list) and len(item) == 1 else item
    plain = isinstance(one, (str, int)) and not isinstance(one, bool) and one != ""
    return str(one).encode(errors="replace").decode() if plain else "entry without image"
