"""How many tokens a page needs: what the budget "auto" comes to.

A dense page of small print needs many tokens, a headline or a photograph few. The print that preset "runs" ranks by tells how
many before any token is chosen, from the pixels alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .runs import runs_of

ROOM = 1.75
"""Tokens kept for each that lies in a run of print: the ends of words and pale lines are in none. On the tuning pages of
`benchmarks/page_budget.py` it gives the word recall of K = 1024, half a point less, at a fifth fewer tokens."""
STEP, LEAST, MOST = 32, 64, 1024
"""Budgets are multiples of `STEP`, so that few shapes occur; from `LEAST`, which covers an image without print, to `MOST`."""


@torch.no_grad()
def page_budget(
    pixels: Tensor, grid: tuple[int, int, int], room: float = ROOM, least: int = LEAST, most: int = MOST
) -> int:
    """`room` times the tokens of an image that lie in runs of print, in steps of `STEP`.

    The device is waited for once, as the number shapes all that follows.

    Args:
        pixels: [1, V, 3, H, W] of one image, as given to the tower.
        grid: (V, rows, cols) of patches of 14 x 14.
        room: above 0.
        least: the answer for an image without print.
        most: never more, and never more than the tokens that there are.

    Raises:
        ValueError: for pixels of several images, or a room, least or most outside its range.
    """
    if pixels.shape[0] != 1:
        raise ValueError(f"pixels must be of one image, [1, V, 3, H, W], got {list(pixels.shape)}")
    if not 0 < room < math.inf:
        raise ValueError(f"room must be a number above 0, got {room}")
    if not 1 <= least <= most:
        raise ValueError(f"least and most must be whole numbers with 1 <= least <= most, got {least} and {most}")
    printed = int((runs_of(pixels.float(), grid)[1] > 0).sum())
    return min(max(STEP * math.ceil(room * printed / STEP), least), most, math.prod(grid))
