"""`shirg convert`: writes a pickled projector as safetensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tyro.conf import Positional

from shirg.cli.flags import CommonFlags
from shirg.cli.runner import run_command


@dataclasses.dataclass(kw_only=True)
class Flags(CommonFlags):
    """Write the projector of a pickled mm_projector.bin, the result of LaViDa's first training stage, as safetensors.

    Opening a pickle can run any code. This one is opened by torch's restricted unpickler (weights_only=True), which
    creates tensors and plain containers, and refuses files that need anything else. Tensors whose names do
    not contain mm_projector are left out.
    """

    source: Positional[Path]
    """The pickled file."""

    target: Positional[Path]
    """The safetensors file to write."""

    force: bool = False
    """Replace a different file of that name."""


def command(flags: Flags) -> None:
    """Convert, and print what was found."""
    from rich.console import Console

    from shirg.lavida.assemble import convert_projector

    shapes = convert_projector(flags.source, flags.target, force=flags.force)
    hidden, width = next(shape for name, shape in shapes.items() if name.endswith("0.weight"))
    Console(soft_wrap=True).print(f"projector {width} -> {hidden} -> {hidden}: {flags.target}", highlight=False)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
