"""Worker tasks that turn a `SplitPlan` into records: read, convert or render images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from shirg.data.catalogue import Catalogue
from shirg.data.image_scan import CHUNK, sha256_of_row
from shirg.data.images import read_bytes, within
from shirg.data.records import Record, image_id
from shirg.data.sources.base import ImageGroup
from shirg.data.sources.rendered import RECORDS_PER_SLOT, RenderedPages
from shirg.data.splits import Segment, SplitPlan
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


Tasks: TypeAlias = "list[ImageTask | PageTask]"


@dataclass(frozen=True)
class RecordBuilder:
    """Builds the records of tasks; runs in a worker process.

    Attributes:
        link: store paths instead of image files where the file is kept unchanged.
        max_side: longer side, pixels, above which an image is shrunk.
    """

    link: bool
    max_side: int

    def __call__(self, tasks: Tasks) -> list[Record] | str:
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
                data, *shape = within(data, self.max_side, str(path))
                size = (shape[0], shape[1])
            records = task.group.records_from(data, image_id(data), size, task.split)
        return records[task.first : task.last]


def record_tasks(
    plan: SplitPlan, catalogue: Catalogue, pages: Callable[[str], RenderedPages], split: str, start: int, stop: int
) -> Iterator[Tasks]:
    """Chunks of work for records `start` to `stop` of a split; `pages` gives the rendered series of a split."""
    for segment, first, last in plan.pieces(split, start, stop):
        if segment.groups is not None:
            yield from _image_tasks(segment, catalogue, split, first, last)
            continue
        for slot in range(first // RECORDS_PER_SLOT, -(-last // RECORDS_PER_SLOT)):
            begin = slot * RECORDS_PER_SLOT
            yield [PageTask(pages(split), slot, max(first - begin, 0), min(last - begin, RECORDS_PER_SLOT))]


def _image_tasks(segment: Segment, catalogue: Catalogue, split: str, first: int, last: int) -> Iterator[Tasks]:
    groups, ends, rows = segment.groups, segment.ends, segment.rows
    assert groups is not None and ends is not None and rows is not None, "a segment of rendered pages has no images"
    chunk: Tasks = []
    index = int(np.searchsorted(ends, first, side="right"))
    while index < len(ends) and (begin := int(ends[index - 1]) if index else 0) < last:
        row, bounds = rows[index], (max(first - begin, 0), min(last, int(ends[index])) - begin)
        size = (int(row["width"]), int(row["height"]))
        group = catalogue.group(int(groups[index]))
        chunk.append(ImageTask(group, split, *bounds, sha256_of_row(row), size, bool(row["kept"])))
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
        index += 1
    if chunk:
        yield chunk
