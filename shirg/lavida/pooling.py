"""From projected views to the image tokens of LaViDa's own path: pool every view, then merge the views."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from shirg.lavida.config import LavidaConfig
from shirg.lavida.views import tile_grid
from shirg.lavida.vision import VisionFeatures


def pool_and_merge(
    projected: Tensor, features: VisionFeatures, config: LavidaConfig, tile: int, newline: Tensor | None
) -> Tensor:
    """Image tokens [n, H] of LaViDa's own path from projected tokens [V, N, H], as the checkpoint's config pools and merges.

    Args:
        features: what was projected.
        tile: side of the tower's own view, pixels.
        newline: [H], see `merge_views`.
    """
    pooled = pool_views(projected, features.grid, config.pool_mode)
    tiles = tile_grid(features.image_size, config.pinpoints, tile)
    return merge_views(pooled, config.patch_merge_type, features.image_size, tiles, newline)


def pool_views(tokens: Tensor, grid: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Every view's tokens [V, rows * columns, H] at half the grid's resolution (LaViDa llava_arch.py:193-213).

    "bilinear" samples at ceil(side / 2), 27 x 27 -> 14 x 14; "average" and "max" pool blocks of 2 x 2 and drop an odd last row
    and column, 27 x 27 -> 13 x 13.
    """
    rows, columns = grid
    maps = tokens.transpose(1, 2).unflatten(2, grid)  # [V, H, rows, columns]
    if mode == "bilinear":
        size = (-(-rows // 2), -(-columns // 2))
        maps = functional.interpolate(maps, size=size, mode="bilinear")
    else:
        maps = (functional.avg_pool2d if mode == "average" else functional.max_pool2d)(maps, 2)
    return maps.flatten(2).transpose(1, 2)


def merge_views(
    tokens: Tensor,
    merge_type: str,
    image_size: tuple[int, int],
    tiles: tuple[int, int],
    newline: Tensor | None,
) -> Tensor:
    """One sequence [n, H] of the views' tokens [V, N, H], the base view first (LaViDa llava_arch.py:377-441).

    "flat" concatenates the views. "spatial" stitches the tiles to one map in raster order; "spatial_unpad" also removes the map's
    black borders and ends each row with the `newline` vector [H].

    Args:
        image_size: (width, height) of the image before tiling.
        tiles: rows and columns of the tiles that follow the base view.
    """
    if merge_type == "flat":
        return tokens.flatten(0, 1)
    if len(tokens) == 1:
        return tokens[0] if newline is None else torch.cat([tokens[0], newline[None].to(tokens.dtype)])
    side = round(tokens.shape[1] ** 0.5)
    stitched = tokens[1:].reshape(*tiles, side, side, -1).transpose(1, 2).flatten(2, 3).flatten(0, 1)  # [h, w, H]
    if newline is not None:
        stitched = unpad(stitched, image_size)
        stitched = torch.cat([stitched, newline.to(stitched.dtype).expand(len(stitched), 1, -1)], dim=1)
    return torch.cat([tokens[0], stitched.flatten(0, 1)])


def unpad(stitched: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The part of a map [h, w, ...] that an image of (width, height) covers (LaViDa llava_arch.py:149-181).

    Borders are rounded down, so one row or column of border can remain: 1920 x 1080 keeps 16 of 28 rows, not 15.
    """
    width, height = image_size
    rows, columns = stitched.shape[:2]
    if width / height > columns / rows:
        border = (rows - int(height * (columns / width))) // 2
        return stitched[border : rows - border]
    border = (columns - int(width * (rows / height))) // 2
    return stitched[:, border : columns - border]
