"""From pixels to the input of a SigLIP's first layer, for our tower and for official models."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


def positions_for(table: Tensor, rows: int, cols: int) -> Tensor:
    """A square position table [P * P, D] for a grid of `rows` x `cols` patches, [rows * cols, D] in raster order.

    The trained grid gets the table itself, another one its bicubic interpolation, computed in at least float32 and rounded once
    to the table's precision. Interpolation in half precision would depend on the implementation.
    """
    side = math.isqrt(len(table))
    if (rows, cols) == (side, side):
        return table
    square = table.view(1, side, side, -1).permute(0, 3, 1, 2)
    square = square.to(torch.promote_types(table.dtype, torch.float32))
    fitted = functional.interpolate(square, size=(rows, cols), mode="bicubic", align_corners=False)
    return fitted[0].permute(1, 2, 0).flatten(0, 1).to(table.dtype)


class PatchEmbeddings(Protocol):
    """Embedding layers of a SigLIP, with the names that transformers and LaViDa share."""

    @property
    def patch_embedding(self) -> nn.Conv2d: ...

    @property
    def position_embedding(self) -> nn.Embedding: ...


def embed_patches(embeddings: PatchEmbeddings, images: Tensor) -> Tensor:
    """Normalised pixels [V, C, H, W] to the input of a SigLIP's first layer, [V, N, D], N = rows * columns."""
    patch = embeddings.patch_embedding
    patches = patch(images.to(patch.weight.dtype))  # [V, D, rows, cols]
    rows, cols = patches.shape[2:]
    return patches.flatten(2).transpose(1, 2) + positions_for(embeddings.position_embedding.weight, rows, cols)
