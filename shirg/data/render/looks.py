"""Style of a page: colours, typefaces, and the noise of a scan."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from shirg.data.render.fonts import Face, choose_family

Colour = tuple[int, int, int]

ACCENTS: tuple[Colour, ...] = (
    (31, 78, 140), (178, 40, 40), (24, 110, 70), (200, 110, 20), (98, 50, 140), (20, 120, 140), (90, 90, 96),
    (150, 30, 95), (60, 60, 140), (120, 80, 40), (40, 130, 40), (214, 84, 60),
)  # fmt: skip
TINTS: tuple[Colour, ...] = (
    (255, 255, 255), (255, 255, 255), (252, 252, 250), (250, 247, 238), (244, 246, 250), (255, 250, 232),
    (247, 240, 240), (238, 244, 238), (240, 240, 240),
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """The style of one page. Sizes are in pixels of the page."""

    paper: Colour
    ink: Colour
    muted: Colour
    """Lighter than `ink`, for captions and labels; dark enough to read."""
    accent: Colour
    rule: Colour
    body: Face
    bold: Face
    label: Face
    """For the names of fields: a little smaller than `body`, or as large."""
    title: Face
    colon: bool
    """Whether names of fields end with a colon."""


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with `share` (0 to 1) of `b` mixed in."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def choose_look(rng: random.Random, size: int, text_px: tuple[float, float], split: str, monospace: float) -> Look:
    """Draw a page's style; all font sizes are within `text_px`, and a line has room for sixteen ems of the body."""
    low, high = text_px
    top = max(low, min(high, size / 16))

    def clamp(px: float) -> float:
        return min(top, max(low, round(2 * px) / 2))

    regular, bold = choose_family(rng, split, monospace=monospace)
    # Log-uniform: as many pages between 6 and 12 px as between 12 and 24.
    body = clamp(low * (top / low) ** rng.random())
    paper, accent = rng.choice(TINTS), rng.choice(ACCENTS)
    ink: Colour = rng.choice(((0, 0, 0), (20, 20, 24), (40, 40, 44), (24, 28, 60), (50, 36, 28)))
    return Look(
        paper=paper,
        ink=ink,
        muted=mix(ink, paper, rng.choice((0.15, 0.3, 0.4))),
        accent=accent,
        rule=mix(ink, paper, rng.choice((0.2, 0.5, 0.7))),
        body=Face(regular, body),
        bold=Face(bold, body),
        label=Face(rng.choice((regular, regular, bold)), clamp(body * rng.choice((0.8, 0.9, 1.0, 1.0)))),
        title=Face(rng.choice((bold, bold, regular)), clamp(body * rng.uniform(1.15, 1.9))),
        colon=rng.random() < 0.25,
    )


@functools.lru_cache(maxsize=16)
def _grain(side: int, style: int) -> Image.Image:
    """A fixed texture around 128, as RGB: fine noise over smooth shading. Styles differ in strength."""
    noise, shade = ((2, 3), (4, 4), (7, 4), (3, 9))[style]
    generator = np.random.default_rng(style)
    fine = generator.normal(0, noise, (side, side))
    coarse = generator.normal(0, shade, (6, 6)).astype(np.float32)
    soft = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    texture = np.clip(np.round(128 - abs(soft) / 2 + fine), 0, 255).astype(np.uint8)
    return Image.merge("RGB", [Image.fromarray(texture)] * 3)


def scan(image: Image.Image, rng: random.Random, smallest_px: float) -> Image.Image:
    """The page as if scanned: noise and shading on most pages, a slight blur on some with larger print."""
    if smallest_px >= 12 and rng.random() < 0.1:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 0.5)))
    if rng.random() < 0.3:
        return image
    side = image.width + 64
    x, y = rng.randrange(64), rng.randrange(64)
    grain = _grain(side, rng.choice((0, 0, 1, 1, 2, 3))).crop((x, y, x + image.width, y + image.height))
    return ImageChops.add(image, grain, 1, -128)
