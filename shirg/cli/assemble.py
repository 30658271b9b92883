"""`shirg assemble`: builds a LaViDa from a language model and a vision tower."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

from tyro.conf import arg

from shirg.cli.flags import SeedFlags
from shirg.cli.runner import run_command
from shirg.errors import UserError


@dataclasses.dataclass(kw_only=True)
class Flags(SeedFlags):
    """Build a LaViDa from a plain LLaDA or Dream and a SigLIP tower, with the settings of the HD recipe, and write its folder.

    Without --projector the projector is random: the model loads, trains and generates, but cannot use images until the
    projector is trained.
    """

    language: Annotated[str, arg(metavar="DIR")]
    """Plain LLaDA or Dream: a folder with config.json, safetensors and tokenizer, or a hub id."""

    tower: Annotated[str, arg(metavar="DIR")]
    """SigLIP for 384 pixels in patches of 14, the whole model or its vision part: a folder or a hub id."""

    projector: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: a random one)")] = None
    """Stage-1 projector as safetensors, from an mm_projector.bin by `shirg convert`."""

    output: Annotated[Path, arg(metavar="DIR")]
    """New folder for the model, in LaViDa's official layout."""


def command(flags: Flags) -> None:
    """Assemble, save, and print a summary."""
    from rich.console import Console

    from shirg.lavida.assemble import assemble
    from shirg.lavida.loading import quiet_libraries

    if flags.output.exists() and not (flags.output.is_dir() and not any(flags.output.iterdir())):
        raise UserError(f"--output: {flags.output} is not empty; give a new folder")
    with quiet_libraries():
        model = assemble(flags.language, flags.tower, projector=flags.projector, seed=flags.seed)
        model.save_pretrained(flags.output)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    projector = flags.projector or f"random, seed {flags.seed}"
    precision = str(model.dtype).removeprefix("torch.")
    Console(soft_wrap=True).print(
        f"LaViDa with {numbers:,} parameters in {precision}, projector {projector}: {flags.output}", highlight=False
    )


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
