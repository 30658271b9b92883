"""Records from prepared shards to the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from shirg.data.augmentation import augment_record
from shirg.data.records import Record
from shirg.data.shards import SPLITS, ShardReader, shard_paths
from shirg.errors import UserError


class RecordDataset(Dataset[Record]):
    """The records of one split of a prepared folder, by number.

    Shards are memory-mapped and read a row group at a time, so the memory in use does not grow with the folder. An
    object can be sent to loader workers; each opens the files itself.
    """

    def __init__(self, folder: str | Path, split: str = "train", *, augment: bool = False, seed: int = 0):
        """Reads the footers of the shards.

        Args:
            folder: made by `SHIRGDatasetProcessor.prepare_full_dataset`.
            split: `train` or `validation`.
            augment: whether images are changed on reading, see `augment_record`.
            seed: of the augmentation.

        Raises:
            UserError: if the folder or the split's shards are missing or damaged.
        """
        if split not in SPLITS:
            raise UserError(f"split: {split!r}; one of {', '.join(SPLITS)}")
        self.folder, self.split, self.augment, self.seed, self.epoch = Path(folder), split, augment, seed, 0
        if not self.folder.is_dir():
            raise UserError(f"data folder {folder}: no such folder; make one with `shirg prepare`")
        self._open()
        if not self._readers:
            raise UserError(f"data folder {folder}: no {split}-*.parquet in it; make one with `shirg prepare`")

    def set_epoch(self, epoch: int) -> None:
        """Tells which epoch is read, so that augmentation differs between epochs. Epochs count from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(map(len, self._readers))

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        place = index
        for reader in self._readers:
            if place < len(reader):
                break
            place -= len(reader)
        record = reader[place]
        if not self.augment:
            return record
        try:
            return augment_record(record, self.seed, self.epoch, index)
        except UserError:
            return record  # training finds the broken image itself, skips the record and lists it

    def _open(self) -> None:
        self._readers = [ShardReader(path) for path in shard_paths(self.folder, self.split)]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_readers"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()


class ShuffleSampler(Sampler[int]):
    """All numbers below `length` in an order that follows from (seed, epoch) alone."""

    def __init__(self, length: int, seed: int = 0):
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Tells which epoch's order comes next. Epochs count from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.length, generator=generator).tolist())


class RecordLoader(DataLoader[list[Record]]):
    """A `DataLoader` of record lists that can be told the epoch in one place."""

    def set_epoch(self, epoch: int) -> None:
        """Tells order and augmentation which epoch comes next (accelerate calls the same two for its own loaders)."""
        for part in (self.dataset, self.sampler):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)


def collate(records: list[Record]) -> list[Record]:
    """A batch is the list of its records: images differ in size, and the model makes their views."""
    return list(records)


def build_loaders(
    folder: str | Path, batch_size: int = 4, *, seed: int = 0, augment: bool = False, num_workers: int = 0
) -> tuple[RecordLoader, RecordLoader | None]:
    """The training and the validation loader of a prepared folder.

    Training is shuffled by (seed, epoch), call `set_epoch` before each; validation keeps the order of the shards and is
    never augmented. The number of workers changes neither order nor content.

    Returns:
        Both loaders; None for validation if the folder was prepared without.

    Raises:
        UserError: if the folder has no training shards, or the batch size is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size: {batch_size}; at least 1")
    train = RecordDataset(folder, "train", augment=augment, seed=seed)
    sampler = ShuffleSampler(len(train), seed)
    # A generator of its own keeps a loader from drawing on the global one.
    shared = {"num_workers": num_workers, "collate_fn": collate, "generator": torch.Generator().manual_seed(seed)}
    train_loader = RecordLoader(train, batch_size, sampler=sampler, **shared)
    if not shard_paths(Path(folder), "validation"):
        return train_loader, None
    held = RecordDataset(folder, "validation")
    return train_loader, RecordLoader(held, batch_size, shuffle=False, **shared)
