"""Word recall: the share of a page's words that a selection keeps whole, by their boxes.

A word counts if every patch is kept of which its box covers a third or more. The box of a thin word (under 5 px in the view)
covers no patch that much; it needs the patches of which it covers at least half as much as of the one it covers most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shirg.data.pages import Box
from shirg.gate.terms import PATCH

COVERED = 1 / 3
"""Share of a patch that a box must cover to need it."""
SMALL_PX = 12
"""Words lower than this, in pixels of the view, are small."""
TILE = 4
"""Side, in patches, of the tiles that are counted as empty or not."""


def patch_cover(boxes: Sequence[Box], image_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Share of every patch that each box covers: [W, rows * cols] float64.

    Args:
        boxes: left, top, right, bottom in pixels of the image; what lies outside of it is cut off.
        image_size: width and height of the image that the boxes are of; it is stretched over the grid.
        grid: rows and columns of patches.
    """
    edges = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    (width, height), (rows, cols) = image_size, grid
    across = _overlap(edges[:, 0] * cols / width, edges[:, 2] * cols / width, cols)  # [W, cols]
    down = _overlap(edges[:, 1] * rows / height, edges[:, 3] * rows / height, rows)  # [W, rows]
    return (down.unsqueeze(2) * across.unsqueeze(1)).flatten(1)


def _overlap(starts: Tensor, ends: Tensor, cells: int) -> Tensor:
    """Length that spans [W] share with each of `cells` unit cells: [W, cells]."""
    first = torch.arange(cells, dtype=starts.dtype)
    return (torch.minimum(ends[:, None], first + 1) - torch.maximum(starts[:, None], first)).clamp_min(0)


def patches_of_box(box: Box, image_size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Patches that a word is read from: [rows * cols] bool.

    Those that its box covers by a third or more; if there are none, those that it covers at least half as much as the
    one that it covers most (see above). A box without area inside the image needs none.
    """
    return _needed(patch_cover([box], image_size, grid))[0]


def _needed(cover: Tensor) -> Tensor:
    most = cover.amax(dim=1, keepdim=True)
    share = torch.where(most >= COVERED - 1e-9, COVERED, most / 2)  # 1e-9: a third is no binary fraction
    return (cover > 1e-9) & (cover >= share - 1e-9)


@dataclass(frozen=True)
class PageWords:
    """The words of one page on its grid of patches."""

    needed: Tensor
    """[W, N] bool, patches that each word is read from; words without one are left out."""
    touched: Tensor
    """[N] bool, patches that some word's box covers to any extent."""
    heights: Tensor
    """[W] float64, pixels of the view."""
    grid: tuple[int, int]

    @classmethod
    def of(cls, boxes: Sequence[Box], image_size: tuple[int, int], grid: tuple[int, int]) -> PageWords:
        """Words by their boxes; arguments as of `patch_cover`."""
        cover = patch_cover(boxes, image_size, grid)
        needed = _needed(cover)
        present = needed.any(dim=1)
        edges = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
        heights = (edges[:, 3] - edges[:, 1]) * (grid[0] * PATCH / image_size[1])
        return cls(needed[present], (cover > 1e-9).any(dim=0), heights[present], grid)

    @property
    def small(self) -> np.ndarray:
        """[W] bool, words under `SMALL_PX` high."""
        return (self.heights < SMALL_PX).numpy()


@dataclass(frozen=True)
class WordRecall:
    """Word recall of one selection on one page."""

    found: np.ndarray
    """[W] bool, words of which every needed patch was kept."""
    small: np.ndarray
    """[W] bool, words under `SMALL_PX` high."""
    precision: float
    """Share of kept patches that some word's box touches."""
    empty_tiles: float
    """Share of `TILE` x `TILE` tiles of which no patch was kept."""

    @property
    def recall(self) -> float | None:
        """Share of words found; None on a page without words."""
        return _share(self.found)

    @property
    def small_recall(self) -> float | None:
        """Share of small words found; None where there are none."""
        return _share(self.found[self.small])


def word_recall(kept: Tensor, words: PageWords) -> WordRecall:
    """Word recall of a selection.

    Args:
        kept: [N] bool, whether each patch was kept.

    Raises:
        ValueError: if `kept` is not [N] of the words' grid, or keeps nothing.
    """
    rows, cols = words.grid
    if kept.shape != (rows * cols,) or kept.dtype != torch.bool or not bool(kept.any()):
        raise ValueError(f"kept must be [{rows * cols}] bool with a patch kept, got {kept.dtype} {list(kept.shape)}")
    kept = kept.cpu()
    found = ~(words.needed & ~kept).any(dim=1)
    precision = float(words.touched[kept].double().mean())
    return WordRecall(found.numpy(), words.small, precision, empty_tiles(kept, words.grid))


def empty_tiles(kept: Tensor, grid: tuple[int, int]) -> float:
    """Share of 4 x 4 tiles, those cut off by the right and bottom edge among them, without a kept patch."""
    tiles = torch.nn.functional.max_pool2d(kept.view(1, 1, *grid).float(), TILE, ceil_mode=True)
    return float((tiles == 0).double().mean())


def _share(found: np.ndarray) -> float | None:
    return float(found.mean()) if found.size else None
