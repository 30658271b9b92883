"""The three terms of the saliency score, one float32 number per token each, and their common scaling.

Shapes: B images, V views, R x C tokens per view, N = V * R * C, D channels, L text tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

PATCH = 14
"""Side of a patch in pixels (SigLIP so400m-patch14)."""
LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance (ITU-R BT.601)."""
STEEP = 2.0
"""A pixel is steep, for edges of kind "density" and "strokes", if its squared gradient is above this multiple of the image's
mean. Lower values include the grain of photographs and scans; 4 excludes thin grey print."""
PRINT = ("print", "runs")
"""Kinds of edges that measure strokes above the grain."""
GRAIN, STEEPNESS = 10.0, (0.75, 2.5)
"""A pixel is steep, for edges of kind "print", if its squared gradient is above `GRAIN` times the first quartile over patches,
which estimates the grain of paper or camera. The threshold is clamped to `STEEPNESS` times the image's mean, since on a page full
of print the quartile is print too. Chosen on the tuning pages of `benchmarks/gate_recall.py`."""
COSINE_FLOOR = 1e-3
"""Smallest scale of cosines; below it differences are rounding noise."""
MOMENT_NOISE = 1e-6
"""Relative rounding error of a float32 mean square; a smaller variance counts as 0."""
KNEE = 6.0
"""Robust deviations at which `squashed_z` is one half; `relevance_term` is 1 from here on."""


def robust_z(values: Tensor, floor: float = 0.0) -> Tensor:
    """Deviations from the median in robust standard deviations, per image: [B, N] -> [B, N].

    The scale is 1.4826 * MAD, the standard deviation of normal values, but at least a tenth of 1.2533 * the mean absolute
    deviation: if more than half of the image is one value, the MAD is 0 or rounding noise. No value is clipped.

    Args:
        values: [B, N] float32.
        floor: smallest scale, in the unit of `values`.
    """
    deviation = values - values.median(dim=-1, keepdim=True).values
    size = deviation.abs()
    mad = size.median(dim=-1, keepdim=True).values
    scale = torch.maximum(1.4826 * mad, 0.12533 * size.mean(dim=-1, keepdim=True))
    return deviation / scale.clamp_min(max(floor, torch.finfo(torch.float32).tiny))


def squashed_z(values: Tensor) -> Tensor:
    """z |z| / (KNEE^2 + z^2) of the robust z-scores, per image: [B, N] -> [B, N] in (-1, 1).

    Outliers do not determine the scale, as under min-max, and keep their order, which a quantile clip would lose.
    """
    z = robust_z(values)
    return z * z.abs() / (KNEE**2 + z.square())


def variance_term(mean: Tensor, mean_square: Tensor) -> Tensor:
    """Var(v_i) over channels from its first two moments, scaled per image: two [B, N] -> [B, N] in [0, 1).

    Below the median it is 0, not negative: on a blank page with one word, the word's tokens may vary less than the paper's.
    """
    variance = mean_square - mean.square()
    variance = torch.where(variance > MOMENT_NOISE * mean_square, variance, 0.0)
    return squashed_z(variance).clamp_min(0)


def text_cosine(tokens: Tensor, mean_square: Tensor, centre: Tensor, text: Tensor) -> Tensor:
    """max_j cos(v_i - centre, t_j): how well each token matches its best text token.

    Without centring, the component that all tokens of an image share dominates the cosine.

    Args:
        tokens: [B, N, D] float32.
        mean_square: [B, N], mean of the squared channels of each token.
        centre: [B, D], the mean token of the image.
        text: [B, L, D] float32; a zero row matches nothing.

    Returns:
        [B, N] float32 in [-1, 1].
    """
    words = torch.nn.functional.normalize(text, dim=-1)  # [B, L, D]
    # The centre is one more row, so that the tokens are read once.
    rows = torch.cat([words, centre.unsqueeze(1)], dim=1)  # [B, L + 1, D]
    products, along = (rows @ tokens.transpose(1, 2)).split([text.shape[1], 1], dim=1)  # [B, L, N], [B, 1, N]
    best = (products - words @ centre.unsqueeze(-1)).amax(dim=1)  # [B, N]
    # |v - c|^2 from the moments, without a centred copy of the tokens
    squares = mean_square * tokens.shape[-1]
    distance = squares - 2 * along.squeeze(1) + centre.square().sum(-1, keepdim=True)
    # The direction of a token within 1 % of the mean is rounding noise.
    least = 1e-4 * squares.mean(dim=-1, keepdim=True) + torch.finfo(torch.float32).tiny
    return best / torch.maximum(distance, least).sqrt()


def relevance_term(cosine: Tensor) -> Tensor:
    """clip((z - 2) / 4, 0, 1) of the cosines' robust z-scores: [B, N] -> [B, N].

    A question that names nothing in the image raises (almost) no token.
    """
    return ((robust_z(cosine, COSINE_FLOOR) - 2) / 4).clamp(0, 1)


def spread_relevance(relevance: Tensor, grid: tuple[int, int, int], share: float) -> Tensor:
    """Raise every token to at least `share` of the greatest relevance in its row of its view: [B, N] -> [B, N]."""
    rows = relevance.unflatten(1, grid)  # [B, V, R, C]
    return torch.maximum(rows, share * rows.amax(dim=-1, keepdim=True)).flatten(1)


def pixel_edges(pixels: Tensor, rows: int, cols: int, kind: str = "gradient") -> Tensor:
    """Edge of every patch, from the luminance: [B, V, 3, H, W] -> [B, V * rows * cols].

    Pixels beyond `rows * 14` x `cols * 14` belong to no patch and are ignored.

    Args:
        kind: "gradient": mean gradient magnitude by forward differences.
            "density": share of pixels whose squared gradient is above `STEEP` times the image's mean.
            "strokes": the lesser of two shares of steep pixels, by horizontal and by vertical differences; glyphs have both,
            ruled lines and borders one.
            "print": strokes above the grain (`GRAIN`), computed in the upper and the lower half of the patch and averaged, so
            that a ruled line in one half and a border in the other do not count as a glyph.
            "runs": as "print"; the gate joins runs.
            "variance": variance of the luminance.
    """
    height, width = rows * PATCH, cols * PATCH
    red, green, blue = pixels.flatten(0, 1)[..., :height, :width].float().unbind(1)  # [B * V, H, W] each
    luminance = (red * LUMINANCE[0]).add_(green, alpha=LUMINANCE[1]).add_(blue, alpha=LUMINANCE[2])
    images = pixels.shape[0]
    if kind == "variance":
        mean = _cell_means(luminance, rows, cols)
        return _cell_means(luminance.square_(), rows, cols).sub_(mean.square_()).clamp_min_(0).reshape(images, -1)
    if kind == "strokes":
        return _strokes(luminance, rows, cols, images)
    if kind in PRINT:
        return _print(luminance, rows, cols, images)
    squared = torch.zeros_like(luminance)
    squared[:, :, :-1] = (luminance[:, :, 1:] - luminance[:, :, :-1]).square_()
    squared[:, :-1] += (luminance[:, 1:] - luminance[:, :-1]).square_()
    values = squared.sqrt_() if kind == "gradient" else squared.gt_(_steep(squared, images))  # 0 or 1
    return _cell_means(values, rows, cols).reshape(images, -1)


def _strokes(luminance: Tensor, rows: int, cols: int, images: int) -> Tensor:
    """The lesser of the shares of pixels steep horizontally and vertically: [B * V, H, W] -> [B, V * rows * cols]."""
    across, down = _squared_steps(luminance)
    steep = _steep(across, images) + _steep(down, images)
    shares = (_cell_means(squared.gt_(steep), rows, cols) for squared in (across, down))
    return torch.minimum(*shares).reshape(images, -1)


def _squared_steps(luminance: Tensor) -> tuple[Tensor, Tensor]:
    """Squared differences to the right and downwards, 0 at the right and bottom border: [B * V, H, W] each."""
    across, down = torch.zeros_like(luminance), torch.zeros_like(luminance)
    across[:, :, :-1] = (luminance[:, :, 1:] - luminance[:, :, :-1]).square_()
    down[:, :-1] = (luminance[:, 1:] - luminance[:, :-1]).square_()
    return across, down


def _print(luminance: Tensor, rows: int, cols: int, images: int) -> Tensor:
    """Strokes above the grain, mean of both half patches: [B * V, H, W] -> [B, V * rows * cols]."""
    across, down = _squared_steps(luminance)
    energy = _cell_means(across + down, rows, cols).reshape(images, -1)  # [B, N]
    grain = energy.kthvalue((energy.shape[1] + 3) // 4, dim=1).values
    mean = energy.mean(dim=1)
    steep = (GRAIN * grain).clamp(STEEPNESS[0] * mean, STEEPNESS[1] * mean)
    steep = steep.repeat_interleave(luminance.shape[0] // images).view(-1, 1, 1)
    halves = (_cell_means(squared.gt_(steep), 2 * rows, cols) for squared in (across, down))
    return torch.minimum(*halves).unflatten(1, (rows, 2)).mean(2).reshape(images, -1)


def _steep(squared: Tensor, images: int) -> Tensor:
    """`STEEP` times the mean over all views of an image: [B * V, H, W] -> [B * V, 1, 1]."""
    typical = squared.reshape(images, -1).mean(dim=1)
    return (STEEP * typical).repeat_interleave(squared.shape[0] // images).view(-1, 1, 1)


def _cell_means(values: Tensor, rows: int, cols: int) -> Tensor:
    """Mean of every cell's pixels: [B * V, H, W] -> [B * V, rows, cols]; rows and cols divide H and W."""
    bands = values.unflatten(1, (rows, -1)).sum(2)  # [B * V, rows, W]: rows first, since they are contiguous
    return bands.unflatten(2, (cols, -1)).sum(-1) / (values[0].numel() // (rows * cols))


def spread_edges(edges: Tensor, grid: tuple[int, int, int], share: float, vertical: float = 1 / 3) -> Tensor:
    """Add part of every token's edge to its neighbours: [B, N] -> [B, N].

    `share` of it is added left and right, `share * vertical` above and below; the border is replicated.
    """
    views, rows, cols = grid
    cells = torch.nn.functional.pad(edges.reshape(-1, 1, rows, cols), (1, 1, 1, 1), mode="replicate")[:, 0]
    beside = cells[:, 1:-1, :-2] + cells[:, 1:-1, 2:]
    above = cells[:, :-2, 1:-1] + cells[:, 2:, 1:-1]
    return cells[:, 1:-1, 1:-1].add(beside, alpha=share).add_(above, alpha=share * vertical).reshape(edges.shape)


def token_edges(grid_tokens: Tensor) -> Tensor:
    """Gradient magnitude of the token map, used without pixels: [B, V, R, C, D] -> [B, N].

    Root of the summed squared distances to the (up to four) neighbours.
    """
    batch, views, rows, cols, _ = grid_tokens.shape
    squared = grid_tokens.new_zeros(batch, views, rows, cols)
    if cols > 1:
        across = torch.linalg.vector_norm(grid_tokens[:, :, :, 1:] - grid_tokens[:, :, :, :-1], dim=-1).square_()
        squared[:, :, :, 1:] += across
        squared[:, :, :, :-1] += across
    if rows > 1:
        down = torch.linalg.vector_norm(grid_tokens[:, :, 1:] - grid_tokens[:, :, :-1], dim=-1).square_()
        squared[:, :, 1:] += down
        squared[:, :, :-1] += down
    return squared.sqrt_().flatten(1)
