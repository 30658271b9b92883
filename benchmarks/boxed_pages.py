"""Real pages with the boxes of their words or lines.

Data sets that annotate lines are split into words at the spaces of the transcript, with characters of equal width.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from shirg.data.images import read_bytes
from shirg.data.pages import Box
from shirg.data.sources.base import read_json
from shirg.errors import UserError
from shirg.images import open_image

ILLEGIBLE = "###"
"""ICDAR's transcript of illegible words."""


@dataclass(frozen=True)
class BoxedPage:
    """A page image and its words, or its lines of text."""

    name: str
    image: Image.Image
    boxes: tuple[Box, ...]
    """Left, top, right, bottom in pixels of `image`."""
    texts: tuple[str, ...]
    """The text in every box: a word without spaces, or a line."""


BoxedWord = tuple[str, Box]
Line = list[BoxedWord]
"""The words of one line of text, from left to right."""


@dataclass(frozen=True)
class _Layout:
    folder: str
    pattern: str
    image: str
    """Path of the image, from the set's folder: "{stem}" is the annotation's, "{part}" the folder two above it."""
    read: Callable[[Path], list[Line]]


def split_line(box: Box, text: str) -> Line:
    """A line's words with their boxes, at the share of its characters before and in each word."""
    line = text.strip()
    left, top, right, bottom = box
    place = 0
    words: Line = []
    for word in line.split():
        start = line.index(word, place)
        place = start + len(word)
        step = (right - left) / len(line)
        words.append((word, (left + step * start, top, left + step * place, bottom)))
    return words


def _read_corners(path: Path) -> list[Line]:
    """Rows of eight numbers, four corners, and a transcript that may hold commas (SROIE, ICDAR 2015)."""
    lines: list[Line] = []
    for row in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        *corners, text = row.split(",", 8)
        if len(corners) != 8 or text.strip() == ILLEGIBLE:
            continue
        xs, ys = [float(x) for x in corners[::2]], [float(y) for y in corners[1::2]]
        lines.append(split_line((min(xs), min(ys), max(xs), max(ys)), text))
    return lines


def _read_form(path: Path) -> list[Line]:
    """FUNSD: entities of words; a word that does not continue the previous word's line begins another."""
    read: Any = read_json(path)
    form = read.get("form", []) if isinstance(read, dict) else []
    lines: list[Line] = []
    for entity in form:
        line: Line = []
        for word in entity["words"]:
            text, box = word["text"].strip(), tuple(word["box"])
            if not text:
                continue
            if not line or not _continues(line[-1][1], box):
                line = []
                lines.append(line)
            line.append((text, box))
    return lines


def _continues(before: Box, box: Box) -> bool:
    """Whether `box` lies to the right of `before` and shares half of the lower one's height with it."""
    shared = min(before[3], box[3]) - max(before[1], box[1])
    return box[0] > before[0] and shared >= min(before[3] - before[1], box[3] - box[1]) / 2


def _read_chart(path: Path) -> list[Line]:
    """OpenCQA: lines of an OCR engine; boxes are left, top, right, bottom, unlike in the set's own description."""
    lines: Any = read_json(path)
    return [split_line(tuple(line["bounding_box"]), line["sentence"]) for line in lines]


LAYOUTS = {
    "sroie": _Layout("sroie", "box/*.csv", "img/{stem}.jpg", _read_corners),
    "funsd": _Layout("funsd", "*/annotations/*.json", "{part}/images/{stem}.png", _read_form),
    "icdar2015": _Layout("icdar2015_incidental", "Gts/gt_*.txt", "Imgs/{stem}.jpg", _read_corners),
    "opencqa": _Layout("opencqa", "bboxes/*.json", "chart_images/{stem}.png", _read_chart),
}
"""Set -> where its files are."""


def boxed_pages(
    data_dir: Path, name: str, limit: int | None = None, seed: int = 0, *, lines: bool = False
) -> list[BoxedPage]:
    """Pages with words of one data set, in a seeded order.

    Args:
        data_dir: folder that holds one folder per set.
        name: one of `LAYOUTS`.
        limit: most pages; all when None.
        seed: of the order. A smaller limit gives the first pages of a larger one.
        lines: boxes of lines, words joined by one space, instead of words.

    Raises:
        UserError: for an unknown set, or one that has no usable page.
    """
    if name not in LAYOUTS:
        raise UserError(f"set {name!r} has no reader of word boxes; there are {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    folder = data_dir / layout.folder
    files = sorted(folder.glob(layout.pattern))
    random.Random(f"{name}:{seed}").shuffle(files)
    pages: list[BoxedPage] = []
    for path in files:
        if limit is not None and len(pages) == limit:
            break
        found = [line for line in layout.read(path) if line]
        boxed = [_joined(line) for line in found] if lines else [word for line in found for word in line]
        if boxed:
            texts, boxes = zip(*boxed, strict=True)
            stem, part = path.stem.removeprefix("gt_"), path.parent.parent.name
            shown = folder / layout.image.format(stem=stem, part=part)
            pages.append(BoxedPage(f"{name}/{stem}", open_image(read_bytes(shown), str(shown)), boxes, texts))
    if not pages:
        raise UserError(f"{folder}: no page with word boxes ({layout.pattern})")
    return pages


def _joined(line: Line) -> BoxedWord:
    texts, boxes = zip(*line, strict=True)
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return " ".join(texts), (min(lefts), min(tops), max(rights), max(bottoms))
