"""The state of a prepared folder: finished shards while it is written, its manifest, and verification."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shirg.data.images import read_bytes
from shirg.data.shards import SPLITS, ShardReader, column_values, sha256_of, shard_paths
from shirg.errors import UserError
from shirg.files import write_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FINGERPRINT = ".progress.json"
"""File with the fingerprint of the configuration and data that the folder's shards belong to."""
WORK = ".work"
"""Folder of files that are needed until the manifest is written: image scans and notes about finished shards."""

Shard = dict[str, Any]
"""`file`, `split`, `records`, `bytes` and `sha256` of a finished shard."""


class ShardLog:
    """The finished shards of a folder, which let a stopped preparation resume.

    A shard counts as finished once its note is written. Several processes may add shards of one data set; only a process
    that works alone in the folder removes anything.

    Attributes:
        shards: finished shards by file name.
        manifest: of an earlier run that completed, if all its shards are intact.
    """

    def __init__(self, folder: Path, fingerprint: str, *, alone: bool = True):
        """Read the files of an earlier run. Missing or damaged shards do not count as finished.

        Args:
            folder: of the shards.
            fingerprint: of configuration and data. Shards of another fingerprint are removed.
            alone: whether no other process works in the folder.

        Raises:
            UserError: if the folder holds shards that SHIRG did not write, or shards of another data set while other
                processes work in it.
            OSError: if the folder cannot be written.
        """
        self.folder, self.fingerprint, self.alone = folder, fingerprint, alone
        self.notes = folder / WORK / "shards"
        earlier, present = self._earlier(), [path for split in SPLITS for path in shard_paths(folder, split)]
        if earlier is None and present:
            raise UserError(f"output_dir {folder}: SHIRG did not write {present[0].name}; choose another folder")
        if earlier != fingerprint:
            if earlier is not None:
                self._remove(present)
            write_json(folder / FINGERPRINT, {"fingerprint": fingerprint})
        self.notes.mkdir(parents=True, exist_ok=True)
        self.manifest, self.shards = self._finished()
        if self.shards and not self.manifest:
            logger.info("%s: %d finished shards are kept", folder, len(self.shards))
        if alone:
            for scratch in folder.glob(".*.parquet.*"):  # a partial shard of a run that was killed
                shutil.rmtree(scratch, ignore_errors=True)

    def add(self, path: Path, split: str, count: int) -> None:
        """Record a finished shard."""
        size = path.stat().st_size
        shard = {"file": path.name, "split": split, "records": count, "bytes": size, "sha256": sha256_of(path)}
        self.shards[path.name] = shard
        write_json(self.notes / f"{path.name}.json", shard)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write the manifest and remove the work folder."""
        write_json(self.folder / MANIFEST, manifest)
        shutil.rmtree(self.folder / WORK, ignore_errors=True)

    def _earlier(self) -> str | None:
        path = self.folder / FINGERPRINT
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged ({error!r}); remove the folder and prepare again") from error

    def _remove(self, present: list[Path]) -> None:
        if not self.alone:
            raise UserError(f"output_dir {self.folder}: holds another data set; remove it or choose another folder")
        logger.warning("%s: replacing a data set of another configuration", self.folder)
        for path in (self.folder / MANIFEST, *present):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.notes, ignore_errors=True)

    def _finished(self) -> tuple[dict[str, Any] | None, dict[str, Shard]]:
        """The manifest, if all its shards are intact, and the intact shards of manifest and notes."""
        manifest = _read_json(self.folder / MANIFEST)
        listed = manifest.get("shards", []) if manifest else []
        intact = {shard["file"]: shard for shard in listed if self._is_intact(shard)}
        if manifest and len(intact) < len(listed):
            for name, shard in intact.items():  # before the manifest is removed, since only it lists them
                write_json(self.notes / f"{name}.json", shard)
            (self.folder / MANIFEST).unlink()
            manifest = None
        for note in sorted(self.notes.glob("*.json")):
            shard = _read_json(note)
            if shard and shard["file"] not in intact and self._is_intact(shard):
                intact[shard["file"]] = shard
        return manifest, intact

    def _is_intact(self, shard: Shard) -> bool:
        """Compares checksums if alone, else sizes."""
        problem = _shard_problem(self.folder, shard, checksum=self.alone)
        if problem:
            logger.warning("%s: %s; preparing it again", self.folder / shard["file"], problem)
        return not problem


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder.

    Raises:
        UserError: if it is missing or damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not manifest.keys() >= {"shards", "splits", "sources", "total_samples"}:
            raise ValueError("entries are missing")
        return manifest
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: {reason}; `shirg prepare` writes it when the folder is complete") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); prepare the folder again") from error


def count_shards(folder: Path, shards: list[Shard]) -> tuple[dict[str, Any], int]:
    """The manifest's `total_samples`, `splits` and `sources`, counted in the files, and the images in both splits."""
    images: dict[str, set[bytes]] = {split: set() for split in SPLITS}
    records: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    for shard in shards:
        names = column_values(folder / shard["file"], "image_id")
        records[shard["split"]] += len(names)
        images[shard["split"]].update(bytes.fromhex(name)[:8] for name in names)
        sources.update(column_values(folder / shard["file"], "source"))
    counts = {
        "total_samples": sum(records.values()),
        "splits": {split: {"records": records[split], "images": len(images[split])} for split in SPLITS},
        "sources": dict(sorted(sources.items())),
    }
    return counts, len(images["train"] & images["validation"])


def check_folder(folder: Path, advance: Callable[[int], None] = lambda count: None) -> list[str]:
    """All problems of a prepared folder, one line each; empty if it is intact.

    Reads every byte: compares checksums of the shards, then each image with its `image_id`, linked files too. Counts
    records per split and source. No image may be in both splits.

    Args:
        folder: made by `SHIRGDatasetProcessor.prepare_full_dataset`.
        advance: called with the number of records that were checked.

    Raises:
        UserError: if there is no manifest.
    """
    manifest = read_manifest(folder)
    found = {
        shard["file"]: _shard_problem(folder, shard) or _count_problem(folder, shard) for shard in manifest["shards"]
    }
    problems = [f"{name}: {problem}" for name, problem in found.items() if problem]
    extra = [path.name for split in SPLITS for path in shard_paths(folder, split) if path.name not in found]
    problems += [f"{name}: not in the manifest" for name in extra]
    for name, problem in found.items():
        if not problem:
            problems += [f"{name}: {reason}" for reason in _image_problems(folder / name, advance)]
    if not any(found.values()):
        counts, shared = count_shards(folder, manifest["shards"])
        problems += [
            f"{MANIFEST}: {name} {manifest[name]}, found {value}"
            for name, value in counts.items()
            if manifest[name] != value
        ]
        problems += [f"{shared} images are in both splits"] if shared else []
    return problems


def _shard_problem(folder: Path, shard: Shard, *, checksum: bool = True) -> str:
    path = folder / shard["file"]
    if not path.is_file():
        return "missing"
    if path.stat().st_size != shard["bytes"]:
        return f"{path.stat().st_size} bytes, not {shard['bytes']}"
    return "its checksum differs" if checksum and sha256_of(path) != shard["sha256"] else ""


def _count_problem(folder: Path, shard: Shard) -> str:
    count = len(ShardReader(folder / shard["file"]))
    return "" if count == shard["records"] else f"{count} records, not {shard['records']}"


def _image_problems(path: Path, advance: Callable[[int], None]) -> Iterator[str]:
    import pyarrow.parquet as pq

    reported: set[str] = set()
    for batch in pq.ParquetFile(path).iter_batches(batch_size=32, columns=["id", "image", "image_id"]):
        for row in batch.to_pylist():
            if row["image_id"] not in reported and (reason := _image_problem(row)):
                reported.add(row["image_id"])
                yield f"record {row['id']}: {reason}"
        advance(batch.num_rows)


def _image_problem(row: dict[str, Any]) -> str:
    data, linked = row["image"]["bytes"], row["image"]["path"]
    try:
        data = read_bytes(Path(linked or "")) if data is None else data
    except UserError as error:
        return str(error)
    if hashlib.sha256(data).hexdigest() == row["image_id"]:
        return ""
    return f"image {linked} has changed" if linked else "its image does not match its image_id"
