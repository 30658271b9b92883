"""The list of finished shards that lets a stopped preparation continue."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from shirg.data.shards import SPLITS, sha256_of, shard_paths
from shirg.errors import UserError
from shirg.files import write_json

logger = logging.getLogger(__name__)

JOURNAL = ".progress.json"
MANIFEST = "manifest.json"
WORK = ".work"
"""Folder of what is only needed until the manifest stands: looks at images, notes about finished shards."""


class Journal:
    """What a folder holds so far. A shard counts once the note about it stands beside it.

    Several processes may add shards of the same data set; only one that is alone in the folder removes anything.

    Attributes:
        shards: `file`, `split`, `records`, `bytes` and `sha256` of every finished shard, by file name.
        manifest: of an earlier run that ended, if all its shards are whole.
    """

    def __init__(self, folder: Path, fingerprint: str, *, alone: bool = True):
        """Reads what an earlier run left. Shards that are missing or damaged do not count as finished.

        Args:
            folder: of the shards.
            fingerprint: of configuration and data. Shards of another one are removed.
            alone: whether no other process works in the folder.

        Raises:
            UserError: if the folder holds shards but no journal, so that they are not ours to replace, or shards of
                another data set and we are not alone.
            OSError: if the folder cannot be written.
        """
        self.folder, self.fingerprint, self.alone = folder, fingerprint, alone
        self.notes = folder / WORK / "shards"
        self.shards: dict[str, dict[str, Any]] = {}
        self.manifest: dict[str, Any] | None = None
        earlier = self._earlier()
        if earlier is None:
            self._refuse_unknown_shards()
        elif earlier != fingerprint:
            self._remove_all()
        if earlier != fingerprint:
            write_json(folder / JOURNAL, {"fingerprint": fingerprint})  # from here on the folder is ours
        self.notes.mkdir(parents=True, exist_ok=True)
        self._take_over()
        if alone:
            for scratch in folder.glob(".*.parquet.*"):  # half a shard of a run that was killed
                shutil.rmtree(scratch, ignore_errors=True)

    def add(self, path: Path, split: str, count: int) -> None:
        """Enters a shard that was just finished."""
        size = path.stat().st_size
        shard = {"file": path.name, "split": split, "records": count, "bytes": size, "sha256": sha256_of(path)}
        self.shards[path.name] = shard
        write_json(self.notes / f"{path.name}.json", shard)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Writes the manifest and removes what only an unfinished folder needs."""
        write_json(self.folder / MANIFEST, manifest)
        shutil.rmtree(self.folder / WORK, ignore_errors=True)

    def _earlier(self) -> str | None:
        path = self.folder / JOURNAL
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or not isinstance(content.get("fingerprint"), str):
                raise ValueError("it lacks entries")
            return content["fingerprint"]
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); remove the folder and prepare again") from error

    def _refuse_unknown_shards(self) -> None:
        for split in SPLITS:
            for path in shard_paths(self.folder, split):
                raise UserError(f"output_dir {self.folder}: holds {path.name}, not made here; choose another folder")

    def _take_over(self) -> None:
        told = _read_json(self.folder / MANIFEST)
        finished = told.get("shards", []) if told else []
        whole = [shard for shard in finished if self._is_whole(shard)]
        if told and len(whole) == len(finished):
            self.manifest = told
        elif told:
            for shard in whole:  # before the manifest goes: it was the only note about them
                write_json(self.notes / f"{shard['file']}.json", shard)
            (self.folder / MANIFEST).unlink()
        known = {shard["file"]: shard for shard in whole}
        for note in sorted(self.notes.glob("*.json")):
            shard = _read_json(note)
            if shard and shard["file"] not in known and self._is_whole(shard):
                known[shard["file"]] = shard
        self.shards = known
        if known and not self.manifest:
            logger.info("%s: %d finished shards are kept", self.folder, len(known))

    def _is_whole(self, shard: dict[str, Any]) -> bool:
        """Sums are compared by the process that is alone; many that share the work look at sizes."""
        path = self.folder / shard["file"]
        whole = path.is_file() and path.stat().st_size == shard["bytes"]
        whole = whole and (not self.alone or sha256_of(path) == shard["sha256"])
        if not whole:
            logger.warning("%s: missing or damaged; preparing it again", path)
        return whole

    def _remove_all(self) -> None:
        if not self.alone:
            raise UserError(f"output_dir {self.folder}: holds another data set; remove it or choose another folder")
        logger.warning("%s: replacing a data set of another configuration", self.folder)
        shards = [path for split in SPLITS for path in shard_paths(self.folder, split)]
        for path in (self.folder / MANIFEST, *shards):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.notes, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
