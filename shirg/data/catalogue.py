"""The questions of all sources in an Arrow file on disk, grouped by image, so that memory does not grow with their text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shirg.data.sources.base import DUPLICATE, Collector, Draft, ImageGroup, LocalSource, Rejected

ROWS = 10_000
"""Questions per record batch, and in memory while the annotation files are read."""


@dataclass(frozen=True)
class Origin:
    """A source in the catalogue. Its `repr` is part of `Catalogue.digest`."""

    part: str
    name: str
    licence: str
    root: Path


class Catalogue:
    """Questions about images. An image ("group") has a number, and so has a question.

    Attributes:
        origins: the sources.
        rejected: unusable entries, in reading order.
        origin: index into `origins` of each image; [G].
        counts: questions about each image; [G].
        digest: changes with any question, answer or image name (not with image files).
    """

    def __init__(
        self,
        path: Path,
        origins: list[Origin],
        rejected: list[Rejected],
        question: np.ndarray,
        image: np.ndarray,
        origin: np.ndarray,
    ):
        """Group the questions of a file.

        Args:
            path: made by `CatalogueWriter`.
            origins: the sources.
            rejected: unusable entries so far; duplicate questions are added.
            question: hash of each question with its answers and image; [Q].
            image: hash of each question's image; [Q].
            origin: index into `origins` of each question; [Q].
        """
        import pyarrow as pa

        self.origins, self.rejected = origins, list(rejected)
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batch: tuple[int, Any] = (-1, None)
        self.digest = hashlib.sha256(question.tobytes() + repr(origins).encode()).hexdigest()
        kept = np.sort(np.unique(question, return_index=True)[1])
        for row in np.setdiff1d(np.arange(len(question)), kept, assume_unique=True).tolist():
            self.rejected.append(Rejected(origins[origin[row]].name, self._cell(row, "name"), DUPLICATE))
        _, first, code = np.unique(image[kept], return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        rank[np.argsort(first)] = np.arange(len(first))  # images in the order of their first question
        code = rank[code]
        self.counts = np.bincount(code, minlength=len(first))
        self._rows = kept[np.argsort(code, kind="stable")]  # questions of image g: _rows[_starts[g] : _starts[g + 1]]
        self._starts = np.concatenate(([0], np.cumsum(self.counts))).astype(np.int64)
        self.origin = origin[self._rows[self._starts[:-1]]]

    def part(self, name: str) -> np.ndarray:
        """Numbers of the part's images, in reading order."""
        return np.flatnonzero(np.isin(self.origin, [n for n, o in enumerate(self.origins) if o.part == name]))

    def name(self, number: int) -> str:
        """File name of an image, relative to its source's root."""
        return self._cell(int(self._rows[self._starts[number]]), "name")

    def item(self, number: int) -> tuple[str, str]:
        """Source and file name of an image."""
        return self.origins[self.origin[number]].name, self.name(number)

    def group(self, number: int) -> ImageGroup:
        """An image with its questions."""
        rows = self._rows[self._starts[number] : self._starts[number + 1]].tolist()
        origin = self.origins[self.origin[number]]
        drafts = tuple(
            Draft(self._cell(row, "question"), tuple(self._cell(row, "answers")), self._cell(row, "kind"))
            for row in rows
        )
        return ImageGroup(origin.name, origin.licence, origin.root, self.name(number), drafts)

    def _cell(self, row: int, column: str) -> Any:
        number, offset = divmod(row, ROWS)
        if self._batch[0] != number:
            self._batch = (number, self._reader.get_batch(number))
        return self._batch[1].column(column)[offset].as_py()


class CatalogueWriter:
    """Reads sources into the file of a catalogue, `ROWS` questions in memory at a time."""

    def __init__(self, path: Path):
        import pyarrow as pa

        text = pa.string()
        self.path = path
        self.schema = pa.schema({"name": text, "question": text, "answers": pa.list_(text), "kind": text})
        self.file = pa.ipc.new_file(str(path), self.schema)
        self.origins: list[Origin] = []
        self.rejected: list[Rejected] = []
        self.waiting: list[tuple[int, str, Draft]] = []
        self.keys: list[np.ndarray] = []

    def read(self, part: str, source: LocalSource, split: str) -> int:
        """Add a source's questions of a split to a part; returns how many.

        Raises:
            UserError: if an annotation file cannot be read.
        """
        collector = _CatalogueCollector(self, len(self.origins), source)
        self.origins.append(Origin(part, source.name, source.licence, source.folder.absolute()))
        source.read(split, collector)
        return collector.count

    def take(self, row: tuple[int, str, Draft]) -> None:
        """Add one question: index of its source, image name, question and answers."""
        self.waiting.append(row)
        if len(self.waiting) == ROWS:
            self._flush()

    def close(self) -> Catalogue:
        """Complete the file and open it."""
        if self.waiting:
            self._flush()
        self.file.close()
        keys = np.concatenate([np.zeros((3, 0), dtype=np.int64), *self.keys], axis=1)
        return Catalogue(self.path, self.origins, self.rejected, *keys)

    def _flush(self) -> None:
        import pyarrow as pa

        rows, self.waiting = self.waiting, []
        columns = [
            [name for _, name, _ in rows],
            [draft.question for _, _, draft in rows],
            [list(draft.answers) for _, _, draft in rows],
            [draft.kind for _, _, draft in rows],
        ]
        self.file.write_batch(pa.record_batch(columns, schema=self.schema))
        keys = [(_hash(repr(row)), _hash(f"{row[0]}:{row[1]}"), row[0]) for row in rows]
        self.keys.append(np.array(keys, dtype=np.int64).T)


class _CatalogueCollector(Collector):
    """Passes questions and rejected entries to the writer."""

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
