"""Augmentation of training images: colour jitter, JPEG, blur, small rotation and perspective; never a flip.

The ranges keep text of 7 pixels legible.
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
"""Longer side of an augmented image, pixels: twice the canvas of LaViDa's tiles. Rotating a scan of 4000 pixels takes
seconds, and no view shows more than half of this."""

JITTER = 0.2
"""Brightness, contrast and colour are multiplied by 1 - JITTER to 1 + JITTER."""

SLANT = 0.035
"""Largest rotation of a square image, radians (2 degrees); less for long images, whose ends move further."""

KEYSTONE = 0.015
"""Largest shift of a corner by perspective, relative to the shorter side."""

BLUR = 0.5
"""Largest radius, pixels."""

QUALITY = (60, 95)
"""Range of JPEG quality."""


@dataclass(frozen=True)
class Augmentation:
    """Augmentation parameters for an image of one size.

    Attributes:
        scale: (horizontal, vertical) from the input to `size`, at most 1.
        size: (width, height) of the output, pixels.
        homography: [3][3], from points of the scaled image to points of the output; None is the identity.
        colours: factors of brightness, contrast and colour.
        blur: radius, pixels.
        quality: of the JPEG.
    """

    scale: tuple[float, float]
    size: tuple[int, int]
    homography: tuple[tuple[float, float, float], ...] | None
    colours: tuple[float, float, float]
    blur: float
    quality: int

    @classmethod
    def draw(cls, size: tuple[int, int], source: random.Random) -> Augmentation:
        """Draw parameters for an image of `size` (width, height) from a random state."""
        shrink = min(MAX_SIDE / max(size), 1.0)
        width, height = (max(round(side * shrink), 1) for side in size)

        def factor() -> float:
            return source.uniform(1 - JITTER, 1 + JITTER)

        return cls(
            scale=(width / size[0], height / size[1]),
            size=(width, height),
            homography=_random_homography(width, height, source) if source.random() < 0.5 else None,
            colours=(factor(), factor(), factor()),
            blur=source.uniform(0.0, BLUR) if source.random() < 0.3 else 0.0,
            quality=source.randint(*QUALITY),
        )

    def image(self, image: Image.Image) -> bytes:
        """The augmented image as a JPEG file of `size`; `image` is RGB of the size given to `draw`."""
        if image.size != self.size:
            image = image.resize(self.size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for enhance, factor in zip(kinds, self.colours, strict=True):
            image = enhance(image).enhance(factor)
        if self.homography is not None:
            back = np.linalg.inv(np.array(self.homography))
            paper = image.getpixel((0, 0))  # fills the margins with the colour of the page's corner
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
        """Boxes of the input as upright boxes around their moved corners in the output, pixels; all are within `size`."""
        return [self._box(*box) for box in boxes]

    def _box(self, left: float, top: float, right: float, bottom: float) -> Box:
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) * self.scale
        if self.homography is not None:
            corners = _project(np.array(self.homography), corners)
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return left, top, right, bottom


def augment_record(record: Record, seed: int, epoch: int) -> Record:
    """The record with an augmented image and a new `image_id`; parameters depend on (seed, epoch, record id) only.

    Raises:
        UserError: if the image cannot be opened.
    """
    image = record.open_image()
    drawn = Augmentation.draw(image.size, random.Random(f"{seed}:{epoch}:{record.id}"))
    data = drawn.image(image)
    return replace(record, image=data, image_id=image_id(data), width=drawn.size[0], height=drawn.size[1])


def _random_homography(width: int, height: int, source: random.Random) -> tuple[tuple[float, float, float], ...]:
    """A homography that rotates a page, moves its corners, and shrinks it to fit the image."""
    sides = np.array([width, height], dtype=float)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * sides
    angle = source.uniform(-1, 1) * SLANT * sides.min() / sides.max()
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    targets = (corners - sides / 2) @ turn.T
    targets += KEYSTONE * sides.min() * np.array([[source.uniform(-1, 1) for _ in range(2)] for _ in range(4)])
    low, high = targets.min(axis=0), targets.max(axis=0)
    targets = (targets - (low + high) / 2) * min(1.0, (sides / (high - low)).min()) + sides / 2
    return tuple(map(tuple, _homography(corners, targets).tolist()))


def _homography(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The homography [3, 3] from four points [4, 2] to four others [4, 2]: two linear equations each."""
    rows, right = [], []
    for (x, y), (u, v) in zip(points, targets, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(right)), 1.0).reshape(3, 3)


def _project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    seen = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return seen[:, :2] / seen[:, 2:]
