"""The five vision paths: which views an image is cut into, and what becomes of their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from shirg.errors import ItemError, UserError
from shirg.images import to_rgb
from shirg.lavida import images

if TYPE_CHECKING:
    from PIL import Image

    from shirg.lavida.model import Lavida

MODES = ("lowres", "hd", "highres", "shirg", "multiview")
SELECTING = ("shirg", "multiview")
DEFAULT_BUDGET = 768

VIEWS = {"lowres": "lowres", "hd": "tiles", "multiview": "tiles", "highres": "large", "shirg": "large"}
"""Mode -> the views it looks at; modes with the same views share the tower's features."""
PATHS = {"lowres": "lowres", "hd": "hd", "multiview": "multiview", "highres": "highres", "shirg": "highres"}
"""Mode -> the name of its features."""


@dataclass
class VisionFeatures:
    """The tower's raw tokens of one image, and what later steps must know of where they came from."""

    path: str
    """"lowres", "hd", "highres" or "multiview"."""
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

    def serves(self, mode: str) -> bool:
        """Whether `mode` looks at the views these features are of."""
        return VIEWS[self.path] == VIEWS[mode]


def check_mode(mode: str) -> None:
    """Raises UserError for an unknown vision path."""
    if mode not in MODES:
        raise UserError(f"mode={mode!r} is unknown; expected {', '.join(map(repr, MODES))}")


Budget = int | Literal["auto"]
"""Visual tokens to keep; "auto" is what `shirg.gate.page_budget` finds for the image."""


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
    def of(cls, model: Lavida) -> ViewShapes:
        """Those of this model."""
        return cls(model.resolution, model.tower.image_size, model.config.pinpoints, model.fit)

    def cut(self, image: Image.Image, views: str) -> list[Image.Image]:
        """The RGB image's `views` (a value of `VIEWS`): one of `tile` pixels, base view and tiles, or one of
        `resolution` pixels."""
        if views == "tiles":
            return images.anyres_views(image, self.pinpoints, self.tile)
        return [images.square_view(image, self.tile if views == "lowres" else self.resolution, self.fit)]


def look(model: Lavida, image: Image.Image, mode: str) -> VisionFeatures:
    """What the model's tower makes of an image's views for `mode`; differentiable in the tower.

    Raises:
        UserError: if it is no image of a sensible size.
    """
    image = to_rgb(image)
    views = images.to_bytes(ViewShapes.of(model).cut(image, VIEWS[mode]))
    return look_at(model, views, image.size, mode)


def look_at(model: Lavida, views: Tensor, image_size: tuple[int, int], mode: str) -> VisionFeatures:
    """As `look`, of views that are cut already.

    Args:
        views: [V, H, W, 3] uint8, what `ViewShapes.of(model)` cuts for `VIEWS[mode]`.
        image_size: (width, height) of the upright image that they were cut from.
    """
    pixels = images.normalised(views.to(model.device))
    grid = model.tower.grid(*pixels.shape[-2:])
    tokens, last_input = model.tower.forward_with_input(pixels) if model.gate.needs else (model.tower(pixels), None)
    return VisionFeatures(PATHS[mode], tokens, pixels, grid, image_size, last_input)
