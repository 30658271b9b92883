"""`shirg prepare`: prepare training data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

from tyro.conf import arg

from shirg.cli import config_file
from shirg.cli.flags import DataFlags
from shirg.cli.runner import run_command
from shirg.data.config import SHIRGDatasetConfig
from shirg.errors import UserError
from shirg.settings import settings_of


@dataclasses.dataclass(kw_only=True)
class Flags(DataFlags, SHIRGDatasetConfig):
    """Write a training set: images, questions and answers in Parquet files with a manifest, the same for equal seeds.

    `--dataset-size 558000 --ocr-samples 50000` is the full mixture of 608,000 records.
    """

    output_dir: Path = Path("./shirg_data")
    """Folder for the shards and the manifest. A stopped run resumes when the command is repeated."""

    list: bool = False
    """Print the supported data sets with licence, size and the files they need, and exit."""

    verify: Annotated[Path | None, arg(name="check", metavar="DIR", help_behavior_hint="(default: none)")] = None
    """Verify a finished folder with all its images, and exit."""


def command(flags: Flags) -> None:
    """Prepare the data and print a summary."""
    from rich.console import Console

    from shirg.data.preparation import SHIRGDatasetProcessor

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if flags.list:
        console.print(listing())
        return
    if flags.verify is not None:
        console.print(checked(flags.verify))
        return
    config = SHIRGDatasetConfig(**settings_of(SHIRGDatasetConfig, flags))
    folder = SHIRGDatasetProcessor(config).prepare_full_dataset()
    config_file.write(flags, folder)
    if config.num_shards == 1:
        console.print(f"{summary(folder)}: {folder}")


def listing() -> str:
    """The sources as a text: name, licence, size, files, origin and use of each."""
    from shirg.data.sources import BASE_SOURCE, HELD_OUT, OCR_SOURCES, LlavaJson, LocalSource, RenderedPages
    from shirg.data.sources.hub import RELEASES

    sources: tuple[type[LocalSource], ...] = (BASE_SOURCE, LlavaJson, *OCR_SOURCES)
    blocks = []
    for source in sources:
        uses = ["base part" if source is BASE_SOURCE else "base or OCR part" if source is LlavaJson else "OCR part"]
        uses += ["its test part is excluded from training"] if source.name in HELD_OUT else []
        hub = f"; or --from-hub {source.name} ({RELEASES[source.name].repository})" if source.name in RELEASES else ""
        blocks.append(_block(source.name, source.licence, source.size, source.layout, source.home + hub, uses))
    uses = ["both parts without --data-dir, missing records with --render-missing"]
    rendered = RenderedPages()
    needs = "nothing: documents, receipts, forms, tables and charts are drawn"
    blocks.append(_block(rendered.name, rendered.licence, "any", needs, "comes with SHIRG", uses))
    return "\n\n".join(blocks)


def _block(name: str, licence: str, size: str, needs: str, home: str, uses: list[str]) -> str:
    rows = {"licence": licence, "size": size, "needs": needs, "from": home, "use": "; ".join(uses)}
    return "\n".join([name, *(f"  {title:<9}{text}" for title, text in rows.items())])


def checked(folder: Path) -> str:
    """One line about an intact folder.

    Raises:
        UserError: if it is not intact; the message counts the problems and shows the first ones.
    """
    from shirg.data.manifest import check_folder, read_manifest
    from shirg.data.workers import progress_bar

    with progress_bar("checking records", read_manifest(folder)["total_samples"]) as advance:
        problems = check_folder(folder, advance)
    if problems:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise UserError(f"{folder}: {len(problems)} problems: {shown}")
    return f"{folder} is intact: {summary(folder)}"


def summary(folder: Path) -> str:
    """One line about a prepared folder, from its manifest."""
    from shirg.data.manifest import read_manifest

    manifest = read_manifest(folder)
    splits = ", ".join(
        f"{entry['records']:,} for {'training' if name == 'train' else name} on {entry['images']:,} images"
        for name, entry in manifest["splits"].items()
    )
    fewer = sum(part["asked"] - part["records"] for part in manifest["parts"].values())
    skipped = len(manifest["rejected"])
    return (
        f"{manifest['total_samples']:,} records ({splits}; {manifest['sources'].get('rendered', 0):,} of them rendered)"
        + (f", {fewer:,} fewer than requested" if fewer else "")
        + (f", {skipped:,} entries rejected, listed in manifest.json" if skipped else "")
    )


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
