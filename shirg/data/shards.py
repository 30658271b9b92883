"""Parquet shards of records, written in small row groups and read one row group at a time."""

from __future__ import annotations

import hashlib
import json
import logging
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shirg.data.images import read_bytes
from shirg.data.records import Record
from shirg.errors import UserError
from shirg.files import atomic_path

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation")

ROWS_PER_GROUP = 32
"""Reading one record reads its row group, so groups are small: about 2 MB of rendered pages."""

COLUMNS = {
    "id": "unique within its source",
    "image": "struct of `bytes` (a PNG or JPEG file) and `path` (of a linked one), which `datasets` shows as an image",
    "image_id": "sha256 of the image file; records about one image share it",
    "question": "as the model gets it, without the image placeholder",
    "answers": "accepted answers; training uses the first",
    "conversations": "the same in LLaVA's form: a list of {from, value}",
    "source": "data set the record comes from",
    "licence": "of that data set",
    "width": "of the upright image, pixels",
    "height": "of the upright image, pixels",
    "kind": "kind of page or question, empty where unknown",
    "text_px": "font size of the answer in the image, pixels; 0 where unknown",
    "split": "train or validation",
}
"""The columns of a shard and what they hold."""


def schema() -> pyarrow.Schema:
    """The Arrow schema of a shard; its metadata lets `datasets` decode the image column."""
    import pyarrow as pa

    text, string = pa.string(), {"dtype": "string", "_type": "Value"}
    fields: dict[str, Any] = dict.fromkeys(COLUMNS, text)
    features: dict[str, Any] = dict.fromkeys(COLUMNS, string)
    for name, dtype in (("width", "int32"), ("height", "int32"), ("text_px", "float32")):
        fields[name], features[name] = pa.type_for_alias(dtype), {"dtype": dtype, "_type": "Value"}
    fields["image"], features["image"] = pa.struct({"bytes": pa.binary(), "path": text}), {"_type": "Image"}
    fields["answers"], features["answers"] = pa.list_(text), {"feature": string, "_type": "List"}
    fields["conversations"] = pa.list_(pa.struct({"from": text, "value": text}))
    features["conversations"] = {"feature": {"from": string, "value": string}, "_type": "List"}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def write_shard(path: Path, records: Iterable[Record]) -> int:
    """Write records to one Parquet file, complete or not at all; returns how many.

    Holds one row group in memory. An image that consecutive records share is stored once per row group (dictionary
    encoding).

    Raises:
        OSError: if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    layout, count = schema(), 0
    stream = iter(records)
    with (
        atomic_path(path) as fresh,
        pq.ParquetWriter(
            fresh, layout, compression="zstd", dictionary_pagesize_limit=2**30, write_statistics=False
        ) as writer,
    ):
        while rows := [_row(record) for record in islice(stream, ROWS_PER_GROUP)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=layout), row_group_size=ROWS_PER_GROUP)
            count += len(rows)
    return count


def shard_paths(folder: Path, split: str) -> list[Path]:
    """A split's shards in order."""
    return sorted(folder.glob(f"{split}-[0-9]*.parquet"))


def column_values(path: Path, name: str) -> list[str]:
    """One text column of a shard, without reading its images."""
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=[name]).column(name).to_pylist()


def sha256_of(path: Path) -> str:
    """Checksum of a file, hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class ShardReader:
    """Records of one shard by their index; keeps the row group that was read last."""

    def __init__(self, path: Path):
        """Read the file's footer only.

        Raises:
            UserError: if the file is not a shard of SHIRG or is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: not a readable Parquet file ({error})") from error
        missing = [name for name in COLUMNS if name not in self._file.schema_arrow.names]
        if missing:
            raise UserError(f"{path}: column {missing[0]!r} is missing; was the folder made by `shirg prepare`?")
        meta = self._file.metadata
        self._ends = [0]
        for group in range(meta.num_row_groups):
            self._ends.append(self._ends[-1] + meta.row_group(group).num_rows)
        self._held: tuple[int, Any] = (-1, None)

    def __reduce__(self) -> tuple[type[ShardReader], tuple[Path]]:
        return ShardReader, (self.path,)  # a loader's worker opens the file itself

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, place: int) -> Record:
        group = bisect_right(self._ends, place) - 1
        if self._held[0] != group:
            self._held = (group, self._read(group))
        row = self._held[1].slice(place - self._ends[group], 1).to_pylist()[0]
        return _record(row)

    def _read(self, group: int) -> Any:
        import pyarrow as pa

        try:
            return self._file.read_row_group(group)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self.path}: damaged in row group {group} ({error}); prepare the folder again") from error

    def __iter__(self) -> Iterator[Record]:
        return (self[place] for place in range(len(self)))


def _row(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(record, name) for name in COLUMNS}
    row["image"] = {"bytes": None, "path": record.path} if record.path else {"bytes": record.image, "path": None}
    row["answers"] = list(record.answers)
    return row


def _record(row: dict[str, Any]) -> Record:
    del row["conversations"]
    image = row["image"]
    row["image"], row["path"] = image["bytes"], image["path"] or ""
    if row["image"] is None:
        row["image"] = _linked(row["path"])
    row["answers"] = tuple(row["answers"])
    return Record(**row)


def _linked(path: str) -> bytes:
    """The bytes of a linked image; empty if it is missing, which training reports as an unusable image."""
    try:
        return read_bytes(Path(path))
    except UserError as error:
        logger.warning("%s", error)
        return b""
