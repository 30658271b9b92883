"""The vision paths: the views that an image is cut into, and how their tokens are reduced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from shirg.errors import ItemError, UserError
from shirg.lavida.views import Views


@dataclass(frozen=True)
class VisionPath:
    """How an image becomes the language model's visual tokens."""

    views: Views
    reduce: Literal["all", "pool", "pool-flat", "select"]
    """"all": every token. "pool": each view pooled to half its grid, tiles merged by the checkpoint's `mm_patch_merge_type`.
    "pool-flat": pooled, view after view. "select": a budget of tokens and a summary token."""
    early: bool = False
    """Whether the selection is made before the tower, which then encodes the selected patches alone."""


PATHS = {
    "lowres": VisionPath("base", "all"),
    "hd": VisionPath("tiles", "pool"),
    "highres": VisionPath("large", "all"),
    "shirg": VisionPath("large", "select"),
    "early": VisionPath("large", "select", early=True),
    "multiview": VisionPath("tiles", "select"),
    "hd-flat": VisionPath("tiles", "pool-flat"),
    "multiview-all": VisionPath("tiles", "all"),
}
"""Name -> path. Those that select take a budget."""
MODES = tuple(PATHS)
SELECTING = tuple(name for name, path in PATHS.items() if path.reduce == "select")
DEFAULT_BUDGET = 768


@dataclass
class VisionFeatures:
    """The tower's raw tokens of one image, with the data that later steps need; of an early path its patch embeddings."""

    views: Views
    tokens: Tensor
    """[V, N, D], N in raster order: outputs of the tower's last layer or, if `early`, inputs of its first."""
    pixels: Tensor
    """[V, 3, H, W] as given to the tower."""
    grid: tuple[int, int]
    """Rows and columns of each view, rows * columns = N."""
    image_size: tuple[int, int]
    """(width, height) of the upright image before it was cut into views."""
    last_input: Tensor | None = None
    """[V, N, D], input of the tower's last layer, for selectors that need attention or keys; None for others."""
    early: bool = False
    """Whether the tower encodes the selected patches alone, after the selection (`Lavida.encode_kept`)."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all views."""
        return self.tokens.shape[0] * self.tokens.shape[1]


def path_of(mode: str) -> VisionPath:
    """The vision path of this name.

    Raises:
        UserError: for an unknown name.
    """
    if mode not in PATHS:
        raise UserError(f"mode={mode!r} is unknown; expected {', '.join(map(repr, MODES))}")
    return PATHS[mode]


def check_budget(budget: int, available: int, *, tiles: bool = False) -> None:
    """Raise `UserError` unless 1 <= budget <= available.

    If a budget is above the tokens of `tiles`, whose number depends on the image, it is an `ItemError`.
    """
    if isinstance(budget, bool) or not isinstance(budget, int) or not 1 <= budget <= available:
        too_many = isinstance(budget, int) and budget > available
        kind = ItemError if tiles and too_many else UserError
        raise kind(
            f"budget: got {budget!r}, must be a whole number from 1 to the tokens of the image, here {available:,}"
        )
