"""The characters on every patch, which are the dense targets that teach the tower to read, and sheets of text to learn on.

With the answers to questions as the only targets, a tower does not learn to read in a laptop's time; with the characters of
every patch as targets it does in minutes. These targets exist because the recipe draws the pages.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from shirg.data.pages import Word
from shirg.data.render.fonts import TRAINING_FONTS, Face
from shirg.data.render.values import PRINTABLE, allowed, random_word

PATCH = 14
SLOTS = 4  # characters distinguished in one patch: an 8 px font puts three in it
CHARACTERS = PRINTABLE  # class 0 is blank, class c + 1 is CHARACTERS[c]
NUM_CLASSES = len(CHARACTERS) + 1
TILE_SHRINK = 672 / 768  # a page of 672 px is enlarged for LaViDa's tiles
MAX_INDEX = 16  # index of a character in its word; later ones share the last class
IGNORE = -100
LOOKALIKES = (
    "0OoDQ",
    "1lI|!i",
    "5S",
    "8B3",
    "2Zz",
    "6Gb",
    "9gq",
    "cC",
    "sS",
    "vVy",
    "wW",
    "xX",
    "uU",
    "kK",
    "pP",
    "rnm",
)
"""Groups of characters that a reader of small print confuses; "m" also looks like "rn"."""
_FILES = tuple(file for family in TRAINING_FONTS.values() for file in family)
_CLASS_OF = {character: number + 1 for number, character in enumerate(CHARACTERS)}


@dataclass
class GlyphTargets:
    """`characters` and `indices` are int64 [rows, cols, SLOTS]; blanks are 0 in the first and IGNORE in the second."""

    characters: np.ndarray
    indices: np.ndarray


def glyph_targets(words: Sequence[Word], rows: int, cols: int) -> GlyphTargets:
    """The characters whose centres lie in each patch of a rows x cols grid, left to right, and their index in the word.

    Boxes of `words` are in pixels of the view.
    """
    characters = np.zeros((rows, cols, SLOTS), np.int64)
    indices = np.full((rows, cols, SLOTS), IGNORE, np.int64)
    filled = np.zeros((rows, cols), np.int64)
    for word in words:
        for index, (character, place) in enumerate(zip(word.text, places(word, rows, cols), strict=True)):
            if place is None or character not in _CLASS_OF or filled[place] == SLOTS:
                continue
            row, col = place
            slot = filled[row, col]
            characters[row, col, slot] = _CLASS_OF[character]
            indices[row, col, slot] = min(index, MAX_INDEX - 1)
            filled[row, col] += 1
    return GlyphTargets(characters, indices)


def places(word: Word, rows: int, cols: int) -> list[tuple[int, int] | None]:
    """(row, column) of the patch in which each character of `word` has its centre; None outside the grid."""
    row = int((word.box[1] + word.box[3]) / 2 // PATCH)
    columns = [int((left + right) / 2 // PATCH) for left, right in itertools.pairwise(word.char_edges)]
    return [(row, col) if 0 <= row < rows and 0 <= col < cols else None for col in columns]


def moved(word: Word, scale: tuple[float, float], corner: tuple[float, float] = (0.0, 0.0)) -> Word:
    """`word` in pixels of a view whose (x, y) = page * scale - corner."""
    left, top, right, bottom = (edge * scale[side % 2] - corner[side % 2] for side, edge in enumerate(word.box))
    return Word(word.text, (left, top, right, bottom), tuple(x * scale[0] - corner[0] for x in word.char_edges))


def print_size(rng: random.Random, text_px: tuple[float, float]) -> float:
    """A size in `text_px`, log-uniform but for more weight on small print: half of the draws are in the lower third."""
    low, high = text_px
    return low * (high / low) ** (rng.random() ** 1.5)


def mistakable(text: str, rng: random.Random) -> str:
    """`text` with about half of its characters replaced by some that look like them."""
    return "".join(_lookalike(character, rng) if rng.random() < 0.5 else character for character in text)


def _lookalike(character: str, rng: random.Random) -> str:
    if character == "m" and rng.random() < 0.5:
        return "rn"
    groups = [group for group in LOOKALIKES if character in group]
    return rng.choice(rng.choice(groups)) if groups else character


def draw_sheet(seed: int, width: int, height: int, text_px: tuple[float, float]) -> tuple[Image.Image, list[Word]]:
    """Lines of random words in random sizes, faces, weights and colours.

    A third of the sheets are left as drawn. The others are drawn larger and shrunk, each side by its own factor, or drawn
    smaller and enlarged, as a page is in a base view and in tiles.
    """
    rng = random.Random(seed)
    kind = rng.random()
    down = 1.0 if kind < 0.35 else rng.uniform(1.2, 1.9) if kind < 0.8 else TILE_SHRINK
    across = down * rng.uniform(0.85, 1.18) if kind >= 0.35 else 1.0
    image, words = _draw(rng, int(width * across), int(height * down), text_px, down)
    if image.size != (width, height):
        scale = (width / image.width, height / image.height)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        words = [moved(word, scale) for word in words]
    return _noisy(image, rng), words


def _draw(
    rng: random.Random, width: int, height: int, text_px: tuple[float, float], shrink: float
) -> tuple[Image.Image, list[Word]]:
    paper, ink = _colours(rng)
    image = Image.new("RGB", (width, height), paper)
    canvas = ImageDraw.Draw(image)
    words: list[Word] = []
    top = rng.randint(-4, 12)
    while top < height:
        size = round(print_size(rng, text_px) * shrink)
        face, weight = Face(rng.choice(_FILES), size), _weight(rng)
        line_ink = ink
        if rng.random() < 0.12:
            band, line_ink = _colours(rng)
            canvas.rectangle((0, top - 1, width, top + size * 1.3), fill=band)
        left, baseline = rng.randint(-10, 30), top + size
        while left < width:
            text = _word(rng)
            edges, above, below = face.measure(text)
            mask, right_by, down_by = face.mask(text)
            canvas.bitmap((left + right_by, baseline + down_by), mask.point(weight), fill=line_ink)
            box = (left, baseline + above, left + edges[-1], baseline + below)
            words.append(Word(text, box, tuple(left + edge for edge in edges)))
            left += round(edges[-1] + size * rng.choice((0.3, 0.3, 0.35, 0.4, 0.5, 2.0)))
        top += round(size * rng.uniform(1.2, 1.9))
    return image, words


def _word(rng: random.Random) -> str:
    """A random word that training pages may print; one in five is made of characters that are easily mistaken."""
    alike = rng.random() < 0.2
    while True:
        text = random_word(rng)
        if alike:
            text = mistakable(text, rng)
        if allowed(text, "train"):
            return text


def _weight(rng: random.Random) -> list[int]:
    """Coverage (0 to 255) as a line prints it: half of the lines as the face has it, the others thinner or a little bolder."""
    power = 1.0 if rng.random() < 0.5 else rng.uniform(0.8, 2.5)
    return [round(255 * (value / 255) ** power) for value in range(256)]


def _colours(rng: random.Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    light = _colour(rng, 215, 255) if rng.random() < 0.6 else (255, 255, 255)
    dark = _colour(rng, 0, 110) if rng.random() < 0.6 else (10, 10, 10)
    return (dark, light) if rng.random() < 0.1 else (light, dark)


def _colour(rng: random.Random, low: int, high: int) -> tuple[int, int, int]:
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def _noisy(image: Image.Image, rng: random.Random) -> Image.Image:
    if rng.random() < 0.7:
        return image
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(1, 8), (image.height, image.width, 1))
    return Image.fromarray(np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8))
