"""Preparing training data: real sets as asked, rendered pages where wanted, in Parquet shards that many can share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from shirg.data.catalogue import Catalogue, CatalogueWriter
from shirg.data.composition import PARTS, SPLITS, Plan
from shirg.data.configuration import SHIRGDatasetConfig
from shirg.data.journal import WORK, Journal
from shirg.data.likeness import THRESHOLD
from shirg.data.making import Maker, TaskList, stored_as
from shirg.data.planning import EVALUATION, Planner, shortage
from shirg.data.progress import bar
from shirg.data.records import Record
from shirg.data.render import KINDS, render_page
from shirg.data.shards import COLUMNS, column_values, write_shard
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
from shirg.data.sources.hub_files import fetch
from shirg.data.workers import ordered_map
from shirg.errors import UserError
from shirg.locks import owned

__all__ = ["FORMAT", "SHIRGDatasetConfig", "SHIRGDatasetProcessor"]

logger = logging.getLogger(__name__)

FORMAT = 2
"""Number of the folder's layout; shards of another format are not continued."""


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
        self.alone = config.num_shards == 1

    def prepare_full_dataset(self) -> Path:
        """Writes `train-*.parquet`, `validation-*.parquet` and `manifest.json`, and returns their folder.

        Every image is looked at before anything is written, so the numbers are known first. A run that was stopped
        continues where it was, and the result is byte-equal to that of a run in one go. A folder that is already complete
        is returned as it is. Shards of another configuration are replaced.

        One of several processes (`num_shards` above 1) does its share and returns; the manifest is left to a last run
        alone, which also does what is still missing.

        Raises:
            UserError: if a part has fewer records than asked, a data set's annotation file is damaged, another process
                prepares the folder, or it cannot be written.
        """
        work, config = self.folder / WORK, self.config
        share = None if self.alone else (config.shard_index, config.num_shards)
        try:
            with owned(self.folder, share):
                work.mkdir(exist_ok=True)
                try:
                    with tempfile.TemporaryDirectory(prefix="catalogue-", dir=work) as scratch:
                        self._prepare(Path(scratch))
                finally:
                    if self.alone:
                        with contextlib.suppress(OSError):  # what is not empty is gone on with
                            work.rmdir()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"output_dir {self.folder}: {reason}; shards finished so far are kept") from error
        return self.folder

    def _prepare(self, scratch: Path) -> None:
        catalogue, notes = self._catalogue(scratch / "questions.arrow")
        self._refuse_shortage(catalogue)
        journal = Journal(self.folder, self._fingerprint(catalogue), alone=self.alone)
        if journal.manifest is not None:
            if self.alone:
                journal.finish(journal.manifest)
            return
        planner = Planner(self.config, catalogue, self.folder / WORK / "survey")
        plan = planner.plan()
        if plan is None:
            logger.info("share %d is looked at; when all are, give the same commands again", self.config.shard_index)
            return
        if self.config.missing == "refuse" and any(plan.lacking.values()):
            raise UserError(shortage(self.config, plan.real, planner.rejected(plan)))
        if not any(plan.total(split) for split in SPLITS):
            raise UserError(shortage(self.config, plan.real, planner.rejected(plan)))
        self._write_shards(plan, planner, journal)
        if self.alone:
            journal.finish(self._manifest(journal, plan, planner, notes))
        else:
            logger.info("share %d is written; a run without --shard-index ends it", self.config.shard_index)

    # ------------------------------------------------------------- sources
    def _catalogue(self, path: Path) -> tuple[Catalogue, dict[str, int]]:
        """All questions there are, and how many images every evaluation set has."""
        writer, config = CatalogueWriter(path), self.config
        for request in config.from_hub:
            assert config.data_dir is not None, "checked: from_hub needs data_dir"
            fetch(request, Path(config.data_dir))
        for part, kinds, files in (
            ("base", (BASE_SOURCE,), config.base_json),
            ("ocr", OCR_SOURCES, config.ocr_json),
        ):
            for source in chain(self._found(kinds, "train"), (LlavaJson(Path(file)) for file in files)):
                count = writer.read(part, source, "train")
                logger.info("%s: %d records in %s", source.name, count, source.folder)
        excluded = []
        for source in self._excluded():
            excluded.append(len(writer.origins))
            writer.read(EVALUATION, source, "test")
        catalogue = writer.close()
        images = Counter(catalogue.origin.tolist())
        told: Counter[str] = Counter()
        for number in excluded:
            told[catalogue.origins[number].name] += images[number]
        return catalogue, dict(told)

    def _found(self, kinds: tuple[type[LocalSource], ...], split: str) -> Iterator[LocalSource]:
        if self.config.data_dir is not None:
            for kind in kinds:
                source = find_source(kind, Path(self.config.data_dir), split)
                if source is not None:
                    yield source

    def _excluded(self) -> Iterator[LocalSource]:
        """The evaluation sets whose images are kept out. Embedded ones share no page with training to begin with."""
        named = self.config.exclude_datasets
        places = (self.config.exclude_data_dir, self.config.data_dir)
        folders = list(dict.fromkeys(Path(folder) for folder in places if folder is not None))
        for name in HELD_OUT if named is None else map(_held_out_key, named):
            if name in EMBEDDED:
                continue
            found = [find_source(HELD_OUT[name], folder, "test") for folder in folders]
            if named is not None and not any(found):
                looked = " or ".join(map(str, folders)) or "any folder: --exclude-data-dir names one"
                raise UserError(f"exclude_datasets: {name} is not in {looked}; needed are {HELD_OUT[name].layout}")
            yield from filter(None, found)

    def _refuse_shortage(self, catalogue: Catalogue) -> None:
        """Before any image is opened: the sources cannot give more than their files say."""
        have = {part: int(catalogue.counts[catalogue.part(part)].sum()) for part in PARTS}
        asked = self.config.sizes
        if self.config.missing == "refuse" and any(have[part] < asked[part] for part in PARTS):
            raise UserError(shortage(self.config, have, catalogue.rejected))

    def _fingerprint(self, catalogue: Catalogue) -> str:
        """Changes with all that the shards depend on; a page of each kind stands for renderer, fonts and Pillow."""
        state = hashlib.sha256(json.dumps([FORMAT, self.config.content(), catalogue.digest]).encode())
        for kind in KINDS:
            page = render_page(kind, 0, size=self.config.image_resolution, text_px=self._text_px)
            state.update(page.image.tobytes() + repr(page.questions).encode())
        return state.hexdigest()

    # ------------------------------------------------------------- shards
    def _write_shards(self, plan: Plan, planner: Planner, journal: Journal) -> None:
        """Writes the shards that are still missing, those of this process's share if the work is shared."""
        config = self.config
        shards = list(_shards(plan, config.shard_size))
        mine = [shard for number, shard in enumerate(shards) if number % config.num_shards == config.shard_index]
        missing = [shard for shard in mine if shard[0] not in journal.shards]
        work = TaskList(plan, planner.pools, planner.catalogue, self._pages)
        tasks = chain.from_iterable(
            work.tasks(split, start, stop, lambda row: stored_as(row, config.images, config.max_image_side))
            for _, split, start, stop in missing
        )
        total = sum(stop - start for _, _, start, stop in mine)
        left = sum(stop - start for _, _, start, stop in missing)
        with bar("writing records", total, total - left) as advance:
            results = ordered_map(Maker(config.max_image_side), tasks, config.num_workers)
            records = (record for result in results for record in _checked(result, advance))
            for name, split, start, stop in missing:
                count = write_shard(self.folder / name, islice(records, stop - start))
                journal.add(self.folder / name, split, count)

    @property
    def _text_px(self) -> tuple[float, float]:
        low, high = self.config.text_px  # a list, perhaps: nothing checks which
        return low, high

    def _pages(self, split: str) -> RenderedPages:
        return RenderedPages(self.config.seed, self.config.image_resolution, self._text_px, split)

    def _manifest(self, journal: Journal, plan: Plan, planner: Planner, excluded: dict[str, int]) -> dict[str, Any]:
        shards = [journal.shards[name] for name, *_ in _shards(plan, self.config.shard_size)]
        images, sources = _told_by(self.folder, shards)
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
        return {
            "format": FORMAT,
            "configuration": self.config.content(),
            "fingerprint": journal.fingerprint,
            "total_samples": sum(plan.total(split) for split in SPLITS),
            "splits": {
                split: {"records": plan.total(split), "images": images[split]} for split in ("train", "validation")
            },
            "sources": dict(sorted(sources.items())),
            "parts": parts,
            "excluded": {"images": excluded, "perceptual_hash_bits": THRESHOLD},
            "columns": COLUMNS,
            "shards": shards,
            "rejected": [entry.as_dict() for entry in planner.rejected(plan)],
        }


def _shards(plan: Plan, size: int) -> Iterator[tuple[str, str, int, int]]:
    """File name, split, first and last record of every shard."""
    for split in SPLITS:
        for number, start in enumerate(range(0, plan.total(split), size)):
            yield f"{split}-{number:05d}.parquet", split, start, min(start + size, plan.total(split))


def _checked(result: list[Record] | str, advance: Any) -> list[Record]:
    if isinstance(result, str):
        raise UserError(result)
    advance(len(result))
    return result


def _told_by(folder: Path, shards: list[dict[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """Images per split and records per source, counted in the finished files."""
    images: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    for split in SPLITS:
        seen: set[bytes] = set()
        for shard in shards:
            if shard["split"] == split:
                seen.update(bytes.fromhex(name)[:8] for name in column_values(folder / shard["file"], "image_id"))
                sources.update(column_values(folder / shard["file"], "source"))
        images[split] = len(seen)
    return images, sources


def _held_out_key(name: str) -> str:
    key = "".join(sign for sign in name.lower() if sign.isalnum())
    if key not in HELD_OUT and key not in EMBEDDED:
        raise UserError(f"exclude_datasets: {name!r} is not known; known: {', '.join([*EMBEDDED, *HELD_OUT])}")
    return key
