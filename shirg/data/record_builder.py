"""Worker tasks that turn a `SplitPlan` into records: read, convert or render images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from shirg.data.catalogue import Catalogue
from shirg.data.image_scan import CHUNK, sha256_of_row
from shirg.data.images import read_bytes, shrunk
from shirg.data.records import Record, image_id
from shirg.data.sources.base import ImageGroup
from shirg.data.sources.rendered import RECORDS_PER_SLOT, RenderedPages
from shirg.data.splits import Split
from shirg.errors import UserError


@dataclass(frozen=True, slots=True)
class ImageTask:
    """Records `first` to `last` about one image file.

    Attributes:
        group: image and questions.
        sha256: checksum of the file at the scan.
        size: width and height at the scan, pixels.
        kept: whether the format is stored unchanged.
    """

    group: ImageGroup
    split: str
    first: int
    last: int
    sha256: str
    size: tuple[int, int]
    kept: bool


@dataclass(frozen=True, slots=True)
class PageTask:
    """Records `first` to `last` of one slot of rendered pages."""

    pages: RenderedPages
    slot: int
    first: int
    last: int


@dataclass(frozen=True)
class RecordBuilder:
    """Builds the records of tasks; runs in a worker process.

    Attributes:
        link: store paths instead of image files where the file is kept unchanged.
        max_side: longer side, pixels, above which an image is shrunk.
    """

    link: bool
    max_side: int

    def __call__(self, tasks: list[ImageTask | PageTask]) -> list[Record] | str:
        """The records of the tasks in order, or an error message: a worker's exception would carry its traceback."""
        try:
            return [record for task in tasks for record in self._records(task)]
        except UserError as error:
            return str(error)

    def _records(self, task: ImageTask | PageTask) -> list[Record]:
        if isinstance(task, PageTask):
            return task.pages.slot_records(task.slot)[task.first : task.last]
        path, size = task.group.root / task.group.name, task.size
        convert = not task.kept or max(size) > self.max_side
        if self.link and not convert:
            records = task.group.records_from(b"", task.sha256, size, task.split, str(path))
        else:
            data = read_bytes(path)
            if hashlib.sha256(data).hexdigest() != task.sha256:
                raise UserError(f"image {path}: changed since the scan; remove the output folder and start again")
            if convert:
                data, *shape = shrunk(data, self.max_side, str(path))
                size = (shape[0], shape[1])
            records = task.group.records_from(data, image_id(data), size, task.split)
        return records[task.first : task.last]


def record_tasks(
    split: Split, catalogue: Catalogue, pages: RenderedPages, start: int, stop: int
) -> Iterator[list[ImageTask | PageTask]]:
    """Chunks of work for records `start` to `stop` of a split; `pages` is its rendered series."""
    images = _image_tasks(split, catalogue, pages.split, start, min(stop, split.real))
    while chunk := list(islice(images, CHUNK)):
        yield [*chunk]
    first, last = max(start - split.real, 0), stop - split.real
    for slot in range(first // RECORDS_PER_SLOT, -(-last // RECORDS_PER_SLOT)):
        begin = slot * RECORDS_PER_SLOT
        yield [PageTask(pages, slot, max(first - begin, 0), min(last - begin, RECORDS_PER_SLOT))]


def _image_tasks(split: Split, catalogue: Catalogue, name: str, first: int, last: int) -> Iterator[ImageTask]:
    for index in range(int(np.searchsorted(split.ends, first, side="right")), len(split.ends)):
        begin = int(split.ends[index - 1]) if index else 0
        if begin >= last:
            return
        row, bounds = split.rows[index], (max(first - begin, 0), min(last, int(split.ends[index])) - begin)
        size = (int(row["width"]), int(row["height"]))
        group = catalogue.group(int(split.groups[index]))
        yield ImageTask(group, name, *bounds, sha256_of_row(row), size, bool(row["kept"]))
