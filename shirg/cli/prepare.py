"""`shirg prepare`: make a training set."""

from __future__ import annotations

import dataclasses
import json
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
    """Folder for the shards and the manifest. A run that was stopped goes on where it was."""

    base_json: Files = ()
    """Files in LLaVA's form (.json or .jsonl, any name; images beside them) to add to the general part."""

    ocr_json: Files = ()
    """The same for the part that is about reading text."""

    from_hub: Annotated[tuple[str, ...], arg(metavar="NAME[=FOLDER] [...]", help_behavior_hint="(default: none)")] = ()
    """Sets to fetch from the Hugging Face hub into --data-dir first: chartqa docvqa textvqa ocrvqa; =FOLDER for a
    downloaded copy."""

    exclude_datasets: Annotated[
        tuple[str, ...] | None,
        arg(metavar="NAME [NAME ...]", help_behavior_hint="(default: every set that is found)"),
    ] = None
    """Evaluation sets of which no image, exact or alike, may be in the training set."""

    exclude_data_dir: OptionalFolder = None
    """Another folder where evaluation sets are looked for, beside --data-dir."""

    images: Literal["embed", "link"] = "embed"
    """Store image files in the shards, or their paths: small shards that need the images to stay where they are."""

    max_image_side: Annotated[int, ranges.IMAGE_SIDE] = 4096
    """Longer side in pixels; larger real images are shrunk to it."""

    shard_size: Annotated[int, ranges.COUNT] = 10_000
    """Records per Parquet file."""

    validation_fraction: Annotated[float, ranges.SHARE] = 0.05
    """Share of the records for validation, whole images at a time."""

    num_workers: Annotated[
        int | None, ranges.PROCESSES, arg(metavar="INT", help_behavior_hint="(default: up to 2)")
    ] = None
    """Processes that open and render images; the result does not depend on it."""

    shard_index: Annotated[int, ranges.PART] = 0
    """Which share of the work this process does, from 0: the number of a task in a cluster's array job."""

    num_shards: Annotated[int, ranges.PARTS] = 1
    """How many processes share the work on one folder; docs/data.md shows the commands."""

    list: bool = False
    """Say which data sets are read, with licence, size and the files they need, and stop."""

    check: OptionalFolder = None
    """Verify a finished folder, every image of it, and stop."""


def dataset_config(flags: DataFlags, image_resolution: int, folder: Path, **more: Any) -> SHIRGDatasetConfig:
    """The flags as the library's configuration; `more` are fields that only some commands have flags for.

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
    "base_json",
    "ocr_json",
    "from_hub",
    "exclude_datasets",
    "exclude_data_dir",
    "images",
    "max_image_side",
    "shard_size",
    "validation_fraction",
    "num_workers",
    "shard_index",
    "num_shards",
)
"""Flags of this command alone that are fields of the configuration."""


def command(flags: Flags) -> None:
    """Prepare, and say what came of it."""
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
    """The sources as a text: what each is called, holds and needs, and whose it is."""
    from shirg.data.sources import BASE_SOURCE, HELD_OUT, OCR_SOURCES, LlavaJson, LocalSource, RenderedPages
    from shirg.data.sources.hub_files import RELEASES

    sources: tuple[type[LocalSource], ...] = (BASE_SOURCE, LlavaJson, *OCR_SOURCES)
    blocks = []
    for source in sources:
        uses = ["base part" if source is BASE_SOURCE else "base or OCR part" if source is LlavaJson else "OCR part"]
        uses += ["kept out of training by its test part"] if source.name in HELD_OUT else []
        hub = f"; or --from-hub {source.name} ({RELEASES[source.name].repository})" if source.name in RELEASES else ""
        blocks.append(_block(source.name, source.licence, source.size, source.layout, source.home + hub, uses))
    uses = ["both parts without --data-dir, what is missing with --render-missing"]
    rendered = RenderedPages()
    needs = "nothing: documents, receipts, forms, tables and charts are drawn"
    blocks.append(_block(rendered.name, rendered.licence, "any", needs, "comes with SHIRG", uses))
    return "\n\n".join(blocks)


def _block(name: str, licence: str, size: str, needs: str, home: str, uses: list[str]) -> str:
    rows = {"licence": licence, "size": size, "needs": needs, "from": home, "use": "; ".join(uses)}
    return "\n".join([name, *(f"  {title:<9}{text}" for title, text in rows.items())])


def checked(folder: Path) -> str:
    """One line about a folder that is whole.

    Raises:
        UserError: if it is not; the message counts and shows what is wrong.
    """
    from shirg.data.checking import check_folder, read_manifest
    from shirg.data.progress import bar

    with bar("checking records", read_manifest(folder)["total_samples"], 0) as advance:
        problems = check_folder(folder, advance)
    if problems:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise UserError(f"{folder}: {len(problems)} problems: {shown}")
    return f"{folder} is whole: {summary(folder)}"


def summary(folder: Path) -> str:
    """One line about a prepared folder, from its manifest."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    splits = ", ".join(
        f"{entry['records']:,} for {'training' if name == 'train' else name} on {entry['images']:,} images"
        for name, entry in manifest["splits"].items()
    )
    fewer = sum(part["asked"] - part["records"] for part in manifest["parts"].values())
    skipped = len(manifest["rejected"])
    return (
        f"{manifest['total_samples']:,} records ({splits}; {manifest['sources'].get('rendered', 0):,} of them rendered)"
        + (f", {fewer:,} fewer than asked" if fewer else "")
        + (f", {skipped:,} entries skipped, listed in manifest.json" if skipped else "")
    )


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
