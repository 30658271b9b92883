"""The list of finished shards that lets a stopped preparation continue."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from shirg.data.composition import Progress
from shirg.data.shards import SPLITS, sha256_of, shard_paths
from shirg.data.sources.base import Rejected
from shirg.errors import UserError
from shirg.files import write_json

logger = logging.getLogger(__name__)

JOURNAL = ".progress.json"
MANIFEST = "manifest.json"


class Journal:
    """What a folder holds so far, kept beside the shards and rewritten after each.

    Attributes:
        shards: `file`, `split`, `records`, `bytes` and `sha256` of every finished shard, in order.
        rejected: what the stream had to skip up to the last of them.
    """

    def __init__(self, folder: Path, fingerprint: str):
        """Reads what an earlier run left. Shards that are damaged, and all behind them, do not count as finished.

        Args:
            folder: of the shards.
            fingerprint: of configuration and data. Shards of another one are removed.

        Raises:
            UserError: if the folder holds shards but no journal, so that they are not ours to replace.
            OSError: if the folder cannot be written.
        """
        self.folder, self.fingerprint = folder, fingerprint
        self.shards: list[dict[str, Any]] = []
        self.rejected: list[Rejected] = []
        self._states: list[dict[str, Any]] = []
        earlier = self._read()
        if earlier is None:
            self._refuse_unknown_shards()
        elif earlier["fingerprint"] == fingerprint:
            self._take_over(earlier)
        else:
            self._remove_all()
        self._write()  # from here on the folder is ours
        for scratch in folder.glob(".*.parquet.*"):  # half a shard of a run that was killed
            shutil.rmtree(scratch, ignore_errors=True)

    @property
    def progress(self) -> Progress:
        """Where the stream of records goes on; a state of the caller's own."""
        return Progress(**json.loads(json.dumps(self._states[-1]))) if self._states else Progress()

    @property
    def complete(self) -> bool:
        """Whether the manifest stands and every shard it was written for is whole."""
        return (self.folder / MANIFEST).is_file()

    def paths(self, split: str) -> list[Path]:
        """Finished shards of a split."""
        return [self.folder / shard["file"] for shard in self.shards if shard["split"] == split]

    def next_path(self, split: str) -> Path:
        """Where the split's next shard goes."""
        return self.folder / f"{split}-{len(self.paths(split)):05d}.parquet"

    def add(self, path: Path, split: str, count: int, progress: Progress, rejected: list[Rejected]) -> None:
        """Enters a shard that was just finished, with the state of the stream behind its last record."""
        self.shards.append(
            {
                "file": path.name,
                "split": split,
                "records": count,
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
        )
        self._states.append(json.loads(json.dumps(progress.as_dict())))
        self.rejected = list(rejected)
        self._write()

    def _write(self) -> None:
        content = {
            "fingerprint": self.fingerprint,
            "shards": self.shards,
            "states": self._states,
            "rejected": [entry.as_dict() for entry in self.rejected],
        }
        write_json(self.folder / JOURNAL, content)

    def _read(self) -> dict[str, Any] | None:
        try:
            content = json.loads((self.folder / JOURNAL).read_text(encoding="utf-8"))
            if not isinstance(content, dict) or not content.keys() >= {"fingerprint", "shards", "states", "rejected"}:
                raise ValueError("it lacks entries")
            return content
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(
                f"{self.folder / JOURNAL}: damaged ({error}); remove the folder and prepare again"
            ) from error

    def _refuse_unknown_shards(self) -> None:
        for split in SPLITS:
            for path in shard_paths(self.folder, split):
                raise UserError(f"output_dir {self.folder}: holds {path.name}, not made here; choose another folder")

    def _take_over(self, earlier: dict[str, Any]) -> None:
        for shard, state in zip(earlier["shards"], earlier["states"], strict=True):
            path = self.folder / shard["file"]
            if not path.is_file() or sha256_of(path) != shard["sha256"]:
                logger.warning("%s: missing or damaged; preparing again from there on", path)
                (self.folder / MANIFEST).unlink(missing_ok=True)
                break
            self.shards.append(shard)
            self._states.append(state)
        rejected = [Rejected(**entry) for entry in earlier["rejected"]]
        self.rejected = rejected[: self.progress.rejected]
        logger.info("%s: %d finished shards are kept", self.folder, len(self.shards))

    def _remove_all(self) -> None:
        logger.warning("%s: replacing a data set of another configuration", self.folder)
        shards = [path for split in SPLITS for path in shard_paths(self.folder, split)]
        for path in (self.folder / MANIFEST, *shards):
            path.unlink(missing_ok=True)
