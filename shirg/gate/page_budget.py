"""The budget "auto": the number of tokens that a page needs, estimated from its pixels.

A dense page of small print needs many tokens, a headline or a photograph few. The estimate counts the print that preset "runs"
ranks by.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .distinct import distinct_patches
from .runs import runs_of

ROOM = 1.75
"""Budget per token in a run of print; above 1, since the ends of words and pale lines are in no run. On the tuning pages of
`benchmarks/page_budget.py` word recall is half a point below that of K = 1024, with a fifth fewer tokens."""
STEP, LEAST, MOST = 32, 64, 1024
"""Budgets are multiples of `STEP` (few distinct shapes), from `LEAST` (an image without print) to `MOST`."""


@torch.no_grad()
def page_budget(
    pixels: Tensor,
    grid: tuple[int, int, int],
    room: float = ROOM,
    least: int = LEAST,
    most: int = MOST,
    selector: str = "shirg",
) -> int:
    """`room` times the number of an image's tokens that are in runs of print, rounded up to a multiple of `STEP`.

    For selector "distinct" it is the number of patches that are no copies. Synchronises with the device once.

    Args:
        pixels: [1, V, 3, H, W] of one image, as given to the tower.
        grid: (V, rows, cols) of patches of 14 x 14.
        room: above 0.
        least: smallest budget.
        most: largest budget; the number of tokens is a limit too.
        selector: name of the selector that gets the budget.

    Raises:
        ValueError: for pixels of several images, or a room, least or most outside its range.
    """
    if pixels.shape[0] != 1:
        raise ValueError(f"pixels must be of one image, [1, V, 3, H, W], got {list(pixels.shape)}")
    if not 0 < room < math.inf:
        raise ValueError(f"room must be a number above 0, got {room}")
    if not 1 <= least <= most:
        raise ValueError(f"least and most must be whole numbers with 1 <= least <= most, got {least} and {most}")
    if selector == "distinct":
        needed = float(distinct_patches(pixels.float(), grid).sum())
    else:
        needed = room * float((runs_of(pixels.float(), grid)[1] > 0).sum())
    return min(max(STEP * math.ceil(needed / STEP), least), most, math.prod(grid))
