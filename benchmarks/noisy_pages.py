"""Rendered pages with grain over the whole page and a synthetic photograph where there are no words.

The photograph has noise at six scales, half-transparent shapes with hard edges, and grain: detail without words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from boxed_pages import BoxedPage
from PIL import Image

from shirg.data.pages import Box
from shirg.data.render import KINDS, render_page

SIZE, TEXT_PX = 672, (6.0, 20.0)
GRAINS = (0, 4, 8, 14)
"""Standard deviations of the grain in grey levels (0 to 255); each page has one of them."""
LEAST_SIDE, MOST_SIDE = 130, 320
"""Of a photograph, in pixels."""
TRIES, MARGIN = 4000, 3


def noisy_pages(split: str, count: int, seed: int) -> list[BoxedPage]:
    """Pages of all kinds in turn; equal arguments give equal pages."""
    return [noisy_page(KINDS[number % len(KINDS)], number, split, seed) for number in range(count)]


def noisy_page(kind: str, number: int, split: str, seed: int) -> BoxedPage:
    """One page; the photograph overlaps no word, the grain covers all."""
    rng = random.Random(f"{split}:{seed}:{number}")
    page = render_page(kind, 10_000 * seed + number, size=SIZE, text_px=TEXT_PX, split=split)
    boxes = tuple(word.box for word in page.words)
    image, place = page.image.copy(), free_place(boxes, rng)
    if place is not None:
        left, top, width, height = place
        image.paste(made_up_photo(width, height, rng.randrange(2**31)), (left, top))
    noise = np.random.default_rng(rng.randrange(2**31)).normal(0, rng.choice(GRAINS), (SIZE, SIZE, 1))
    grainy = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    return BoxedPage(
        f"rendered/{kind}-{number}", Image.fromarray(grainy), boxes, tuple(word.text for word in page.words)
    )


def free_place(boxes: Sequence[Box], rng: random.Random) -> tuple[int, int, int, int] | None:
    """Left, top, width and height of the largest of `TRIES` random rectangles without a word; None if there is none."""
    taken = np.zeros((SIZE + 1, SIZE + 1), dtype=np.int64)  # row and column 0 are zero
    for left, top, right, bottom in boxes:
        rows = slice(max(int(top) - MARGIN, 0) + 1, int(bottom) + MARGIN + 1)
        taken[rows, max(int(left) - MARGIN, 0) + 1 : int(right) + MARGIN + 1] = 1
    sums = taken.cumsum(0).cumsum(1)
    best = None
    for _ in range(TRIES):
        width, height = rng.randint(LEAST_SIDE, MOST_SIDE), rng.randint(LEAST_SIDE, MOST_SIDE)
        x, y = rng.randint(0, SIZE - width), rng.randint(0, SIZE - height)
        words = sums[y + height, x + width] - sums[y, x + width] - sums[y + height, x] + sums[y, x]
        if words == 0 and (best is None or width * height > best[2] * best[3]):
            best = x, y, width, height
    return best


def made_up_photo(width: int, height: int, seed: int) -> Image.Image:
    """Noise, shapes and grain, RGB."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for octave in range(6):
        cells = 2 ** (octave + 1)
        coarse = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        coarse = 0.7 * coarse[..., :1] + 0.3 * coarse  # mostly light and dark, some colour
        picture += 0.62**octave * np.stack([_enlarged(coarse[..., channel], width, height) for channel in range(3)], -1)
    picture = 118 + 52 * picture
    rows, columns = np.ogrid[:height, :width]
    for _ in range(7):
        row, column = rng.uniform(0, height), rng.uniform(0, width)
        half_height, half_width = rng.uniform(0.06, 0.3, 2) * min(height, width)
        inside = ((rows - row) / half_height) ** 2 + ((columns - column) / half_width) ** 2 < 1
        picture[inside] = 0.5 * picture[inside] + 0.5 * rng.uniform(10, 220, 3)
    picture += rng.normal(0, 9, (height, width, 1))
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _enlarged(values: np.ndarray, width: int, height: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(values))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
