"""Records from prepared shards to the training loop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler, get_worker_info

from shirg.data.augmentation import augment_record
from shirg.data.order import EpochBatches, ShuffleSampler
from shirg.data.records import Record
from shirg.data.samples import VIEWS, Sample
from shirg.data.shards import SPLITS, ShardReader, column_values, shard_paths
from shirg.errors import UserError

if TYPE_CHECKING:
    from shirg.lavida.vision import ViewShapes


class RecordDataset(Dataset[Record]):
    """The records of one split of a prepared folder, by number.

    Shards are memory-mapped and read a row group at a time, so the memory in use does not grow with the folder. An
    object can be sent to loader workers; each opens the files itself.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        *,
        shapes: ViewShapes | None = None,
        views: tuple[str, ...] = VIEWS,
        augment: bool = False,
        seed: int = 0,
    ):
        """Reads the footers of the shards.

        Args:
            folder: made by `SHIRGDatasetProcessor.prepare_full_dataset`.
            split: `train` or `validation`.
            shapes: of a model's views, `ViewShapes.of(model)`: records come as `Sample`s, whose views a loader's
                worker has made; read in this process, a view is made when it is first asked for.
            views: which ones a worker makes.
            augment: whether images are changed on reading, see `augment_record`.
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
        self._open()
        if not self._readers:
            raise UserError(f"data folder {folder}: no {split}-*.parquet in it; make one with `shirg prepare`")

    def set_epoch(self, epoch: int) -> None:
        """Tells which epoch is read, so that augmentation differs between epochs. Epochs count from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(map(len, self._readers))

    def __getitem__(self, index: int) -> Record:
        record = self._read(index)
        # A broken image goes on as it is: training finds that itself, skips the record and lists it.
        with contextlib.suppress(UserError):
            if self.augment:
                record = augment_record(record, self.seed, self.epoch)
            if self.shapes is not None:
                record = Sample.of(record, self.shapes, augmented=self.augment)
                if get_worker_info() is not None:  # in the training's own process only what is needed is made
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
        """Which image each record is about, without reading the images."""
        return [name for path in shard_paths(self.folder, self.split) for name in column_values(path, "image_id")]

    def _open(self) -> None:
        self._readers = [ShardReader(path) for path in shard_paths(self.folder, self.split)]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_readers"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()


class RecordLoader(DataLoader[list[Record]]):
    """A `DataLoader` of record lists that knows its epoch and its place in it.

    Example:
        >>> for epoch in range(loader.epoch, 3):
        ...     loader.set_epoch(epoch)
        ...     for records in loader:
        ...         step(records)
        ...         state = loader.state_dict()  # later: loader.load_state_dict(state), and the same loop
    """

    def __init__(
        self,
        dataset: RecordDataset,
        order: Sampler[int],
        batch_size: int,
        *,
        rank: int = 0,
        processes: int = 1,
        num_workers: int = 0,
    ):
        """
        Args:
            dataset: what is read.
            order: its numbers in the order of one process.
            batch_size: records per batch and process.
            rank: this process, from 0; it gets every `processes`-th batch.
            processes: how many share the data.
            num_workers: processes that read ahead, two batches each; 0 reads when asked.

        Raises:
            UserError: if the numbers make no loader.
        """
        if num_workers < 0:
            raise UserError(f"num_workers: {num_workers}; 0 or more")
        self.epoch, self._begin, self._given = 0, 0, 0
        super().__init__(
            dataset,
            batch_sampler=EpochBatches(order, batch_size, rank, processes),
            num_workers=num_workers,
            collate_fn=collate,
            worker_init_fn=leave_ctrl_c_to_the_trainer,
            generator=torch.Generator().manual_seed(0),  # else a loader would draw on the global one
        )

    def set_epoch(self, epoch: int) -> None:
        """Tells order and augmentation which epoch comes next; one that is not the present one begins at its start."""
        if epoch != self.epoch:
            self.epoch, self._begin, self._given = epoch, 0, 0
        for part in (self.dataset, self.batch_sampler):
            part.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of batches that were handed out in it, whatever workers have read ahead; the same on every
        process."""
        return {"epoch": self.epoch, "batch": self._given, **self._shape()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration begins behind the batches that had been handed out, and reads none of them.

        Raises:
            UserError: if the state is of other data, another batch size or number of processes.
        """
        for name, value in self._shape().items():
            if state.get(name) != value:
                raise UserError(f"loader state: {name} is {state.get(name)} in it and {value} here; both must agree")
        self.set_epoch(state["epoch"])
        self._begin = self._given = state["batch"]

    def __iter__(self) -> Iterator[list[Record]]:
        # The sampler is asked for its batches once, when the iterator is made.
        self.batch_sampler.skip = self._given = self._begin
        batches = super().__iter__()
        self.batch_sampler.skip = self._begin = 0
        return self._counted(batches)

    def _counted(self, batches: Iterator[list[Record]]) -> Iterator[list[Record]]:
        for batch in batches:
            self._given += 1
            yield batch

    def _shape(self) -> dict[str, int]:
        sampler = self.batch_sampler
        return {"records": len(self.dataset), "batch_size": sampler.batch_size, "processes": sampler.processes}


def collate(records: list[Record]) -> list[Record]:
    """A batch is the list of its records: one that cannot be opened is left out by the trainer, not by the loader."""
    return list(records)


def leave_ctrl_c_to_the_trainer(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; a worker that ended by it would take the trainer's last step away.

    Workers end when the loader's iterator does, or when the process that made them is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def build_loaders(
    folder: str | Path,
    batch_size: int = 4,
    *,
    seed: int = 0,
    augment: bool = False,
    num_workers: int = 0,
    shapes: ViewShapes | None = None,
    views: tuple[str, ...] = VIEWS,
    rank: int = 0,
    processes: int = 1,
) -> tuple[RecordLoader, RecordLoader | None]:
    """The training and the validation loader of a prepared folder.

    Training is shuffled by (seed, epoch), call `set_epoch` before each; validation keeps the order of the shards and is
    never augmented. The number of workers changes neither order nor content.

    Args:
        folder: made by `SHIRGDatasetProcessor.prepare_full_dataset`.
        batch_size: records per batch and process.
        seed: of order and augmentation.
        augment: whether training images are changed at every reading.
        num_workers: processes that read ahead, for each loader.
        shapes: see `RecordDataset`.
        views: see `RecordDataset`.
        rank: this process. `SHIRGLoRATrainer` shares the data itself and wants loaders without rank and processes.
        processes: how many share the data.

    Returns:
        Both loaders; None for validation if the folder was prepared without.

    Raises:
        UserError: if the folder has no training shards, or a number makes no loader.
    """
    seen = {"shapes": shapes, "views": views}
    work = {"rank": rank, "processes": processes, "num_workers": num_workers}
    train = RecordDataset(folder, "train", augment=augment, seed=seed, **seen)
    train_loader = RecordLoader(train, ShuffleSampler(len(train), seed), batch_size, **work)
    if not shard_paths(Path(folder), "validation"):
        return train_loader, None
    held = RecordDataset(folder, "validation", **seen)
    return train_loader, RecordLoader(held, SequentialSampler(held), batch_size, **work)
