"""`shirg answer IMAGE QUESTION`: ask one question about one page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn

from tyro.conf import Positional

from shirg.cli.flags import AdaptedModelFlags
from shirg.cli.runner import run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(AdaptedModelFlags):
    """Ask one question about one page; the answer alone is printed."""

    image: Positional[Path]
    """A PNG, JPEG, GIF, WebP, BMP, TIFF or PPM file."""

    question: Positional[str]
    """What to ask, in quotes."""

    mode: Literal["shirg", "lowres", "hd", "highres", "multiview"] = "shirg"
    """shirg keeps a budget of tokens, highres keeps all, lowres sees 384 pixels, hd pools tiles, multiview selects on them."""

    budget: int = 768
    """Visual tokens to keep, in the modes shirg and multiview."""

    max_new_tokens: int | None = None
    """Longest answer, in tokens (default: what the model is used with, 16 for the nano and 32 for official weights)."""


def command(flags: Flags) -> None:
    """Read and answer."""
    from shirg.cli.models import load_image, load_model

    page = load_image(flags.image)
    model = load_model(flags, flags.adapter)
    length = model.config.answer_tokens if flags.max_new_tokens is None else flags.max_new_tokens
    print(model.answer(page, flags.question, flags.mode, flags.budget, max_new_tokens=length, block_length=length))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
