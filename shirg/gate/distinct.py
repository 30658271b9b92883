"""Patches that are no copies of a neighbour: what a page shows once.

PixelPrune (arXiv 2604.00886) drops copies before the vision encoder. Blank paper, plain areas and the inside of ruled lines go;
photographs and the grain of a camera stay, since no two of their patches are alike.

Shapes: B images, V views, R x C tokens per view, N = V * R * C.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from .config import GateConfig
from .ranking import keep_best, rank_tokens
from .selectors import Request, Selection, register, select_shirg
from .terms import PATCH

NEAR = 8 / 127.5
"""A patch is a copy if no channel of its pixels, normalised to [-1, 1], differs by more than this: 8 of 255 levels, less
than pale print; some noise of compression is tolerated."""


def distinct_patches(pixels: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Whether a patch is a copy of neither the patch to its left nor the one above: [B, V, 3, H, W] -> [B, N] bool.

    The first patch of a view is never a copy, so every view has at least one distinct patch.
    """
    _, rows, cols = grid
    patches = pixels[..., : rows * PATCH, : cols * PATCH].unflatten(-1, (cols, PATCH)).unflatten(-3, (rows, PATCH))
    patches = patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4)  # [B, V, R, C, 3 * PATCH^2]
    distinct = torch.ones(patches.shape[:4], dtype=torch.bool, device=pixels.device)
    distinct[:, :, :, 1:] &= (patches[:, :, :, 1:] - patches[:, :, :, :-1]).abs().amax(-1) > NEAR
    distinct[:, :, 1:] &= (patches[:, :, 1:] - patches[:, :, :-1]).abs().amax(-1) > NEAR
    return distinct.flatten(1)


@register("distinct")
def select_distinct(request: Request) -> Selection:
    """Distinct patches before copies, both in the order of preset "runs" without a question; without pixels that order alone.

    The budget "auto" is the number of distinct patches, see `page_budget`.
    """
    own = select_shirg(dataclasses.replace(request, text=None, relevance=None, config=GateConfig()))
    if request.pixels is None:
        return own
    distinct = distinct_patches(request.pixels.float(), request.grid)
    return dataclasses.replace(own, indices=keep_best(rank_tokens(own.scores), request.budget, distinct))
