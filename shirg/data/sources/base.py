"""What every source gives: questions grouped by image, and a list of what it could not use."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from shirg.data.images import as_png_or_jpeg, read_bytes, safe_relative
from shirg.data.records import Record, image_id
from shirg.errors import UserError


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
        name = image_id(data)
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


class Collector:
    """Gathers a source's entries into an `Index`; whatever is wrong with one becomes a reason in its list."""

    def __init__(self, source: str, licence: str, root: Path):
        self.source, self.licence, self.root = source, licence, root
        self._drafts: dict[str, list[Draft]] = {}
        self._rejected: list[Rejected] = []

    def add(self, folder: Path, name: object, question: object, answers: object, kind: str = "") -> None:
        """Adds one question about the image `folder / name`; `folder` lies in the root."""
        try:
            path = folder / safe_relative(_text(name, "image name"))
            draft = Draft(_text(question, "question"), _texts(answers), kind)
        except UserError as error:
            item = str(name) if isinstance(name, (str, int)) else "entry without image"
            self.reject(item.encode(errors="replace").decode(), str(error))
            return
        self._drafts.setdefault(path.relative_to(self.root).as_posix(), []).append(draft)

    def reject(self, item: str, reason: str) -> None:
        """Lists an entry that cannot be used."""
        self._rejected.append(Rejected(self.source, item, reason))

    def index(self) -> Index:
        """Everything gathered so far."""
        groups = [
            ImageGroup(self.source, self.licence, self.root, name, tuple(drafts))
            for name, drafts in self._drafts.items()
        ]
        return Index(groups, self._rejected)


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

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    @abstractmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether `folder` has this source's files for `split` (`train` or `test`)."""

    @abstractmethod
    def index(self, split: str = "test") -> Index:
        """Reads the annotation files, not the images.

        Raises:
            UserError: if an annotation file cannot be read.
        """

    def records(self, limit: int | None = None, seed: int = 0, split: str = "test") -> Records:
        """A seeded sample of `limit` records (all when None, in file order), images opened.

        An image that cannot be opened is skipped and listed, and the sample drawn on until it is full.

        Raises:
            UserError: if nothing usable is left.
        """
        index = self.index(split)
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


def fields(entry: object) -> dict[str, object]:
    """`entry` if it is a JSON object, else an object without fields, which is then rejected for what it lacks."""
    return entry if isinstance(entry, dict) else {}


def _text(value: object, what: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise UserError(f"{what} is missing or empty")
    return _writable(str(value).strip(), what)


def _texts(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    texts = [str(item).strip() for item in values if isinstance(item, (str, int, float)) and str(item).strip()]
    if not texts:
        raise UserError("answer is missing or empty")
    return tuple(_writable(text, "answer") for text in texts)


def _writable(text: str, what: str) -> str:
    """JSON can spell halves of a surrogate pair, which neither a path nor a Parquet file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} holds half a character ({error.reason})") from error
    return text
