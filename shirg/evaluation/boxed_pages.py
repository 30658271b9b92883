"""Real pages whose words have boxes, for counting what a selection keeps of them and for reading them one by one.

Sets that mark lines are cut into words where the transcript has spaces, each character as wide as the others of its line:
good to a fraction of a character.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
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
"""ICDAR's transcript of what nobody could read."""


@dataclass(frozen=True)
class BoxedPage:
    """A page image and its words."""

    name: str
    image: Image.Image
    boxes: tuple[Box, ...]
    """Left, top, right, bottom in pixels of `image`."""
    texts: tuple[str, ...]
    """What stands in every box, without spaces."""


BoxedWord = tuple[str, Box]


@dataclass(frozen=True)
class _Layout:
    folder: str
    pattern: str
    image: str
    """Path of the image, from the set's folder: "{stem}" is the annotation's, "{part}" the folder two above it."""
    read: Callable[[Path], list[BoxedWord]]


def split_line(box: Box, text: str) -> Iterator[BoxedWord]:
    """A line's words with their boxes, by the share of its characters that they and the spaces before them take."""
    line = text.strip()
    left, top, right, bottom = box
    place = 0
    for word in line.split():
        start = line.index(word, place)
        place = start + len(word)
        step = (right - left) / len(line)
        yield word, (left + step * start, top, left + step * place, bottom)


def _read_corners(path: Path) -> list[BoxedWord]:
    """Rows of eight numbers, four corners, and a transcript that may hold commas (SROIE, ICDAR 2015)."""
    words: list[BoxedWord] = []
    for row in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        *corners, text = row.split(",", 8)
        if len(corners) != 8 or text.strip() == ILLEGIBLE:
            continue
        xs, ys = [float(x) for x in corners[::2]], [float(y) for y in corners[1::2]]
        words += split_line((min(xs), min(ys), max(xs), max(ys)), text)
    return words


def _read_form(path: Path) -> list[BoxedWord]:
    """FUNSD: entities of words."""
    read: Any = read_json(path)
    form = read.get("form", []) if isinstance(read, dict) else []
    words = [word for entity in form for word in entity["words"]]
    return [(word["text"].strip(), tuple(word["box"])) for word in words if word["text"].strip()]


def _read_chart(path: Path) -> list[BoxedWord]:
    """OpenCQA: lines that an OCR engine found, left, top, right, bottom whatever the set's own description says."""
    lines: Any = read_json(path)
    return [word for line in lines for word in split_line(tuple(line["bounding_box"]), line["sentence"])]


LAYOUTS = {
    "sroie": _Layout("sroie", "box/*.csv", "img/{stem}.jpg", _read_corners),
    "funsd": _Layout("funsd", "*/annotations/*.json", "{part}/images/{stem}.png", _read_form),
    "icdar2015": _Layout("icdar2015_incidental", "Gts/gt_*.txt", "Imgs/{stem}.jpg", _read_corners),
    "opencqa": _Layout("opencqa", "bboxes/*.json", "chart_images/{stem}.png", _read_chart),
}
"""Set -> where its files are."""


def boxed_pages(data_dir: Path, name: str, limit: int | None = None, seed: int = 0) -> list[BoxedPage]:
    """Pages of one set in a seeded order, those without a word left out.

    Args:
        data_dir: folder that holds one folder per set.
        name: one of `LAYOUTS`.
        limit: most pages; all when None.
        seed: of the order. A smaller limit gives the first pages of a larger one.

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
        words = layout.read(path)
        if words:
            texts, boxes = zip(*words, strict=True)
            stem, part = path.stem.removeprefix("gt_"), path.parent.parent.name
            shown = folder / layout.image.format(stem=stem, part=part)
            pages.append(BoxedPage(f"{name}/{stem}", open_image(read_bytes(shown), str(shown)), boxes, texts))
    if not pages:
        raise UserError(f"{folder}: no page with word boxes ({layout.pattern})")
    return pages
