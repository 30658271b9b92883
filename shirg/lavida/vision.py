"""The vision paths: which views an image is cut into, and what becomes of their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from shirg.errors import ItemError, UserError
from shirg.lavida import images
from shirg.lavida.settings import VisionSettings

if TYPE_CHECKING:
    from PIL import Image

Views = Literal["base", "tiles", "large"]
"""What of an image the tower sees: the whole at the tower's own size; that and LaViDa's tiles; the whole at SHIRG's size."""


@dataclass(frozen=True)
class VisionPath:
    """From an image to the tokens that the language model gets."""

    views: Views
    reduce: Literal["all", "pool", "pool-flat", "select"]
    """All tokens; each view at half its grid, the tiles joined as the checkpoint says, or view after view; a budget of them
    and a summary token."""


PATHS = {
    "lowres": VisionPath("base", "all"),
    "hd": VisionPath("tiles", "pool"),
    "highres": VisionPath("large", "all"),
    "shirg": VisionPath("large", "select"),
    "multiview": VisionPath("tiles", "select"),
    "hd-flat": VisionPath("tiles", "pool-flat"),
    "multiview-all": VisionPath("tiles", "all"),
}
"""Name -> path. The first three and "hd-flat" are LaViDa's own views, "shirg" and "multiview" take a budget."""
MODES = tuple(PATHS)
SELECTING = tuple(name for name, path in PATHS.items() if path.reduce == "select")
DEFAULT_BUDGET = 768

Budget = int | Literal["auto"]
"""Visual tokens to keep; "auto" is what `shirg.gate.page_budget` finds for the image."""


@dataclass
class VisionFeatures:
    """The tower's raw tokens of one image, and what later steps must know of where they came from."""

    views: Views
    tokens: Tensor
    """[V, N, D], N in raster order."""
    pixels: Tensor
    """[V, 3, H, W] as given to the tower."""
    grid: tuple[int, int]
    """Rows and columns of each view, rows * columns = N."""
    image_size: tuple[int, int]
    """(width, height) of the upright image before it was cut into views."""
    last_input: Tensor | None = None
    """[V, N, D], input of the tower's last layer; kept for selectors that look at attention, None for the others."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all views."""
        return self.tokens.shape[0] * self.tokens.shape[1]


def path_of(mode: str) -> VisionPath:
    """The vision path of this name.

    Raises:
        UserError: if there is none.
    """
    if mode not in PATHS:
        raise UserError(f"mode={mode!r} is unknown; expected {', '.join(map(repr, MODES))}")
    return PATHS[mode]


def check_budget(budget: int, available: int, *, tiles: bool = False) -> None:
    """Raises UserError unless 1 <= budget <= available; `ItemError` where of `tiles`, another image may have enough."""
    if isinstance(budget, bool) or not isinstance(budget, int) or not 1 <= budget <= available:
        too_many = isinstance(budget, int) and budget > available
        kind = ItemError if tiles and too_many else UserError
        raise kind(f"budget={budget!r}: expected a whole number from 1 to {available}, the tokens of this image")


@dataclass(frozen=True)
class ViewShapes:
    """All that decides how a model cuts an image into views; without weights, so that loader workers can have it."""

    resolution: int
    """Side of the large view, pixels."""
    tile: int
    """Side of the base view and of tiles, pixels."""
    pinpoints: images.Pinpoints
    fit: str

    @classmethod
    def of(cls, settings: VisionSettings, tile: int, pinpoints: images.Pinpoints) -> ViewShapes:
        """Those of a model with these settings."""
        return cls(settings.resolution, tile, pinpoints, settings.fit)

    def cut(self, image: Image.Image, views: str) -> Tensor:
        """The views of an RGB image as bytes, [V, H, W, 3] uint8.

        Args:
            views: one of `Views`.
        """
        if views == "tiles":
            return images.to_bytes(images.anyres_views(image, self.pinpoints, self.tile))
        side = self.tile if views == "base" else self.resolution
        return images.to_bytes([images.square_view(image, side, self.fit)])
