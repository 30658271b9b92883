"""From a plan to records: the work of the processes that read, convert and render images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from shirg.data.catalogue import Catalogue
from shirg.data.composition import Plan, Pool, Run
from shirg.data.images import read_bytes, within
from shirg.data.records import Record, image_id
from shirg.data.sources.base import ImageGroup
from shirg.data.sources.rendered import RECORDS_PER_SLOT, RenderedPages
from shirg.data.survey import sha256_of_row
from shirg.errors import UserError

CHUNK = 8
"""Images that a worker gets at once."""


@dataclass(frozen=True, slots=True)
class ImageTask:
    """Records `first` to `last` about one image file.

    Attributes:
        group: image and questions.
        sha256: of the file when it was looked at.
        size: its width and height, pixels.
        mode: `file` stores its bytes, `link` its path, `convert` what it is turned into.
    """

    group: ImageGroup
    first: int
    last: int
    sha256: str
    size: tuple[int, int]
    mode: str
    split: str


@dataclass(frozen=True, slots=True)
class SlotTask:
    """Records `first` to `last` of one slot of rendered pages."""

    pages: RenderedPages
    slot: int
    first: int
    last: int


@dataclass(frozen=True)
class Maker:
    """Makes the records of tasks; what a worker process needs to know of the configuration.

    Attributes:
        max_side: longer side above which an image is shrunk, pixels.
    """

    max_side: int

    def __call__(self, tasks: list[ImageTask | SlotTask]) -> list[Record] | str:
        """The records of the tasks in order, or what went wrong: an error would cross to another process as a novel."""
        try:
            return [record for task in tasks for record in self._records(task)]
        except UserError as error:
            return str(error)

    def _records(self, task: ImageTask | SlotTask) -> list[Record]:
        if isinstance(task, SlotTask):
            return task.pages.slot_records(task.slot)[task.first : task.last]
        path = task.group.root / task.group.name
        (width, height), linked = task.size, ""
        if task.mode == "link":
            data, name, linked = b"", task.sha256, str(path)
        else:
            data = read_bytes(path)
            if hashlib.sha256(data).hexdigest() != task.sha256:
                raise UserError(
                    f"image {path}: changed since it was looked at; remove the output folder and start again"
                )
            if task.mode == "convert":
                data, width, height = within(data, self.max_side, str(path))
            name = image_id(data)
        return task.group.records_from(data, name, (width, height), task.split, linked)[task.first : task.last]


class TaskList:
    """The tasks of any stretch of a plan's records."""

    def __init__(self, plan: Plan, pools: dict[str, Pool], catalogue: Catalogue, pages: Callable[[str], RenderedPages]):
        """`pages` gives the renderer's series of a split."""
        self.plan, self.catalogue, self.pages = plan, catalogue, pages
        self._tables = {part: (np.argsort(pool.groups), pool) for part, pool in pools.items()}

    def tasks(
        self, split: str, start: int, stop: int, mode: Callable[[np.void], str]
    ) -> Iterator[list[ImageTask | SlotTask]]:
        """Chunks of work for records `start` to `stop` of a split; `mode` says how an image is stored."""
        for run, first, last in self.plan.pieces(split, start, stop):
            if run.groups is None:
                yield from self._slots(split, first, last)
            else:
                yield from self._images(run, split, first, last, mode)

    def _slots(self, split: str, first: int, last: int) -> Iterator[list[ImageTask | SlotTask]]:
        pages = self.pages(split)
        for slot in range(first // RECORDS_PER_SLOT, -(-last // RECORDS_PER_SLOT)):
            begin = slot * RECORDS_PER_SLOT
            yield [SlotTask(pages, slot, max(first - begin, 0), min(last - begin, RECORDS_PER_SLOT))]

    def _images(
        self, run: Run, split: str, first: int, last: int, mode: Callable[[np.void], str]
    ) -> Iterator[list[ImageTask | SlotTask]]:
        assert run.groups is not None and run.ends is not None, "a run of rendered pages has no images"
        chunk: list[ImageTask | SlotTask] = []
        place = int(np.searchsorted(run.ends, first, side="right"))
        while place < len(run.ends) and (begin := int(run.ends[place - 1]) if place else 0) < last:
            end = int(run.ends[place])
            group, row = self.catalogue.group(int(run.groups[place])), self._row(int(run.groups[place]))
            size = (int(row["width"]), int(row["height"]))
            bounds = (max(first - begin, 0), min(last, end) - begin)
            chunk.append(ImageTask(group, *bounds, sha256_of_row(row), size, mode(row), split))
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
            place += 1
        if chunk:
            yield chunk

    def _row(self, group: int) -> np.void:
        for order, pool in self._tables.values():
            place = int(np.searchsorted(pool.groups, group, sorter=order))
            if place < len(order) and pool.groups[order[place]] == group:
                return pool.looks.table[order[place]]
        raise KeyError(group)


def stored_as(row: np.void, images: str, max_side: int) -> str:
    """How an image is stored: as the file it is, as a link to it, or converted."""
    if not row["kept"] or max(row["width"], row["height"]) > max_side:
        return "convert"
    return "link" if images == "link" else "file"
