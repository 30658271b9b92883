"""Verifying a finished folder: is everything there that the manifest tells of, and is it what it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shirg.data.images import read_bytes
from shirg.data.journal import MANIFEST
from shirg.data.shards import SPLITS, ShardReader, column_values, sha256_of, shard_paths
from shirg.errors import UserError


def check_folder(folder: Path, advance: Callable[[int], None] = lambda count: None) -> list[str]:
    """Everything that is wrong with a prepared folder, one line each; nothing if it is whole.

    Reads every byte: sums of the shards, then every image's against its `image_id`, linked files too. Records are
    counted per split and source, and no image may be in both splits.

    Args:
        folder: made by `SHIRGDatasetProcessor.prepare_full_dataset`.
        advance: hears how many records are done.

    Raises:
        UserError: if there is no manifest, so that nothing can be checked.
    """
    manifest = read_manifest(folder)
    problems, whole = [], []
    for shard in manifest["shards"]:
        reason = _shard_problem(folder, shard)
        if reason:
            problems.append(f"{shard['file']}: {reason}")
        else:
            whole.append(shard)
    listed = {shard["file"] for shard in manifest["shards"]}
    extra = [path.name for split in SPLITS for path in shard_paths(folder, split) if path.name not in listed]
    problems += [f"{name}: not in the manifest" for name in extra]
    for shard in whole:
        problems += [f"{shard['file']}: {reason}" for reason in _image_problems(folder / shard["file"], advance)]
    if len(whole) == len(manifest["shards"]):
        problems += _count_problems(folder, manifest)
    return problems


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder.

    Raises:
        UserError: if it is missing or damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not manifest.keys() >= {"shards", "splits", "sources", "total_samples"}:
            raise ValueError("it lacks entries")
        return manifest
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: {reason}; a folder is finished when `shirg prepare` has written it") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); prepare the folder again") from error


def _shard_problem(folder: Path, shard: dict[str, Any]) -> str:
    path = folder / shard["file"]
    if not path.is_file():
        return "missing"
    if path.stat().st_size != shard["bytes"]:
        return f"{path.stat().st_size} bytes, not {shard['bytes']}"
    if sha256_of(path) != shard["sha256"]:
        return "its checksum is another"
    count = len(ShardReader(path))
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
    data = row["image"]["bytes"]
    if data is None:
        try:
            data = read_bytes(Path(row["image"]["path"] or ""))
        except UserError as error:
            return str(error)
    if hashlib.sha256(data).hexdigest() == row["image_id"]:
        return ""
    linked = row["image"]["path"]
    return f"image {linked} has changed" if linked else "its image is not the one that image_id names"


def _count_problems(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    images: dict[str, set[bytes]] = {split: set() for split in SPLITS}
    records = dict.fromkeys(SPLITS, 0)
    sources: dict[str, int] = {}
    for shard in manifest["shards"]:
        names = column_values(folder / shard["file"], "image_id")
        records[shard["split"]] += len(names)
        images[shard["split"]].update(bytes.fromhex(name)[:8] for name in names)
        for source in column_values(folder / shard["file"], "source"):
            sources[source] = sources.get(source, 0) + 1
    found = {split: {"records": records[split], "images": len(images[split])} for split in SPLITS}
    told = {"splits": found, "sources": dict(sorted(sources.items())), "total_samples": sum(records.values())}
    for name, value in told.items():
        if manifest[name] != value:
            yield f"{MANIFEST}: {name} {manifest[name]}, found {value}"
    both = len(images["train"] & images["validation"])
    if both:
        yield f"{both} images are in both splits"
