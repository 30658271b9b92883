"""`shirg merge`: writes a checkpoint with an adapter merged into the projector."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tyro.conf import Positional

from shirg.cli.flags import ModelFlags
from shirg.cli.runner import run_command


@dataclasses.dataclass(kw_only=True)
class Flags(ModelFlags):
    """Write a checkpoint in LaViDa's official layout with an adapter merged into its projector.

    The official code loads it, without peft or SHIRG. The base model's files do not change.
    """

    adapter: Positional[Path]
    """The adapter: a `best_model` or `checkpoint-N` folder."""

    target: Positional[Path]
    """The folder to write."""


def command(flags: Flags) -> None:
    """Load, merge, write, and print the path."""
    from rich.console import Console

    from shirg.cli.models import load_model

    model = load_model(flags, flags.adapter, as_stored=True)
    model.merge_adapter()
    model.save_pretrained(flags.target)
    Console(soft_wrap=True).print(f"merged checkpoint: {flags.target}", highlight=False)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
