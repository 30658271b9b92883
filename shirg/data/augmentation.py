"""What happens to pages before a camera or a scanner has done with them; never a flip, since text has a direction.

Every picture goes through colour jitter and JPEG; half of them are turned and seen at a slight angle, some are blurred.
The ranges leave print of 7 pixels legible.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from shirg.data.pages import Box
from shirg.data.records import Record, image_id

MAX_SIDE = 1536
"""Longer side of an augmented picture, pixels: twice the canvas of LaViDa's tiles. Turning a scan of 4000 pixels takes
seconds, and no view shows more than half of this."""

JITTER = 0.2
"""Brightness, contrast and colour are multiplied by 1 - JITTER to 1 + JITTER."""

SLANT = 0.035
"""Largest rotation of a square, radians (2 degrees). Of a long strip it is less: its ends swing further."""

KEYSTONE = 0.015
"""How far perspective moves a corner, of the shorter side."""

BLUR = 0.5
"""Largest radius, pixels."""

QUALITY = (60, 95)
"""Of the JPEG."""


@dataclass(frozen=True)
class Augmentation:
    """One set of choices for a picture of one size.

    Attributes:
        scale: (horizontal, vertical) to the size that comes out, at most 1.
        size: (width, height) that comes out, pixels.
        moved: homography [3][3] that takes a point of the scaled picture to where it is seen; None moves nothing.
        colours: factors of brightness, contrast and colour.
        blur: radius, pixels.
        quality: of the JPEG.
    """

    scale: tuple[float, float]
    size: tuple[int, int]
    moved: tuple[tuple[float, float, float], ...] | None
    colours: tuple[float, float, float]
    blur: float
    quality: int

    @classmethod
    def draw(cls, size: tuple[int, int], source: random.Random) -> Augmentation:
        """Chooses for a picture of `size` (width, height); the same state of `source` chooses the same."""
        shrink = min(MAX_SIDE / max(size), 1.0)
        width, height = (max(round(side * shrink), 1) for side in size)

        def factor() -> float:
            return source.uniform(1 - JITTER, 1 + JITTER)

        return cls(
            scale=(width / size[0], height / size[1]),
            size=(width, height),
            moved=_seen_at_an_angle(width, height, source) if source.random() < 0.5 else None,
            colours=(factor(), factor(), factor()),
            blur=source.uniform(0.0, BLUR) if source.random() < 0.3 else 0.0,
            quality=source.randint(*QUALITY),
        )

    def image(self, image: Image.Image) -> bytes:
        """The augmented picture as a JPEG file, of `size`.

        Args:
            image: RGB, of the size that the choices were made for.
        """
        if image.size != self.size:
            image = image.resize(self.size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for enhance, factor in zip(kinds, self.colours, strict=True):
            image = enhance(image).enhance(factor)
        if self.moved is not None:
            back = np.linalg.inv(np.array(self.moved))
            paper = image.getpixel((0, 0))  # what comes into view at the rim looks like the page's own corner
            image = image.transform(
                self.size,
                Image.Transform.PERSPECTIVE,
                (back / back[2, 2]).flatten()[:8].tolist(),
                resample=Image.Resampling.BICUBIC,
                fillcolor=paper,
            )
        if self.blur:
            image = image.filter(ImageFilter.GaussianBlur(self.blur))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()

    def boxes(self, boxes: Iterable[Box]) -> list[Box]:
        """Where boxes of the picture are in the augmented one: the upright boxes around their moved corners, pixels.

        Nothing leaves the picture, so every box stays within `size`.
        """
        return [self._box(*box) for box in boxes]

    def _box(self, left: float, top: float, right: float, bottom: float) -> Box:
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) * self.scale
        if self.moved is not None:
            corners = _project(np.array(self.moved), corners)
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return left, top, right, bottom


def augment_record(record: Record, seed: int, epoch: int) -> Record:
    """The record with its image augmented; the choices follow from (seed, epoch, record id) alone.

    The image gets a new `image_id`, so nothing that was remembered for the original is taken for it.

    Raises:
        UserError: if the image cannot be opened.
    """
    image = record.open_image()
    chosen = Augmentation.draw(image.size, random.Random(f"{seed}:{epoch}:{record.id}"))
    data = chosen.image(image)
    return replace(record, image=data, image_id=image_id(data), width=chosen.size[0], height=chosen.size[1])


def _seen_at_an_angle(width: int, height: int, source: random.Random) -> tuple[tuple[float, float, float], ...]:
    """A homography that turns a page and moves its corners, then shrinks it until it fits the picture again."""
    sides = np.array([width, height], dtype=float)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * sides
    angle = source.uniform(-1, 1) * SLANT * sides.min() / sides.max()
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    places = (corners - sides / 2) @ turn.T
    places += KEYSTONE * sides.min() * np.array([[source.uniform(-1, 1) for _ in range(2)] for _ in range(4)])
    low, high = places.min(axis=0), places.max(axis=0)
    places = (places - (low + high) / 2) * min(1.0, (sides / (high - low)).min()) + sides / 2
    return tuple(map(tuple, _homography(corners, places).tolist()))


def _homography(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The [3, 3] that takes four points [4, 2] to four places [4, 2]: two linear equations for each."""
    rows, right = [], []
    for (x, y), (u, v) in zip(points, places, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(right)), 1.0).reshape(3, 3)


def _project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    seen = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return seen[:, :2] / seen[:, 2:]
