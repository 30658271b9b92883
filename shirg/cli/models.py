"""Loading what the flags name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shirg.cli.flags import GateFlags, ModelFlags, SelectorFlags

if TYPE_CHECKING:
    from PIL import Image

    from shirg.lavida import Lavida


def load_model(flags: ModelFlags, adapter: Path | None = None, *, as_stored: bool = False) -> Lavida:
    """The model of `flags`: see `shirg.lavida.loading.load_model`."""
    from shirg.lavida import loading

    return loading.load_model(
        flags.model,
        adapter,
        revision=flags.revision,
        resolution=flags.image_resolution,
        fit=flags.fit,
        preset=flags.preset if isinstance(flags, GateFlags) else None,
        selector=flags.selector if isinstance(flags, SelectorFlags) else None,
        relevance=flags.relevance,
        relevance_sign=flags.relevance_sign,
        text_tower=flags.text_tower,
        as_stored=as_stored,
    )


def load_image(path: Path) -> Image.Image:
    """The page at `path`, upright and RGB.

    Raises:
        UserError: if it is missing, no image, damaged or too large.
    """
    from shirg.data.images import read_bytes
    from shirg.images import open_image

    return open_image(read_bytes(path), f"image {path}")
