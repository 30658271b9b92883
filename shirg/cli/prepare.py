"""`shirg prepare`: make a training set."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from shirg.cli.flags import DataFlags
from shirg.cli.runner import run_command

if TYPE_CHECKING:
    from shirg.data.preparation import SHIRGDatasetConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(DataFlags):
    """Make a training set: images, questions and answers in Parquet files with a manifest, the same for the same seed.

    `--dataset-size 558000 --ocr-samples 50000` is the full mixture of 608,000 records.
    """

    image_resolution: int = 672
    """Pixels per side of rendered pages, a multiple of 14; real images keep their size."""

    output_dir: Path = Path("./shirg_data")
    """Folder for the shards and the manifest. A run that was stopped goes on where it was."""


def dataset_config(flags: DataFlags, image_resolution: int, folder: Path) -> SHIRGDatasetConfig:
    """The flags as the library's configuration.

    Raises:
        UserError: for a value that cannot be prepared.
    """
    from shirg.data.preparation import SHIRGDatasetConfig

    config = SHIRGDatasetConfig(
        base_dataset_size=flags.dataset_size,
        ocr_enhancement_size=flags.ocr_samples,
        output_dir=folder,
        image_resolution=image_resolution,
        seed=flags.seed,
        data_dir=flags.data_dir,
    )
    config.check()
    return config


def command(flags: Flags) -> None:
    """Prepare, and say what came of it."""
    from rich.console import Console

    from shirg.cli.models import check_writable
    from shirg.data.preparation import SHIRGDatasetProcessor

    config = dataset_config(flags, flags.image_resolution, flags.output_dir)
    check_writable(flags.output_dir)
    folder = SHIRGDatasetProcessor(config).prepare_full_dataset()
    Console(soft_wrap=True).print(f"{summary(folder)}: {folder}", highlight=False)


def summary(folder: Path) -> str:
    """One line about a prepared folder, from its manifest."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    splits = ", ".join(
        f"{entry['records']:,} for {'training' if name == 'train' else name} on {entry['images']:,} images"
        for name, entry in manifest["splits"].items()
    )
    skipped = len(manifest["rejected"])
    return (
        f"{manifest['total_samples']:,} records ({splits}; {manifest['sources'].get('rendered', 0):,} of them rendered)"
        + (f", {skipped:,} entries skipped, listed in manifest.json" if skipped else "")
    )


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
