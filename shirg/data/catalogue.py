"""All questions of all sources on the disk, grouped by image, so that memory does not grow with their text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shirg.data.sources.base import TWICE, Collector, Draft, ImageGroup, LocalSource, Rejected

ROWS = 10_000
"""Questions that are in memory while the annotation files are read."""


@dataclass(frozen=True)
class Origin:
    """A source of the catalogue: which part it is of, and what every record of it says."""

    part: str
    name: str
    licence: str
    root: Path


class Catalogue:
    """Questions by number, images ("groups") by number with the questions about each.

    Attributes:
        origins: the sources.
        rejected: entries that cannot be used, in reading order.
        starts: `rows[starts[g] : starts[g + 1]]` are the questions about image g; [G + 1].
        origin: number of the source of every image; [G].
        digest: changes with any question, answer or image name (not with the images themselves).
    """

    def __init__(self, path: Path, origins: list[Origin], rejected: list[Rejected], keys: Keys):
        """Groups the questions in the file; see `CatalogueWriter.close`."""
        import pyarrow as pa

        self.origins, self.rejected = origins, list(rejected)
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batch: tuple[int, Any] = (-1, None)
        question, image, origin = keys.arrays()
        self.digest = hashlib.sha256(question.tobytes() + repr(origins).encode()).hexdigest()
        kept = np.sort(np.unique(question, return_index=True)[1])
        for row in np.setdiff1d(np.arange(len(question)), kept, assume_unique=True).tolist():
            self.rejected.append(Rejected(origins[origin[row]].name, self._cell(row, "name"), TWICE))
        _, first, code = np.unique(image[kept], return_index=True, return_inverse=True)
        place = np.empty(len(first), dtype=np.int64)
        place[np.argsort(first)] = np.arange(len(first))  # images in the order in which they are first asked about
        code = place[code]
        self.rows = kept[np.argsort(code, kind="stable")]
        self.starts = np.concatenate(([0], np.cumsum(np.bincount(code, minlength=len(first))))).astype(np.int64)
        self.origin = origin[self.rows[self.starts[:-1]]]

    def part(self, name: str) -> np.ndarray:
        """Numbers of the part's images, in reading order."""
        return np.flatnonzero(np.isin(self.origin, [n for n, o in enumerate(self.origins) if o.part == name]))

    @property
    def counts(self) -> np.ndarray:
        """How many questions there are about every image; [G]."""
        return np.diff(self.starts)

    def name(self, number: int) -> str:
        """File name of image `number`, relative to its source's root."""
        return self._cell(int(self.rows[self.starts[number]]), "name")

    def group(self, number: int) -> ImageGroup:
        """Image `number` with its questions."""
        rows = self.rows[self.starts[number] : self.starts[number + 1]].tolist()
        origin = self.origins[self.origin[number]]
        drafts = tuple(
            Draft(self._cell(row, "question"), tuple(self._cell(row, "answers")), self._cell(row, "kind"))
            for row in rows
        )
        return ImageGroup(origin.name, origin.licence, origin.root, self.name(number), drafts)

    def _cell(self, row: int, column: str) -> Any:
        number, place = divmod(row, ROWS)
        if self._batch[0] != number:
            self._batch = (number, self._reader.get_batch(number))
        return self._batch[1].column(column)[place].as_py()


class Keys:
    """Of every question in 8 bytes each: what it is, which image it is about, whose it is."""

    def __init__(self) -> None:
        self._blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, rows: list[tuple[int, str, Draft]]) -> None:
        """Enters questions (number of the source, image, draft)."""
        question = np.array([_hash(repr(row)) for row in rows], dtype=np.int64)
        image = np.array([_hash(f"{origin}:{name}") for origin, name, _ in rows], dtype=np.int64)
        origin = np.array([origin for origin, _, _ in rows], dtype=np.int64)
        self._blocks.append((question, image, origin))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All three columns."""
        empty = np.zeros(0, dtype=np.int64)
        columns = zip(*self._blocks, strict=True) if self._blocks else ([empty],) * 3
        question, image, origin = (np.concatenate(column) for column in columns)
        return question, image, origin


class CatalogueWriter:
    """Reads sources into the file of a catalogue, `ROWS` questions in memory at a time."""

    def __init__(self, path: Path):
        """Begins the file."""
        import pyarrow as pa

        text = pa.string()
        self.path, self.keys = path, Keys()
        self.schema = pa.schema({"name": text, "question": text, "answers": pa.list_(text), "kind": text})
        self.file = pa.ipc.new_file(str(path), self.schema)
        self.origins: list[Origin] = []
        self.rejected: list[Rejected] = []
        self.waiting: list[tuple[int, str, Draft]] = []

    def read(self, part: str, source: LocalSource, split: str) -> int:
        """Adds all of a source's questions of a split to a part, and returns how many.

        Raises:
            UserError: if an annotation file cannot be read.
        """
        number = len(self.origins)
        self.origins.append(Origin(part, source.name, source.licence, source.folder.absolute()))
        sink = _Sink(self, number, source)
        source.read(split, sink)
        return sink.count

    def take(self, row: tuple[int, str, Draft]) -> None:
        """Adds one question."""
        self.waiting.append(row)
        if len(self.waiting) == ROWS:
            self._flush()

    def close(self) -> Catalogue:
        """Ends the file and opens it as a catalogue."""
        if self.waiting:
            self._flush()
        self.file.close()
        return Catalogue(self.path, self.origins, self.rejected, self.keys)

    def _flush(self) -> None:
        import pyarrow as pa

        columns = [
            [name for _, name, _ in self.waiting],
            [draft.question for _, _, draft in self.waiting],
            [list(draft.answers) for _, _, draft in self.waiting],
            [draft.kind for _, _, draft in self.waiting],
        ]
        self.file.write_batch(pa.record_batch(columns, schema=self.schema))
        self.keys.add(self.waiting)
        self.waiting = []


class _Sink(Collector):
    """A collector that passes everything on to the file."""

    def __init__(self, writer: CatalogueWriter, number: int, source: LocalSource):
        super().__init__(source.name, source.licence, source.folder)
        self.writer, self.number, self.count = writer, number, 0

    def take(self, name: str, draft: Draft) -> None:
        self.count += 1
        self.writer.take((self.number, name, draft))

    def reject(self, item: str, reason: str, records: int = 1) -> None:
        self.writer.rejected.append(Rejected(self.source, item, reason, records))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
