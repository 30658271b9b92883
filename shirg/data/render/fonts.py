"""Faces (a font file at a size) with cached measures. The font files come with matplotlib."""

from __future__ import annotations

import functools
import importlib.util
import math
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TRAINING_FONTS: dict[str, tuple[str, str]] = {
    "sans": ("DejaVuSans", "DejaVuSans-Bold"),
    "serif": ("DejaVuSerif", "DejaVuSerif-Bold"),
    "mono": ("DejaVuSansMono", "DejaVuSansMono-Bold"),
    "stix": ("STIXGeneral", "STIXGeneralBol"),
}
"""Family -> (regular, bold) file names."""

HELD_OUT_FONTS: dict[str, tuple[str, str]] = {
    "cmss": ("cmss10", "cmss10"),
    "cmtt": ("cmtt10", "cmtt10"),
    "cmr": ("cmr10", "cmb10"),
}
"""Families that only pages of split "heldout" use, about a third of them. They hold ASCII, so pages keep to ASCII."""

HELD_OUT_SHARE = 1 / 3


@functools.lru_cache(maxsize=1)
def _folder() -> Path:
    # find_spec locates matplotlib without importing it, which would cost most of a second.
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None and spec.origin is not None, "matplotlib is a dependency"
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


@functools.lru_cache(maxsize=1024)
def _load(file: str, size: float) -> ImageFont.FreeTypeFont:
    # The basic layout engine adds advances and kerning only, several times faster than Raqm and enough for ASCII.
    return ImageFont.truetype(str(_folder() / f"{file}.ttf"), size, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=65536)
def _step(file: str, size: float, before: str, char: str) -> tuple[float, int, int]:
    """Advance of `char` after the character `before` (kerning included), and the ink's top and bottom."""
    font = _load(file, size)
    advance = font.getlength(before + char) - (font.getlength(before) if before else 0.0)
    _, top, _, bottom = font.getbbox(char, anchor="ls")
    return advance, int(top), int(bottom)


@functools.lru_cache(maxsize=32768)
def _measure(file: str, size: float, word: str) -> tuple[tuple[float, ...], int, int]:
    edges, tops, bottoms, before = [0.0], [], [], ""
    for char in word:
        advance, top, bottom = _step(file, size, before, char)
        edges.append(edges[-1] + advance)
        tops.append(top)
        bottoms.append(bottom)
        before = char
    return tuple(edges), min(tops), max(bottoms)


@functools.lru_cache(maxsize=16384)
def _mask(file: str, size: float, word: str) -> tuple[Image.Image, int, int]:
    """Coverage of `word` (mode "L"), and the position of its top left relative to the word's start on the baseline."""
    font = _load(file, size)
    left, top, right, bottom = font.getbbox(word, anchor="ls")
    mask = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), word, fill=255, font=font, anchor="ls")
    return mask, int(left), int(top)


@dataclass(frozen=True)
class Face:
    """A font file at a size in pixels (the em, in pixels of the page)."""

    file: str
    size: float

    @functools.cached_property
    def cap(self) -> int:
        """Height of a capital above the baseline, in pixels."""
        return -_measure(self.file, self.size, "H")[1]

    @functools.cached_property
    def space(self) -> int:
        """Width of the gap between words, in pixels."""
        return max(2, round(_load(self.file, self.size).getlength(" ")))

    @property
    def line(self) -> int:
        """Distance between baselines of running text, in pixels."""
        return round(1.35 * self.size + 0.5)

    def measure(self, word: str) -> tuple[tuple[float, ...], int, int]:
        """Character edges from 0, and the ink's top and bottom relative to the baseline (y grows downward)."""
        return _measure(self.file, self.size, word)

    def mask(self, word: str) -> tuple[Image.Image, int, int]:
        """Coverage of `word` (mode "L"), and its left and top relative to the word's start on the baseline."""
        return _mask(self.file, self.size, word)

    def width(self, text: str) -> int:
        """Width of `text` with its words one `space` apart, in pixels, rounded up."""
        words = text.split()
        return sum(math.ceil(self.measure(word)[0][-1]) for word in words) + self.space * (len(words) - 1)


def choose_family(rng: random.Random, split: str, *, monospace: float = 0.15) -> tuple[str, str]:
    """The (regular, bold) files of a page; `monospace` is the chance of a typewriter face."""
    if split == "heldout" and rng.random() < HELD_OUT_SHARE:
        return HELD_OUT_FONTS["cmtt"] if rng.random() < monospace else HELD_OUT_FONTS[rng.choice(("cmss", "cmr"))]
    if rng.random() < monospace:
        return TRAINING_FONTS["mono"]
    return TRAINING_FONTS[rng.choice(("sans", "sans", "serif", "stix"))]
