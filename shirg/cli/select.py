"""`shirg select IMAGE`: draw which patches of a page are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

from tyro.conf import Positional, arg

from shirg.cli.flags import AdaptedModelFlags
from shirg.cli.runner import run_command
from shirg.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(AdaptedModelFlags):
    """Draw a page with its kept patches bright, its dropped ones dimmed, and the borders of the clusters."""

    image: Positional[Path]
    """A PNG, JPEG, GIF, WebP, BMP, TIFF or PPM file."""

    budget: int = 768
    """Patches to keep, from 1 to the number of patches (2304 at 672 pixels)."""

    question: str = ""
    """Choose with this question in mind; without it by the page alone."""

    selector: str = "shirg"
    """The rule that chooses: shirg, or for comparison random, uniform."""

    output: Annotated[
        Path | None, arg(metavar="FILE.png", help_behavior_hint="(default: IMAGE's name with .kept.png)")
    ] = None
    """Where the picture goes."""


def command(flags: Flags) -> None:
    """Choose, draw, and say what was kept."""
    from rich.console import Console

    from shirg.cli.models import load_image, load_model
    from shirg.evaluation.figures import draw_kept
    from shirg.files import atomic_path
    from shirg.gate import GateConfig, ShirgGate
    from shirg.lavida.images import square_view

    page = load_image(flags.image)
    model = load_model(flags, flags.adapter)
    try:
        model.gate = ShirgGate(GateConfig(**dataclasses.asdict(model.gate.config) | {"selector": flags.selector}))
    except ValueError as error:
        raise UserError(f"--selector: {error}") from error
    question_ids = model.question_ids(model.prompt_ids(flags.question)) if flags.question else None
    features = model.image_features(page, "shirg")
    kept = model.select(features, flags.budget, question_ids)

    output = flags.output or flags.image.with_suffix(".kept.png")
    picture = draw_kept(square_view(page, model.resolution, model.fit), kept, features.grid)
    with atomic_path(output) as fresh:
        picture.save(fresh, "PNG")
    count, total = int(kept.assignment.max()) + 1, kept.scores.shape[1]
    clusters = kept.clusters[0].unique().numel()
    Console(soft_wrap=True).print(
        f"kept {count} of {total} patches ({count / total:.0%}) in {clusters} clusters: {output}", highlight=False
    )


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
