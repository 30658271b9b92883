"""Data set and data loaders over the shards of a prepared folder."""

from __future__ import annotations

import contextlib
import signal
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from shirg.data.augmentation import augment_record
from shirg.data.records import Record
from shirg.data.samples import VIEWS, Sample, Shapes
from shirg.data.shards import SPLITS, ShardReader, column_values, shard_paths
from shirg.errors import UserError
from shirg.identity import of_values


class RecordDataset(Dataset[Record]):
    """The records of one split of a prepared folder, by index.

    Shards are memory-mapped and read one row group at a time, so memory does not grow with the folder. The object is
    picklable; each loader worker opens the files itself.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        *,
        shapes: Shapes | None = None,
        views: tuple[str, ...] = VIEWS,
        augment: bool = False,
        seed: int = 0,
    ):
        """Read the footers of the shards.

        Args:
            folder: made by `SHIRGDatasetProcessor.prepare_full_dataset`.
            split: `train` or `validation`.
            shapes: of a model's views, `model.view_shapes()`: records become `Sample`s. A loader worker makes their views;
                in this process a view is made on first use.
            views: which ones a worker makes.
            augment: whether images are augmented on reading, see `augment_record`.
            seed: of the augmentation.

        Raises:
            UserError: if the folder or the split's shards are missing or damaged.
        """
        if split not in SPLITS:
            raise UserError(f"split: {split!r}; one of {', '.join(SPLITS)}")
        self.folder, self.split, self.shapes, self.views = Path(folder), split, shapes, views
        self.augment, self.seed, self.epoch = augment, seed, 0
        if not self.folder.is_dir():
            raise UserError(f"data folder {folder}: no such folder; make one with `shirg prepare`")
        self._readers = [ShardReader(path) for path in shard_paths(self.folder, split)]
        if not self._readers:
            raise UserError(f"data folder {folder}: no {split}-*.parquet in it; make one with `shirg prepare`")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, so that augmentation differs between epochs."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(map(len, self._readers))

    def __getitem__(self, index: int) -> Record:
        record = self._read(index)
        # A broken image is returned unchanged: training skips the record and lists it.
        with contextlib.suppress(UserError):
            if self.augment:
                record = augment_record(record, self.seed, self.epoch)
            if self.shapes is not None:
                record = Sample.of(record, self.shapes, augmented=self.augment)
                if get_worker_info() is not None:  # the main process makes views on first use
                    record.make(self.views)
        return record

    def _read(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        for reader in self._readers:
            if index < len(reader):
                break
            index -= len(reader)
        return reader[index]

    def image_ids(self) -> list[str]:
        """`image_id` of each record, without reading the images."""
        return [name for path in shard_paths(self.folder, self.split) for name in column_values(path, "image_id")]

    def fingerprint(self) -> str:
        """Hash of all questions, answers and `image_id`s, and of the augmentation's seed if any; 16 hexadecimal digits."""
        names = ("id", "image_id", "question", "answers")
        paths = shard_paths(self.folder, self.split)
        values = (row for path in paths for row in zip(*(column_values(path, name) for name in names), strict=True))
        return of_values(chain([[str(self.seed)]] if self.augment else [], values))


def collate(records: list[Record]) -> list[Record]:
    """A batch is the list of its records; the trainer leaves out unusable ones."""
    return list(records)


def ignore_sigint(_worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; workers ignore it, so that the trainer can finish its step.

    Workers end with the loader's iterator, or with the process that started them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


Batches: TypeAlias = "DataLoader[Record]"
"""A loader whose batches are lists of records."""


def build_loaders(
    folder: str | Path,
    batch_size: int = 4,
    *,
    seed: int = 0,
    augment: bool = False,
    num_workers: int = 0,
    shapes: Shapes | None = None,
    views: tuple[str, ...] = VIEWS,
) -> tuple[Batches, Batches | None]:
    """The training and the validation loader of a prepared folder.

    Training is shuffled; validation keeps the order of the shards and is never augmented. The number of workers changes
    neither order nor content. `SHIRGLoRATrainer` takes both; in your own loop `EpochOrder` distributes them over processes
    and resumes within an epoch.

    Args:
        folder: made by `SHIRGDatasetProcessor.prepare_full_dataset`.
        batch_size: records per batch, each a list of `Record`s (or `Sample`s, see `shapes`).
        seed: of order and augmentation.
        augment: whether training images are augmented.
        num_workers: worker processes per loader, each up to two batches ahead; 0 uses this process.
        shapes: see `RecordDataset`.
        views: see `RecordDataset`.

    Returns:
        Both loaders; None for validation if the folder has no validation shards.

    Raises:
        UserError: if the folder has no training shards, or a number is out of range.
    """
    if batch_size < 1:
        raise UserError(f"batch_size: {batch_size}; at least 1")
    if num_workers < 0:
        raise UserError(f"num_workers: {num_workers}; 0 or more")

    def batches(dataset: RecordDataset, shuffle: bool) -> Batches:
        return DataLoader(
            dataset,
            batch_size,
            shuffle=shuffle,
            num_workers=num_workers,
            collate_fn=collate,
            worker_init_fn=ignore_sigint,
            generator=torch.Generator().manual_seed(seed),  # without it the loader draws from the global generator
        )

    train = RecordDataset(folder, "train", shapes=shapes, views=views, augment=augment, seed=seed)
    if not shard_paths(Path(folder), "validation"):
        return batches(train, shuffle=True), None
    held = RecordDataset(folder, "validation", shapes=shapes, views=views)
    return batches(train, shuffle=True), batches(held, shuffle=False)
