"""In which order which records go into a prepared data set, in exact numbers, from any point on."""

from __future__ import annotations

import copy
import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from shirg.data.records import Record
from shirg.data.sources.base import ImageGroup, Index, Rejected
from shirg.data.sources.rendered import RenderedPages
from shirg.errors import UserError

PARTS = ("base", "ocr", "rendered")


@dataclass(frozen=True)
class Segment:
    """A run of records of one split from one part: `quota` of them, or what the split still lacks when None."""

    split: str
    part: str
    quota: int | None


@dataclass
class Composition:
    """What the data set is made of. Groups are in their seeded order; pages are rendered where groups do not suffice.

    Attributes:
        groups: images of the two real parts.
        pages: the renderer's series.
        totals: records per split.
        segments: the runs of records, validation first.
    """

    groups: dict[str, list[ImageGroup]]
    pages: RenderedPages
    totals: dict[str, int]
    segments: tuple[Segment, ...]

    def digest(self) -> str:
        """Changes with any question, image name or number in it (not with the images themselves)."""
        state = hashlib.sha256()
        for part in sorted(self.groups):
            for group in self.groups[part]:
                state.update(repr((part, group.source, group.name, group.drafts)).encode())
        state.update(repr((self.pages, self.totals, self.segments)).encode())
        return state.hexdigest()


@dataclass
class Progress:
    """How far the stream of records has come; what a continued run needs to know.

    Attributes:
        segment: number of the current segment.
        taken: records taken from it.
        positions: next group (or page) of every part.
        question: records already taken of that group.
        records: per split.
        images: per split.
        sources: records per source.
        rejected: how many entries of the list of rejected things belong to the stream so far.
    """

    segment: int = 0
    taken: int = 0
    positions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    question: int = 0
    records: dict[str, int] = field(default_factory=lambda: {"train": 0, "validation": 0})
    images: dict[str, int] = field(default_factory=lambda: {"train": 0, "validation": 0})
    sources: dict[str, int] = field(default_factory=dict)
    rejected: int = 0

    def copy(self) -> Progress:
        """A state of its own."""
        return copy.deepcopy(self)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `Progress(**...)` reads it back."""
        return asdict(self)


def compose(
    base: Iterable[Index],
    ocr: Iterable[Index],
    sizes: tuple[int, int],
    fraction: float,
    seed: int,
    pages: RenderedPages,
) -> Composition:
    """Decides how many records of each split come from which part.

    The validation split takes the same share of real and of rendered records. A part with fewer records than asked is
    filled by the renderer.

    Args:
        base: of the base part; `ocr` likewise.
        ocr: of the OCR part.
        sizes: records asked of the base and of the OCR part.
        fraction: of all records that go into validation (at least one record unless 0).
        seed: of the order in which images are drawn.
        pages: the renderer's series for training.
    """
    groups = {"base": [g for index in base for g in index.groups], "ocr": [g for index in ocr for g in index.groups]}
    for part in ("base", "ocr"):
        random.Random(f"{part}:{seed}").shuffle(groups[part])
    real = {part: min(size, _num_records(groups[part])) for part, size in zip(("base", "ocr"), sizes, strict=True)}
    total = sum(sizes)
    held = min(max(round(fraction * total), 1), total - 1) if fraction else 0
    # Rounded as a running sum, so that together they are neither more than `held` nor leave training more than its share.
    held_base = round(held * real["base"] / total)
    held_real = {"base": held_base, "ocr": round(held * sum(real.values()) / total) - held_base}
    segments = (
        *(Segment("validation", part, held_real[part]) for part in real),
        Segment("validation", "rendered", None),
        *(Segment("train", part, real[part] - held_real[part]) for part in real),
        Segment("train", "rendered", None),
    )
    return Composition(groups, pages, {"train": total - held, "validation": held}, segments)


class RecordStream:
    """The records of a composition in order. `progress` and `rejected` always belong to the record given last."""

    def __init__(
        self,
        composition: Composition,
        progress: Progress,
        rejected: list[Rejected],
        held_images: set[str],
        num_workers: int,
    ):
        """Continues at `progress`.

        Args:
            composition: what to give.
            progress: where to begin; taken over and moved on.
            rejected: the list so far; taken over and added to.
            held_images: ids of the validation images given before; training never shows one of them.
            num_workers: processes that open and render images; 0 does it in this one. The records are the same.
        """
        self.composition, self.progress, self.rejected = composition, progress, rejected
        self.held_images, self.num_workers = held_images, num_workers

    def __iter__(self) -> Iterator[Record]:
        segments = self.composition.segments
        while self.progress.segment < len(segments):
            yield from self._segment_records(segments[self.progress.segment])
            self.progress.segment += 1
            self.progress.taken = 0

    def _segment_records(self, segment: Segment) -> Iterator[Record]:
        progress, wanted = self.progress, self._num_wanted(segment)
        if wanted <= 0:
            return
        for result in self._opened(segment):
            records = self._unseen(result, segment)
            for number in range(progress.question, len(records)):
                wanted -= 1
                # The state moves before the record is given: whoever holds the record may stop and continue from here.
                self._count(records[number], segment.split, new_image=number == 0)
                progress.question = number + 1
                if not wanted or progress.question == len(records):
                    self._next_group(segment.part)  # what is left of a group is dropped: its image is on this side now
                yield records[number]
                if not wanted:
                    return

    def _num_wanted(self, segment: Segment) -> int:
        if segment.quota is not None:
            return segment.quota - self.progress.taken
        return self.composition.totals[segment.split] - self.progress.records[segment.split]

    def _opened(self, segment: Segment) -> Iterator[list[Record] | Rejected]:
        """The groups of a segment from the current one on, opened in workers, in order."""
        import torch
        from torch.utils.data import DataLoader

        start = self.progress.positions[segment.part]
        if segment.part == "rendered":
            pages = replace(self.composition.pages, split=segment.split)
            opener, numbers = _PageOpener(pages), itertools.count(start)
        else:
            groups = self.composition.groups[segment.part]
            opener, numbers = _GroupOpener(groups, segment.split), iter(range(start, len(groups)))
        loader = DataLoader(  # hands work out in order and a bounded stretch ahead, which an endless series needs
            opener,
            batch_size=None,
            sampler=numbers,
            num_workers=self.num_workers,
            collate_fn=_same,
            generator=torch.Generator(),  # else it draws from the global one, and preparing would change the training
        )
        return iter(loader)

    def _unseen(self, result: list[Record] | Rejected, segment: Segment) -> list[Record]:
        """The records of an opened group, or none (and the next group) if it cannot be used."""
        if isinstance(result, list) and result:
            image = result[0].image_id
            if segment.split == "validation":
                self.held_images.add(image)
            elif image in self.held_images:
                name = result[0].id.rpartition(":")[0].partition(":")[2]
                result = Rejected(result[0].source, name, "the same image is in the validation split", len(result))
        if isinstance(result, Rejected):
            self.rejected.append(result)
            self.progress.rejected = len(self.rejected)
        if isinstance(result, Rejected) or not result:
            self._next_group(segment.part)
            return []
        return result

    def _next_group(self, part: str) -> None:
        self.progress.positions[part] += 1
        self.progress.question = 0

    def _count(self, record: Record, split: str, new_image: bool) -> None:
        progress = self.progress
        progress.taken += 1
        progress.records[split] += 1
        progress.images[split] += new_image
        progress.sources[record.source] = progress.sources.get(record.source, 0) + 1


@dataclass(frozen=True)
class _GroupOpener:
    groups: list[ImageGroup]
    split: str

    def __getitem__(self, number: int) -> list[Record] | Rejected:
        group = self.groups[number]
        try:
            return group.records(self.split)
        except UserError as error:
            return Rejected(group.source, group.item, str(error), len(group.drafts))


@dataclass(frozen=True)
class _PageOpener:
    pages: RenderedPages

    def __getitem__(self, number: int) -> list[Record]:
        return self.pages.page_records(number)


def _same(value: Any) -> Any:
    return value


def _num_records(groups: list[ImageGroup]) -> int:
    return sum(len(group.drafts) for group in groups)
