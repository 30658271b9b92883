"""`shirg push`: uploads an adapter and its card to the hub."""

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
    """Upload an adapter folder and its card to the hub, in one commit; log in with `hf auth login` before."""

    adapter: Positional[Path]
    """The adapter: a `best_model` or `checkpoint-N` folder; optimizer states are left out."""

    repo: Positional[str]
    """OWNER/NAME on the hub; created if it does not exist."""

    base_model: str | None = None
    """Hub id of the base model; needed if the adapter was trained on a copy in a folder."""

    private: bool = False
    """Create the repository as private."""


def command(flags: Flags) -> None:
    """Upload, and print the address."""
    from rich.console import Console

    from shirg.integrations.hub import push_to_hub

    where = push_to_hub(flags.adapter, flags.repo, base_model=flags.base_model, private=flags.private)
    Console(soft_wrap=True).print(f"adapter: {where}", highlight=False)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
