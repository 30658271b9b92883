"""The gate: selects a budget of visual tokens, once per image, before the language model."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from .config import GateConfig
from .merge import merge_tokens
from .selectors import SELECTORS, Request, Selection
from .summary import keep_tokens
from .terms import PATCH


@dataclass
class Kept:
    """Kept tokens of B images, with scores and clusters."""

    tokens: Tensor
    """[B, K + 1, D], raster order, then the summary token ([B, K, D] without it); the dtype of the input."""
    indices: Tensor | None
    """[B, K] long, ascending: indices of the kept tokens among the N; None if the selector merges tokens."""
    scores: Tensor
    """[B, N] float32; tokens of higher score are kept first."""
    clusters: Tensor
    """[B, N] long, cluster of every token."""
    assignment: Tensor
    """[B, N] long: the output, 0 to K - 1, that every token went to, or -1 for none. Outputs are kept tokens, or means if the
    selector merges tokens."""


class ShirgGate(nn.Module):
    """Keeps `budget` of an image's N tokens and adds a summary token. It has no parameters.

    Raises:
        ValueError: for a selector name that is not in `SELECTORS`.
    """

    def __init__(self, config: GateConfig | None = None) -> None:
        super().__init__()
        self.config = config or GateConfig()
        if self.config.selector not in SELECTORS:
            raise ValueError(f"selector {self.config.selector!r} is unknown; there are {', '.join(sorted(SELECTORS))}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Inputs that the selector requires in addition to the tokens: "attention", "keys", both or (mostly) none."""
        return SELECTORS[self.config.selector].needs

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return repr(self.config)

    def forward(
        self,
        tokens: Tensor,
        budget: int,
        grid: Sequence[int],
        text: Tensor | None = None,
        pixels: Tensor | None = None,
        relevance: Tensor | None = None,
        attention: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> Kept:
        """Score, group and keep tokens. Gradients flow through the kept tokens and the summary, not through the selection.

        Args:
            tokens: [B, N, D], the tower's raw hidden states, without layer norm or L2 norm.
            budget: tokens to keep per image, all views together; N or more keeps everything.
            grid: (rows, cols) or (views, rows, cols) with a product of N; tokens in raster order, view after view.
            text: [B, L, D], question tokens in the same space as `tokens`.
            pixels: [B, 3, H, W], or [B, V, 3, H, W] for several views, as given to the tower. Patches are 14 x 14; up to 13
                pixels at the right and bottom that fill no patch are ignored.
            relevance: [B, N], cosine of each token to the question, instead of `text`, if it is computed in another space.
            attention: [B, N], attention that each token receives in the tower's last layer, mean over heads and over
                the queries of its view. Read by selectors that need it (`needs`).
            keys: [B, N, Dk], that layer's keys, heads concatenated. Read by selectors that need them.

        Raises:
            ValueError: for shapes or values that do not fit together, with the numbers; for missing attention or keys that the
                selector needs; for NaN or infinite input (eager calls only, since the check synchronises with the device).
        """
        grid = _check(tokens, budget, grid, text, pixels, relevance, self.config)
        given = _check_needs(tokens, self.config.selector, self.needs, attention=attention, keys=keys)
        budget = min(budget, tokens.shape[1])
        with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
            selection = self._select(Request(tokens, budget, grid, text, pixels, relevance, self.config, **given))
            if selection.total is None:
                selection.total = tokens.sum(dim=1, dtype=torch.float32)
        if not _is_traced(tokens):
            _check_finite(selection, given, tokens=tokens, text=text, pixels=pixels, relevance=relevance, **given)
        if selection.indices is None:
            kept = merge_tokens(tokens, selection, budget, self.config.summary)
        else:
            kept = keep_tokens(tokens, selection, self.config.summary)
        return Kept(kept, selection.indices, selection.scores, selection.clusters, _outputs(selection))

    def _select(self, request: Request) -> Selection:
        """Run the selector: image by image on a CPU, which is faster because of its cache; the whole batch on other devices."""
        select = SELECTORS[self.config.selector].select
        batch = request.tokens.shape[0]
        if batch == 1 or request.tokens.device.type != "cpu":
            return select(_prepare(request, slice(None)))
        parts = [select(_prepare(request, slice(i, i + 1))) for i in range(batch)]
        return _join(parts)


def _join(parts: list[Selection]) -> Selection:
    """Concatenate selections of single images by the same selector."""
    present = [field.name for field in fields(Selection) if getattr(parts[0], field.name) is not None]
    columns = {name: [getattr(part, name) for part in parts] for name in present}
    interpolation = columns.pop("interpolation", None)
    joined: dict[str, Any] = {"indices": None} | {name: torch.cat(column) for name, column in columns.items()}
    if interpolation is not None:
        joined["interpolation"] = tuple(map(torch.cat, zip(*interpolation, strict=True)))
    return Selection(**joined)


def _prepare(request: Request, images: slice) -> Request:
    """Some images of a request, in float32 and with an axis for views."""
    pixels = None if request.pixels is None else request.pixels[images]
    text, relevance, attention, keys = (
        None if value is None else value[images].detach().float()
        for value in (request.text, request.relevance, request.attention, request.keys)
    )
    return Request(
        tokens=request.tokens[images].detach().float(),
        budget=request.budget,
        grid=request.grid,
        text=text,
        pixels=pixels if pixels is None or pixels.dim() == 5 else pixels.unsqueeze(1),
        relevance=relevance,
        config=request.config,
        attention=attention,
        keys=keys,
    )


def _outputs(selection: Selection) -> Tensor:
    """The output that every token goes to, [B, N]: the selector's assignment, else the number of the kept token."""
    if selection.assignment is not None:
        return selection.assignment
    indices = selection.indices
    assert indices is not None, "a selector that merges tokens returns the assignment"
    outputs = torch.arange(indices.shape[1], device=indices.device).expand(indices.shape)
    return indices.new_full(selection.scores.shape, -1).scatter_(1, indices, outputs)


def _is_traced(tokens: Tensor) -> bool:
    """Whether this call is compiled or captured in a CUDA graph, where reading a value on the host is impossible."""
    return torch.compiler.is_compiling() or (tokens.is_cuda and torch.cuda.is_current_stream_capturing())


def _check_finite(selection: Selection, given: dict[str, Tensor], **inputs: Tensor | None) -> None:
    """Raise for NaN and infinity. They propagate to the small outputs, so the inputs are read only to name the cause.

    Attention and keys are checked by their sums, too: ranks and nearest neighbours computed from NaN can be finite.
    """
    total = () if selection.total is None else (selection.total,)
    checked = [selection.scores, *total, *(value.sum(dim=1, dtype=torch.float32) for value in given.values())]
    finite = [torch.isfinite(value).all() for value in checked]
    if bool(functools.reduce(torch.logical_and, finite)):
        return
    for name, value in inputs.items():
        if value is not None and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise ValueError(f"{name} holds {bad} NaN or infinite values of {value.numel()}")
    read = {name: inputs[name] for name in ("tokens", *given)}
    largest = {name: float(value.abs().max()) for name, value in read.items() if value is not None}
    name = max(largest, key=lambda one: largest[one])
    raise ValueError(f"{name} are too large to be squared in float32: |value| up to {largest[name]:.3g}")


def _check(
    tokens: Tensor,
    budget: int,
    grid: Sequence[int],
    text: Tensor | None,
    pixels: Tensor | None,
    relevance: Tensor | None,
    config: GateConfig,
) -> tuple[int, int, int]:
    """Check shapes and values; returns the grid as (views, rows, cols)."""
    if tokens.dim() != 3 or 0 in tokens.shape or not tokens.is_floating_point():
        raise ValueError(f"tokens must be floating-point [B, N, D], got {tokens.dtype} {list(tokens.shape)}")
    batch, count, width = tokens.shape
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise ValueError(f"budget must be a whole number of tokens, at least 1 (there are {count}), got {budget!r}")
    if len(grid) not in (2, 3) or any(not isinstance(side, int) or side < 1 for side in grid):
        raise ValueError(f"grid must be (rows, cols) or (views, rows, cols), each at least 1, got {tuple(grid)}")
    if math.prod(grid) != count:
        raise ValueError(f"grid {tuple(grid)} holds {math.prod(grid)} tokens, but tokens is {list(tokens.shape)}")
    views, rows, cols = (1, *grid) if len(grid) == 2 else grid
    if pixels is not None:
        _check_pixels(pixels, batch, (views, rows, cols))
    if text is not None and relevance is not None:
        raise ValueError("give text or relevance, not both: relevance replaces the comparison with text")
    if text is not None and (text.dim() != 3 or text.shape[0] != batch or text.shape[1] < 1):
        raise ValueError(f"text must be [B, L, D] with B = {batch} and L at least 1, got {list(text.shape)}")
    if text is not None and text.shape[2] != width:
        raise ValueError(
            f"text is {text.shape[2]} wide and tokens are {width}: they must share a space; "
            "otherwise compute the cosines yourself and give relevance [B, N]"
        )
    if relevance is not None and tuple(relevance.shape) != (batch, count):
        raise ValueError(f"relevance must be [B, N] = [{batch}, {count}], got {list(relevance.shape)}")
    if config.alpha == 0 and config.beta == 0 and text is None and relevance is None:
        raise ValueError("alpha = 0 and beta = 0 leave nothing to rank by without text or relevance")
    return views, rows, cols


def _check_needs(tokens: Tensor, selector: str, needs: tuple[str, ...], **given: Tensor | None) -> dict[str, Tensor]:
    """Check that the selector's needs are given; returns those inputs only, so that no other is cast or read."""
    batch, count, _ = tokens.shape
    forms = {"attention": f"[B, N] = [{batch}, {count}]", "keys": f"[B, N, Dk] with B = {batch} and N = {count}"}
    missing = [name for name in needs if given[name] is None]
    if missing:
        raise ValueError(
            f"selector {selector!r} needs {' and '.join(missing)} of the tower's last layer: "
            f"give {' and '.join(f'{name} {forms[name]}' for name in missing)}"
        )
    for name, dims in (("attention", 2), ("keys", 3)):
        value = given[name]
        if value is not None and (value.dim() != dims or value.shape[:2] != tokens.shape[:2]):
            raise ValueError(f"{name} must be {forms[name]}, got {list(value.shape)}")
    return {name: value for name, value in given.items() if value is not None and name in needs}


def _check_pixels(pixels: Tensor, batch: int, grid: tuple[int, int, int]) -> None:
    """Check that the pixels have the grid's number of patches."""
    views, rows, cols = grid
    fits = pixels.dim() == 5 or (pixels.dim() == 4 and views == 1)
    leading = (batch, views, 3) if pixels.dim() == 5 else (batch, 3)
    if not fits or tuple(pixels.shape[:-2]) != leading:
        wanted = f"[{batch}, 3, H, W]" if views == 1 else f"[{batch}, {views}, 3, H, W]"
        raise ValueError(f"pixels must be {wanted}, got {list(pixels.shape)}")
    height, width = pixels.shape[-2:]
    if (height // PATCH, width // PATCH) != (rows, cols):
        raise ValueError(
            f"pixels of {height} x {width} hold {height // PATCH} x {width // PATCH} patches of {PATCH} x {PATCH}, "
            f"but the grid has {rows} x {cols}"
        )
