"""Preparation of training data: published data sets and rendered pages become Parquet shards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

from shirg.data.catalogue import Catalogue, CatalogueWriter
from shirg.data.config import SHIRGDatasetConfig
from shirg.data.manifest import WORK, ShardLog, count_shards
from shirg.data.near_duplicates import THRESHOLD
from shirg.data.record_builder import RecordBuilder, record_tasks
from shirg.data.records import Record
from shirg.data.render import KINDS, render_page
from shirg.data.shards import COLUMNS, write_shard
from shirg.data.sources import (
    BASE_SOURCE,
    EMBEDDED,
    HELD_OUT,
    OCR_SOURCES,
    LlavaJson,
    LocalSource,
    RenderedPages,
    find_source,
)
from shirg.data.sources.hub import fetch
from shirg.data.splits import EVALUATION, PARTS, SplitPlan, SplitPlanner, shortage_message
from shirg.data.workers import ordered_map, progress_bar
from shirg.errors import UserError
from shirg.locks import folder_lock

__all__ = ["FORMAT", "SHIRGDatasetConfig", "SHIRGDatasetProcessor"]

logger = logging.getLogger(__name__)

FORMAT = 2
"""Version of the folder's layout; shards of another version are replaced."""


class SHIRGDatasetProcessor:
    """Prepares the data set of a configuration.

    Example:
        >>> config = SHIRGDatasetConfig(base_dataset_size=1000, ocr_enhancement_size=200, output_dir="data")
        >>> folder = SHIRGDatasetProcessor(config).prepare_full_dataset()
    """

    def __init__(self, config: SHIRGDatasetConfig):
        """Validate the configuration; nothing is read or written yet.

        Raises:
            UserError: see `SHIRGDatasetConfig.check`.
        """
        config.check()
        self.config = config
        self.folder = Path(config.output_dir)
        self.alone = config.num_shards == 1

    def prepare_full_dataset(self) -> Path:
        """Write `train-*.parquet`, `validation-*.parquet` and `manifest.json`, and return their folder.

        All images are scanned before any shard is written, so that a shortage of records is reported first. A stopped run
        resumes and writes the same bytes as an uninterrupted one. A complete folder is returned unchanged. Shards of another
        configuration are replaced.

        One of several processes (`num_shards` above 1) writes its share and returns. A last run with `num_shards=1`
        writes what is missing and the manifest.

        Raises:
            UserError: if a part has fewer records than requested, an annotation file is damaged, another process prepares
                the folder, or it cannot be written.
        """
        work, config = self.folder / WORK, self.config
        share = None if self.alone else (config.shard_index, config.num_shards)
        try:
            with folder_lock(self.folder, share):
                work.mkdir(exist_ok=True)
                try:
                    with tempfile.TemporaryDirectory(prefix="catalogue-", dir=work) as scratch:
                        self._prepare(Path(scratch))
                finally:
                    if self.alone:
                        with contextlib.suppress(OSError):  # not empty: the next run needs it
                            work.rmdir()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"output_dir {self.folder}: {reason}; finished shards are kept") from error
        return self.folder

    def _prepare(self, scratch: Path) -> None:
        config = self.config
        catalogue, excluded = self._catalogue(scratch / "questions.arrow")
        have = {part: int(catalogue.counts[catalogue.part(part)].sum()) for part in PARTS}
        if config.missing == "refuse" and any(have[part] < config.sizes[part] for part in PARTS):
            raise UserError(shortage_message(config, have, catalogue.rejected))
        log = ShardLog(self.folder, self._fingerprint(catalogue), alone=self.alone)
        if log.manifest is not None:
            if self.alone:
                log.finish(log.manifest)
            return
        plan = SplitPlanner(config, catalogue, self.folder / WORK / "survey").plan()
        if plan is None:
            logger.info(
                "share %d is scanned; run all commands again when all shares are scanned",
                config.shard_index,
            )
            return
        refused = config.missing == "refuse" and any(plan.lacking.values())
        if refused or not any(split.total for split in plan.splits.values()):
            raise UserError(shortage_message(config, plan.real, plan.rejected))
        self._write_shards(plan, catalogue, log)
        if self.alone:
            log.finish(self._manifest(log, plan, excluded))
        else:
            logger.info(
                "share %d is written; a run without --shard-index completes the folder",
                config.shard_index,
            )

    def _catalogue(self, path: Path) -> tuple[Catalogue, dict[str, int]]:
        """All questions of all sources, and the number of images per evaluation set."""
        writer, config = CatalogueWriter(path), self.config
        data_dir = None if config.data_dir is None else Path(config.data_dir)
        for request in config.from_hub:
            assert data_dir is not None, "checked: from_hub needs data_dir"
            fetch(request, data_dir)
        for part, kinds, files in (
            ("base", (BASE_SOURCE,), config.base_json),
            ("ocr", OCR_SOURCES, config.ocr_json),
        ):
            found = (find_source(kind, data_dir, "train") for kind in kinds if data_dir is not None)
            for source in chain(filter(None, found), (LlavaJson(Path(file)) for file in files)):
                count = writer.read(part, source, "train")
                logger.info("%s: %d records in %s", source.name, count, source.folder)
        for source in self._evaluation_sources():
            writer.read(EVALUATION, source, "test")
        catalogue, excluded = writer.close(), Counter[str]()
        images = Counter(catalogue.origin.tolist())
        for number, origin in enumerate(catalogue.origins):
            if origin.part == EVALUATION:
                excluded[origin.name] += images[number]
        return catalogue, dict(excluded)

    def _evaluation_sources(self) -> Iterator[LocalSource]:
        """The evaluation sets to exclude. Embedded sets have no page in common with training."""
        named = self.config.exclude_datasets
        places = (self.config.exclude_data_dir, self.config.data_dir)
        folders = list(dict.fromkeys(Path(folder) for folder in places if folder is not None))
        for name in HELD_OUT if named is None else map(_held_out_key, named):
            if name in EMBEDDED:
                continue
            found = [find_source(HELD_OUT[name], folder, "test") for folder in folders]
            if named is not None and not any(found):
                searched = " or ".join(map(str, folders)) or "any folder: --exclude-data-dir names one"
                raise UserError(f"exclude_datasets: {name} is not in {searched}; it needs {HELD_OUT[name].layout}")
            yield from filter(None, found)

    def _fingerprint(self, catalogue: Catalogue) -> str:
        """Hash of everything the shards depend on; one rendered page per kind represents renderer, fonts and Pillow."""
        state = hashlib.sha256(json.dumps([FORMAT, self.config.content(), catalogue.digest]).encode())
        for kind in KINDS:
            page = render_page(kind, 0, size=self.config.image_resolution, text_px=self._text_px)
            state.update(page.image.tobytes() + repr(page.questions).encode())
        return state.hexdigest()

    @property
    def _text_px(self) -> tuple[float, float]:
        low, high = self.config.text_px  # may be a list
        return low, high

    def _pages(self, split: str) -> RenderedPages:
        return RenderedPages(self.config.seed, self.config.image_resolution, self._text_px, split)

    def _write_shards(self, plan: SplitPlan, catalogue: Catalogue, log: ShardLog) -> None:
        """Write this process's share of the missing shards."""
        config = self.config
        shards = list(_shards(plan, config.shard_size))
        own = [shard for number, shard in enumerate(shards) if number % config.num_shards == config.shard_index]
        missing = [shard for shard in own if shard[0] not in log.shards]
        tasks = chain.from_iterable(
            record_tasks(plan.splits[split], catalogue, self._pages(split), start, stop)
            for _, split, start, stop in missing
        )
        total, left = (sum(stop - start for _, _, start, stop in some) for some in (own, missing))
        with progress_bar("writing records", total, total - left) as advance:
            build = RecordBuilder(config.images == "link", config.max_image_side)
            results = ordered_map(build, tasks, config.num_workers)
            records = (record for result in results for record in _checked(result, advance))
            for name, split, start, stop in missing:
                count = write_shard(self.folder / name, islice(records, stop - start))
                log.add(self.folder / name, split, count)

    def _manifest(self, log: ShardLog, plan: SplitPlan, excluded: dict[str, int]) -> dict[str, Any]:
        shards = [log.shards[name] for name, *_ in _shards(plan, self.config.shard_size)]
        asked, rendering = self.config.sizes, self.config.missing == "render"
        parts = {
            part: {
                "asked": asked[part],
                "records": asked[part] if rendering else plan.real[part],
                "real": plan.real[part],
                "rendered": asked[part] - plan.real[part] if rendering else 0,
            }
            for part in PARTS
        }
        counts, _ = count_shards(self.folder, shards)
        return {
            "format": FORMAT,
            "configuration": self.config.content(),
            "fingerprint": log.fingerprint,
            **counts,
            "parts": parts,
            "excluded": {"images": excluded, "perceptual_hash_bits": THRESHOLD},
            "columns": COLUMNS,
            "shards": shards,
            "rejected": [asdict(entry) for entry in plan.rejected],
        }


def _shards(plan: SplitPlan, size: int) -> Iterator[tuple[str, str, int, int]]:
    """File name, split, first and last record of each shard, validation first."""
    for split in ("validation", "train"):
        total = plan.splits[split].total
        for number, start in enumerate(range(0, total, size)):
            yield f"{split}-{number:05d}.parquet", split, start, min(start + size, total)


def _checked(result: list[Record] | str, advance: Callable[[int], None]) -> list[Record]:
    if isinstance(result, str):
        raise UserError(result)
    advance(len(result))
    return result


def _held_out_key(name: str) -> str:
    key = "".join(sign for sign in name.lower() if sign.isalnum())
    if key not in HELD_OUT and key not in EMBEDDED:
        raise UserError(f"exclude_datasets: {name!r} is not known; known: {', '.join([*EMBEDDED, *HELD_OUT])}")
    return key
