"""`shirg prepare`: prepare training data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from tyro.conf import arg

from shirg import ranges
from shirg.cli import config_file
from shirg.cli.flags import DataFlags, OptionalFolder
from shirg.cli.runner import run_command
from shirg.errors import UserError

if TYPE_CHECKING:
    from shirg.data.preparation import SHIRGDatasetConfig

Files = Annotated[tuple[Path, ...], arg(metavar="FILE [FILE ...]", help_behavior_hint="(default: none)")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(DataFlags):
    """Make a training set: images, questions and answers in Parquet files with a manifest, the same for the same seed.

    `--dataset-size 558000 --ocr-samples 50000` is the full mixture of 608,000 records.
    """

    image_resolution: Annotated[int, ranges.RESOLUTION] = 672
    """Pixels per side of rendered pages, a multiple of 14; real images keep their size."""

    output_dir: Path = Path("./shirg_data")
    """Folder for the shards and the manifest. A stopped run resumes when the command is repeated."""

    base_json: Files = ()
    """Files in LLaVA's format (.json or .jsonl, any name; images beside them) to add to the base part."""

    ocr_json: Files = ()
    """The same for the OCR part."""

    from_hub: Annotated[tuple[str, ...], arg(metavar="NAME[=FOLDER] [...]", help_behavior_hint="(default: none)")] = ()
    """Sets to fetch from the Hugging Face hub into --data-dir first: chartqa docvqa textvqa ocrvqa; =FOLDER for a
    downloaded copy."""

    exclude_datasets: Annotated[
        tuple[str, ...] | None,
        arg(metavar="NAME [NAME ...]", help_behavior_hint="(default: every set that is found)"),
    ] = None
    """Evaluation sets whose images, and near-duplicates of them, must not be in the training data."""

    exclude_data_dir: OptionalFolder = None
    """Another folder to search for evaluation sets, besides --data-dir."""

    images: Literal["embed", "link"] = "embed"
    """Store image files in the shards, or their paths: small shards, but the images must stay in place."""

    max_image_side: Annotated[int, ranges.IMAGE_SIDE] = 4096
    """Longer side in pixels; larger real images are shrunk to it."""

    shard_size: Annotated[int, ranges.COUNT] = 10_000
    """Records per Parquet file."""

    validation_fraction: Annotated[float, ranges.SHARE] = 0.05
    """Share of the records for validation, whole images at a time."""

    num_workers: Annotated[
        int | None, ranges.PROCESSES, arg(metavar="INT", help_behavior_hint="(default: up to 2)")
    ] = None
    """Processes that open and render images; the result is the same."""

    shard_index: Annotated[int, ranges.PART] = 0
    """Which share of the work this process does, from 0: the task number in a cluster's array job."""

    num_shards: Annotated[int, ranges.PARTS] = 1
    """How many processes share the work on one folder; docs/data.md shows the commands."""

    list: bool = False
    """Print the supported data sets with licence, size and the files they need, and exit."""

    check: OptionalFolder = None
    """Verify a finished folder with all its images, and exit."""


def dataset_config(flags: DataFlags, image_resolution: int, folder: Path, **more: Any) -> SHIRGDatasetConfig:
    """The configuration from the flags; `more` are fields that only some commands have flags for.

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
        allow_fewer=flags.allow_fewer,
        render_missing=flags.render_missing,
        **more,
    )
    config.check()
    return config


OWN = (
    "base_json", "ocr_json", "from_hub", "exclude_datasets", "exclude_data_dir", "images", "max_image_side", "shard_size",
    "validation_fraction", "num_workers", "shard_index", "num_shards",
)  # fmt: skip
"""Flags of this command only that are fields of the configuration."""


def command(flags: Flags) -> None:
    """Prepare the data and print a summary."""
    from rich.console import Console

    from shirg.data.preparation import SHIRGDatasetProcessor

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if flags.list:
        console.print(listing())
        return
    if flags.check is not None:
        console.print(checked(flags.check))
        return
    more = {name: getattr(flags, name) for name in OWN}
    config = dataset_config(flags, flags.image_resolution, flags.output_dir, **more)
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
