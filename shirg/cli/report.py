"""`shirg report`: checks the numbers of an evaluation and writes its report again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tyro.conf import Positional

from shirg.cli.flags import CommonFlags
from shirg.cli.runner import run_command
from shirg.locks import folder_lock


@dataclasses.dataclass(kw_only=True)
class Flags(CommonFlags):
    """Score the answers in an evaluation's folder again, check every number against them, and write charts and reports again.

    Needs neither model nor data. Ends with exit code 2 if a number does not follow from the answers; times and bytes are
    not checked.
    """

    folder: Positional[Path]
    """Output of `shirg evaluate`: `detailed_results.json` and `evaluation_results.json`."""


def command(flags: Flags) -> None:
    """Check, write, and print the tables."""
    from rich.console import Console

    from shirg.cli.scoreboard import scoreboard
    from shirg.evaluation.output import redo

    with folder_lock(flags.folder, setting="folder") if flags.folder.is_dir() else contextlib.nullcontext():
        results = redo(flags.folder)
    console = Console(soft_wrap=True)
    for shown in scoreboard(results):
        Console(width=max(console.width, 160)).print(shown)
    scored = sum(dataset.questions for dataset in results.datasets) * len(results.variants)
    done = f"{scored} answers scored again, all numbers agree; report: {flags.folder / 'evaluation_report.html'}"
    console.print(done, highlight=False, markup=False)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
