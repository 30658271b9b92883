"""Preparing training data: real sets where they are, rendered pages where they are not, in Parquet shards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from shirg.data.composition import Composition, Progress, RecordStream, compose
from shirg.data.journal import MANIFEST, Journal
from shirg.data.records import Record
from shirg.data.render import KINDS, render_page
from shirg.data.shards import COLUMNS, SPLITS, image_ids, write_shard
from shirg.data.sources import BASE_SOURCE, OCR_SOURCES, LocalSource, RenderedPages, find_source
from shirg.data.sources.base import Index, Rejected
from shirg.errors import UserError
from shirg.files import write_json

logger = logging.getLogger(__name__)

FORMAT = 1
"""Number of the folder's layout; shards of another format are not continued."""


@dataclass
class SHIRGDatasetConfig:
    """What to prepare and where. The same configuration and data give the same bytes."""

    base_dataset_size: int = 558_000
    """Records of the base part: LLaVA-Pretrain LCS-558K, the renderer for what it lacks."""
    ocr_enhancement_size: int = 50_000
    """Records of the OCR part: training parts of the document and chart sets, the renderer for what they lack."""
    output_dir: str | Path = "./shirg_dataset"
    """Folder for the shards and the manifest."""
    image_resolution: int = 672
    """Side of rendered pages, pixels; a multiple of 14. Real images keep their size."""
    validation_fraction: float = 0.05
    """Share of the records that go into the validation split, whole images at a time."""
    seed: int = 0
    """Of the choice and order of images, and of the rendered pages."""
    data_dir: str | Path | None = None
    """Folder with one folder per data set in the layout of its release (docs/data.md); None renders everything."""
    shard_size: int = 10_000
    """Records per Parquet file."""
    text_px: tuple[float, float] = (6.0, 28.0)
    """Smallest and largest font size of rendered pages, pixels of the page."""
    num_workers: int | None = None
    """Processes that open and render images; 0 works in this one, None takes up to two. The result is the same."""

    @property
    def total_samples(self) -> int:
        """Records over both parts."""
        return self.base_dataset_size + self.ocr_enhancement_size

    def check(self) -> None:
        """Refuses what cannot be prepared.

        Raises:
            UserError: names the field, its value and what would work.
        """
        low, high = self.text_px
        rules = [
            ("base_dataset_size", self.base_dataset_size >= 0, "0 or more"),
            ("ocr_enhancement_size", self.ocr_enhancement_size >= 0, "0 or more"),
            ("total_samples", self.total_samples >= 1, "at least 1 record in base and OCR part together"),
            ("image_resolution", self.image_resolution > 0 and self.image_resolution % 14 == 0, "a multiple of 14"),
            ("validation_fraction", 0 <= self.validation_fraction < 1, "from 0 to below 1"),
            ("shard_size", self.shard_size >= 1, "at least 1"),
            ("text_px", 4 <= low <= high, "smallest and largest size in pixels, both 4 or more"),
            (
                "image_resolution",
                self.image_resolution >= 16 * low,
                f"at least {16 * low:g}: 16 x the smallest text_px",
            ),
            ("num_workers", self.num_workers is None or self.num_workers >= 0, "0 or more, or None"),
            ("data_dir", self.data_dir is None or Path(self.data_dir).is_dir(), "an existing folder, or None"),
        ]
        for name, holds, advice in rules:
            if not holds:
                raise UserError(f"{name}: {getattr(self, name)}; {advice}")


class SHIRGDatasetProcessor:
    """Prepares the data set of a configuration.

    Example:
        >>> config = SHIRGDatasetConfig(base_dataset_size=1000, ocr_enhancement_size=200, output_dir="data")
        >>> folder = SHIRGDatasetProcessor(config).prepare_full_dataset()
    """

    def __init__(self, config: SHIRGDatasetConfig):
        """Checks the configuration; nothing is read or written yet.

        Raises:
            UserError: see `SHIRGDatasetConfig.check`.
        """
        config.check()
        self.config = config
        self.folder = Path(config.output_dir)

    def prepare_full_dataset(self) -> Path:
        """Writes `train-*.parquet`, `validation-*.parquet` and `manifest.json`, and returns their folder.

        A run that was stopped continues after the last finished shard, and the result is byte-equal to that of a run
        in one go. A folder that is already complete is returned as it is. Shards of another configuration are replaced.

        Raises:
            UserError: if a data set's annotation file is damaged or the folder cannot be written.
        """
        indexes = {part: list(self._indexes(part)) for part in ("base", "ocr")}
        composition = self._compose(indexes)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            journal = Journal(self.folder, self._fingerprint(composition))
            if not journal.complete:
                progress = self._write_shards(composition, journal)
                unusable = [entry for part in indexes.values() for index in part for entry in index.rejected]
                write_json(self.folder / MANIFEST, self._manifest(journal, progress, unusable + journal.rejected))
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"output_dir {self.folder}: {reason}; shards finished so far are kept") from error
        return self.folder

    def _indexes(self, part: str) -> Iterator[Index]:
        if self.config.data_dir is None:
            return
        kinds: tuple[type[LocalSource], ...] = (BASE_SOURCE,) if part == "base" else OCR_SOURCES
        for kind in kinds:
            source = find_source(kind, Path(self.config.data_dir), "train")
            if source is not None:
                index = source.index("train")
                logger.info("%s: %d records in %s", source.name, index.num_records, source.folder)
                yield index

    def _compose(self, indexes: dict[str, list[Index]]) -> Composition:
        config = self.config
        pages = RenderedPages(config.seed, config.image_resolution, tuple(config.text_px))
        sizes = (config.base_dataset_size, config.ocr_enhancement_size)
        return compose(indexes["base"], indexes["ocr"], sizes, config.validation_fraction, config.seed, pages)

    def _configuration(self) -> dict[str, Any]:
        config = asdict(self.config)
        del config["output_dir"], config["num_workers"]  # neither changes the content
        config["data_dir"] = None if config["data_dir"] is None else str(config["data_dir"])
        return config | {"text_px": list(self.config.text_px), "total_samples": self.config.total_samples}

    def _fingerprint(self, composition: Composition) -> str:
        """Changes with all that the shards depend on; a page of each kind stands for renderer, fonts and Pillow."""
        state = hashlib.sha256(json.dumps([FORMAT, self._configuration(), composition.digest()]).encode())
        for kind in KINDS:
            page = render_page(kind, 0, size=composition.pages.size, text_px=composition.pages.text_px)
            state.update(page.image.tobytes() + repr(page.questions).encode())
        return state.hexdigest()

    def _write_shards(self, composition: Composition, journal: Journal) -> Progress:
        """Writes the shards that are still missing; returns the state of the stream at its end."""
        held = {name for path in journal.paths("validation") for name in image_ids(path)}
        workers = self.config.num_workers
        workers = min(2, os.cpu_count() or 1) if workers is None else workers
        stream = RecordStream(composition, journal.progress, list(journal.rejected), held, workers)
        progress = stream.progress
        with _bar(self.config.total_samples, sum(progress.records.values())) as advance:
            records = map(advance, stream)
            for split in ("validation", "train"):  # the order of the stream
                while (left := composition.totals[split] - progress.records[split]) > 0:
                    path = journal.next_path(split)
                    count = write_shard(path, islice(records, min(left, self.config.shard_size)))
                    journal.add(path, split, count, progress, stream.rejected)
        return progress

    def _manifest(self, journal: Journal, progress: Progress, rejected: list[Rejected]) -> dict[str, Any]:
        sources = dict(sorted(progress.sources.items()))
        real = {"base": sources.get(BASE_SOURCE.name, 0)}
        real["ocr"] = sum(sources.values()) - real["base"] - sources.get(RenderedPages.name, 0)
        asked = {"base": self.config.base_dataset_size, "ocr": self.config.ocr_enhancement_size}
        return {
            "format": FORMAT,
            "configuration": self._configuration(),
            "fingerprint": journal.fingerprint,
            "total_samples": self.config.total_samples,
            "splits": {
                split: {"records": progress.records[split], "images": progress.images[split]} for split in SPLITS
            },
            "sources": sources,
            "parts": {
                part: {"records": asked[part], "real": real[part], "rendered": asked[part] - real[part]}
                for part in asked
            },
            "columns": COLUMNS,
            "shards": journal.shards,
            "rejected": [entry.as_dict() for entry in rejected],
        }


@contextlib.contextmanager
def _bar(total: int, done: int) -> Iterator[Callable[[Record], Record]]:
    """A progress bar on stderr, if that is a terminal; gives a function that counts a record and returns it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("preparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} records/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=total, completed=done, rate="-")

        def advance(record: Record) -> Record:
            speed = bar.tasks[task].speed
            bar.update(task, advance=1, rate="-" if speed is None else f"{speed:.1f}")
            return record

        yield advance
