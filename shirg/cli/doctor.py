"""`shirg doctor`: checks what a training run needs, and prints a remedy for every failed check."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

from tyro.conf import arg

from shirg.cli import checkup
from shirg.cli.checkup import Finding
from shirg.cli.flags import CommonFlags, OptionalFolder
from shirg.cli.runner import run_command
from shirg.errors import UserError

OF_THE_MODEL = ("weights", "peft")
"""Checks that need a loaded model."""

DEFAULT_REMEDIES = {
    "weights": "get the model's files again, or use another --model",
    "data": "shirg prepare writes the folder again",
}
"""Remedies for errors that name none."""


@dataclasses.dataclass(kw_only=True)
class Flags(CommonFlags):
    """Check Python, packages, device, weights, disk and data before a run; the exit code is 1 if a check fails.

    Nothing is downloaded and nothing is changed.
    """

    model: str = "nano"
    """`nano`, a folder in LaViDa's official layout, or a hub id whose files are in the hub's cache. For `llada-8b` and
    `dream-7b`, published shapes without weights, only device and memory are checked."""

    revision: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the main branch)")] = None
    """Branch, tag or commit of a model on the hub."""

    prepared_dir: OptionalFolder = None
    """Folder of `shirg prepare` to check."""

    output_dir: Path = Path("./shirg_lora_output")
    """Output folder of the run; its free space is checked."""


def findings(flags: Flags) -> Iterator[Finding]:
    """All checks, in the order in which a run depends on them."""
    packages = checkup.python_and_packages()
    yield from packages
    if not all(finding.good for finding in packages):
        yield from _skipped("needs the packages", "images", "GPU", "memory", *OF_THE_MODEL, "data", "disk")
        return
    yield checkup.images()
    yield from _device(flags)
    yield from _model(flags)
    try:
        yield checkup.data(flags.prepared_dir)
    except UserError as error:
        yield _failed("data", error)
    yield checkup.disk(flags.output_dir)


def _device(flags: Flags) -> Iterator[Finding]:
    """Checks that need the configuration alone. If it is missing, the check of the weights reports that."""
    try:
        config = checkup.config(flags.model, flags.revision)
    except UserError:
        yield from _skipped("needs the model's config.json", "GPU", "memory")
        return
    yield from checkup.device_and_memory(config)


def _model(flags: Flags) -> Iterator[Finding]:
    try:
        folder = checkup.checkpoint_folder(flags.model, flags.revision)
        model = checkup.load(folder)
    except UserError as error:
        yield _failed("weights", error)
        yield from _skipped("needs the weights", *OF_THE_MODEL[1:])
        return
    yield checkup.weights(model, folder)
    yield checkup.lora(model)


def _failed(name: str, error: UserError) -> Finding:
    """A failed check from an error; the remedy is the end of its message."""
    found, _, remedy = str(error).partition("; ")
    return Finding(name, False, found, remedy or DEFAULT_REMEDIES[name])


def _skipped(reason: str, *names: str) -> Iterator[Finding]:
    return (Finding(name, None, reason) for name in names)


def command(flags: Flags) -> None:
    """Run the checks, print them, and exit with 1 if one failed."""
    from rich.console import Console

    found = list(findings(flags))
    Console(highlight=False).print(checkup.table(f"shirg doctor, model {flags.model}", found))
    counts = [sum(finding.good is good for finding in found) for good in (True, False, None)]
    print("{} ok, {} failed, {} not checked".format(*counts))
    if counts[1]:
        raise SystemExit(1)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
