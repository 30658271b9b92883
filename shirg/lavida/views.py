"""RGB image -> views -> normalised pixels: LaViDa's views of 384 x 384 pixels and SHIRG's one large view.

The arithmetic equals the official one bit for bit: PIL's bicubic resampling, then x / 255 rounded to float32, then
(x - 0.5) / 0.5 (LaViDa siglip_encoder.py:34-67), which is a table of 256 floats.

PIL is imported in functions, since models and their costs need no PIL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from shirg.errors import UserError
from shirg.images import resize
from shirg.lavida.settings import FITS, VisionSettings

if TYPE_CHECKING:
    from PIL import Image

PAD_COLOUR = (127, 127, 127)  # int(0.5 * 255), LaViDa mm_utils.py:318-344
_NORMALISED = torch.from_numpy(((np.arange(256) * (1 / 255)).astype(np.float32) - np.float32(0.5)) / np.float32(0.5))

Pinpoints = tuple[tuple[int, int], ...]
"""(width, height) of the canvases that an image may be cut into tiles on."""

Views = Literal["base", "tiles", "large"]
"""Views of an image: the whole image at the tower's own size; that and LaViDa's tiles; the whole image at SHIRG's size."""


@dataclass(frozen=True)
class ViewShapes:
    """How a model cuts an image into views; without weights, for loader workers."""

    resolution: int
    """Side of the large view, pixels."""
    tile: int
    """Side of the base view and of tiles, pixels."""
    pinpoints: Pinpoints
    fit: str

    @classmethod
    def of(cls, settings: VisionSettings, tile: int, pinpoints: Pinpoints) -> ViewShapes:
        """View shapes of a model with these settings.

        Args:
            tile: side of the tower's own view, pixels.
        """
        return cls(settings.resolution, tile, pinpoints, settings.fit)

    def cut(self, image: Image.Image, views: str) -> Tensor:
        """The views of an RGB image, [V, H, W, 3] uint8.

        Args:
            views: one of `Views`.
        """
        if views == "tiles":
            return to_bytes(anyres_views(image, self.pinpoints, self.tile))
        side = self.tile if views == "base" else self.resolution
        return to_bytes([square_view(image, side, self.fit)])


def to_bytes(views: list[Image.Image]) -> Tensor:
    """RGB views of one size as [V, H, W, 3] uint8, a quarter of the bytes of `to_pixels`."""
    return torch.from_numpy(np.stack([np.asarray(view) for view in views]))


def normalised(views: Tensor) -> Tensor:
    """Normalised pixels [V, 3, H, W], float32 in [-1, 1], of bytes [V, H, W, 3], on the same device."""
    table = _NORMALISED.to(views.device)
    return table.index_select(0, views.flatten().int()).view(views.shape).permute(0, 3, 1, 2).contiguous()


def to_pixels(views: list[Image.Image]) -> Tensor:
    """Normalised pixels [V, 3, H, W], float32 in [-1, 1], of RGB views of one size."""
    return normalised(to_bytes(views))


def square_view(image: Image.Image, size: int, fit: str = "stretch") -> Image.Image:
    """The RGB image as a square of `size` pixels: stretched, as LaViDa's base view, or padded with grey.

    Raises:
        UserError: for another `fit`.
    """
    from PIL import Image

    if fit not in FITS:
        raise UserError(f"fit={fit!r} is unknown; expected {' or '.join(map(repr, FITS))}")
    if fit == "pad" and image.width != image.height:
        side = max(image.size)
        canvas = Image.new("RGB", (side, side), PAD_COLOUR)
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = canvas
    return resize(image, (size, size))


def best_resolution(size: tuple[int, int], pinpoints: Pinpoints) -> tuple[int, int]:
    """The canvas that keeps most of the image's pixels; among equals the one that wastes least, then the first
    (LaViDa mm_utils.py:119-149). Sizes are (width, height)."""
    width, height = size

    def merit(canvas: tuple[int, int]) -> tuple[int, int]:
        scale = min(canvas[0] / width, canvas[1] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - canvas[0] * canvas[1]

    return max(pinpoints, key=merit)


def anyres_views(image: Image.Image, pinpoints: Pinpoints, tile: int) -> list[Image.Image]:
    """The stretched base view, then the tiles of the best canvas in raster order, all squares of `tile` pixels
    (LaViDa mm_utils.py:244-297)."""
    from PIL import Image

    canvas_width, canvas_height = best_resolution(image.size, pinpoints)
    scale_width, scale_height = canvas_width / image.width, canvas_height / image.height
    if scale_width < scale_height:
        fitted = canvas_width, min(math.ceil(image.height * scale_width), canvas_height)
    else:
        fitted = min(math.ceil(image.width * scale_height), canvas_width), canvas_height
    canvas = Image.new("RGB", (canvas_width, canvas_height), (0, 0, 0))
    corner = (canvas_width - fitted[0]) // 2, (canvas_height - fitted[1]) // 2
    canvas.paste(resize(image, fitted), corner)
    tiles = [
        canvas.crop((left, top, left + tile, top + tile))
        for top in range(0, canvas_height, tile)
        for left in range(0, canvas_width, tile)
    ]
    return [square_view(image, tile), *tiles]


def tile_grid(size: tuple[int, int], pinpoints: Pinpoints, tile: int) -> tuple[int, int]:
    """Rows and columns of tiles that `anyres_views` cuts for an image of `size` (width, height)."""
    width, height = best_resolution(size, pinpoints)
    return height // tile, width // tile
