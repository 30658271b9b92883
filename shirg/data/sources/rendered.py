"""Rendered pages: training data that needs no files, and the two embedded evaluation sets."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from shirg.data.images import encode_png
from shirg.data.pages import Page
from shirg.data.records import Record, image_id
from shirg.data.render import KINDS, render_page
from shirg.data.sources.base import Draft, ImageGroup, Records

LICENCE = "Apache-2.0"
SEEDS_PER_RUN = 10_000_000
"""Pages per seed of a preparation; seeds share no page."""

RECORDS_PER_SLOT = 8
"""Records per slot of the series, so that any record can be rendered without those before it."""

SPARE_PAGES = 5_000_000
"""Offset of the spare pages, which complete slots whose page has too few questions."""


@dataclass(frozen=True, slots=True)
class RenderedPages:
    """An endless series of pages for training; kinds alternate.

    Attributes:
        seed: of the series; series of different seeds share no page.
        size: side of the square pages, pixels.
        text_px: smallest and largest font size, pixels of the page.
        split: `train` or `validation`: their texts come from separate lists.
        kinds: of pages.
    """

    seed: int = 0
    size: int = 672
    text_px: tuple[float, float] = (6.0, 28.0)
    split: str = "train"
    kinds: tuple[str, ...] = KINDS

    name = "rendered"
    licence = LICENCE

    def page_records(self, number: int) -> list[Record]:
        """All questions about page `number` of the series."""
        kind = self.kinds[number % len(self.kinds)]
        page = render_page(
            kind, self.seed * SEEDS_PER_RUN + number, size=self.size, text_px=self.text_px, split=self.split
        )
        return records_of_page(page, self.name, self.split)

    def slot_records(self, number: int) -> list[Record]:
        """`RECORDS_PER_SLOT` records about page `number`; fewer than one slot in ten needs a spare page."""
        records, page = self.page_records(number), number
        while len(records) < RECORDS_PER_SLOT:
            page += SPARE_PAGES
            records += self.page_records(page)
        return records[:RECORDS_PER_SLOT]

    def records(self, limit: int | None = None, seed: int = 0) -> Iterator[Record]:
        """The first `limit` records of series `seed` (endless when None)."""
        series = RenderedPages(seed, self.size, self.text_px, self.split, self.kinds)
        pages = (series.page_records(number) for number in itertools.count())
        return itertools.islice(itertools.chain.from_iterable(pages), limit)


@dataclass(frozen=True, slots=True)
class EmbeddedSet:
    """An evaluation set rendered on demand from the held-out split: the same pages on every machine.

    By default text is 8 to 16 pixels high at 672.

    Attributes:
        name: `documents` or `charts`.
        kinds: of pages, equally frequent.
        pages_per_kind: how many pages of each kind the whole set has.
        questions_per_page: at most so many questions of one page are asked, so that a sample sees many pages.
        text_px: smallest and largest font size, pixels of the page.
        size: side of the square pages, pixels.
    """

    name: str
    kinds: tuple[str, ...]
    pages_per_kind: int = 100
    questions_per_page: int = 4
    text_px: tuple[float, float] = (8.0, 16.0)
    size: int = 672

    @property
    def licence(self) -> str:
        """Of the pages."""
        return LICENCE

    def records(self, limit: int | None = None, seed: int = 0) -> Records:
        """`limit` records of the set (all when None), balanced over kinds; `seed` picks which pages.

        A limit that the number of kinds does not divide gives the first kinds one record more.
        """
        shares = [None] * len(self.kinds) if limit is None else _shares(limit, len(self.kinds))
        by_kind = [
            list(itertools.islice(self._records_of_kind(kind, None if limit is None else seed), share))
            for kind, share in zip(self.kinds, shares, strict=True)
        ]
        rounds = itertools.zip_longest(*by_kind)  # any beginning of the list is balanced too
        return Records(record for one in rounds for record in one if record is not None)

    def _records_of_kind(self, kind: str, seed: int | None) -> Iterator[Record]:
        pages = list(range(self.pages_per_kind))
        if seed is not None:
            random.Random(f"{self.name}:{kind}:{seed}").shuffle(pages)
        for number in pages:
            page = render_page(kind, number, size=self.size, text_px=self.text_px, split="heldout")
            asked = records_of_page(page, self.name, "test")
            random.Random(f"{self.name}:{kind}:page {number}").shuffle(asked)
            yield from asked[: self.questions_per_page]


EMBEDDED = {
    "documents": EmbeddedSet("documents", ("document", "receipt", "form", "table")),
    "charts": EmbeddedSet("charts", ("bar", "line", "pie")),
}


def records_of_page(page: Page, source: str, split: str) -> list[Record]:
    """One record per question of a page; they share the PNG bytes. `kind` is the page's."""
    data = encode_png(page.image)
    drafts = tuple(Draft(question.question, question.answers, page.kind) for question in page.questions)
    group = ImageGroup(source, LICENCE, Path(), f"{split}-{page.kind}-{page.seed}", drafts)
    records = group.records_from(data, image_id(data), page.image.size, split)
    return [replace(record, text_px=q.text_px) for record, q in zip(records, page.questions, strict=True)]


def _shares(total: int, parts: int) -> list[int]:
    share, rest = divmod(total, parts)
    return [share + (place < rest) for place in range(parts)]
