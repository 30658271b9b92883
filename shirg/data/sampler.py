"""Sampler of training batches: the order depends on seed, epoch and process only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from shirg.errors import UserError
from shirg.seeds import generator


class EpochOrder:
    """Distributes the shuffled batches of a `DataLoader` over the processes of a run.

    For a loader with `shuffle=True` the order depends on seed and epoch only, so a run resumes at the exact record without
    reading earlier ones. A loader without it, or with its own sampler, keeps its order, unless `by_image` is set.

    Example:
        >>> order = EpochOrder(loader, seed=0)
        >>> for epoch in range(3):
        ...     for records in order.batches(epoch):  # to resume: order.batches(epoch, skip=batches_done)
        ...         step(records)
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        *,
        seed: int,
        name: str = "train_loader",
        rank: int = 0,
        processes: int = 1,
        by_image: bool = False,
    ):
        """
        Args:
            loader: yields lists of records.
            seed: of the order; combined with `name`.
            name: the loader's name in messages.
            rank: this process, from 0.
            processes: number of processes; each gets the same number of batches, the last may be empty.
            by_image: shuffle images, and keep the records of one image together; needs a data set with `image_ids()`, one
                per record.

        Raises:
            UserError: if it is no DataLoader over a data set with a length, has no batches or no `image_ids`, or if rank
                is out of range.
        """
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            kind = type(loader.dataset if isinstance(loader, DataLoader) else loader).__name__
            raise UserError(f"{name}: got {kind}; pass a torch DataLoader over a data set with a length")
        dataset: Any = loader.dataset  # torch's own type of data sets promises no length
        if len(dataset) == 0 or loader.batch_sampler is None or len(loader) == 0:
            raise UserError(f"{name}: {len(dataset)} records make no batch; it needs records and a batch_size")
        if not 0 <= rank < processes:
            raise UserError(f"rank: {rank}; from 0 to below processes ({processes})")
        if by_image and not hasattr(dataset, "image_ids"):
            raise UserError(f"share_prefix: {name} is over a {type(dataset).__name__}, which has no image_ids()")
        self.images = _records_by_image(dataset.image_ids()) if by_image else None
        self.loader = loader
        self._dataset = dataset
        self._batch_sampler: Iterable[list[int]] = loader.batch_sampler
        self.name = name
        self.seed = seed
        self.rank = rank
        self.processes = processes

    @property
    def batch_size(self) -> int:
        """Records in a full batch of one process."""
        size = self.loader.batch_size or getattr(self._batch_sampler, "batch_size", None)
        return size or max(len(batch) for batch in self._batch_sampler)

    @property
    def records(self) -> int:
        """Records per epoch over all processes."""
        return len(self._dataset)

    @property
    def records_per_image(self) -> float:
        """Mean number of records per image with `by_image`, else 1."""
        return len(self._dataset) / len(self.images) if self.images else 1.0

    def __len__(self) -> int:
        """Batches per epoch and process."""
        return math.ceil(len(self.loader) / self.processes)

    def indices(self, epoch: int, skip: int = 0) -> list[list[int]]:
        """Record numbers of this process's batches in `epoch`, without the first `skip` batches.

        The processes take turns. If the batches do not divide evenly, the last processes get an empty one.
        """
        batches = self._epoch(epoch)
        batches += [[]] * (-len(batches) % self.processes)
        return batches[self.rank :: self.processes][skip:]

    def batches(self, epoch: int, skip: int = 0, most: int | None = None) -> Iterator[list[Any]]:
        """This process's batches: lists of records; at most `most` of them, evenly spread over the epoch."""
        indices = self.indices(epoch, skip)
        if most is not None and most < len(indices):
            indices = [indices[number * len(indices) // most] for number in range(most)]
        filled = [batch for batch in indices if batch]
        records = iter(
            DataLoader(
                self._dataset,
                batch_sampler=filled,
                collate_fn=self.loader.collate_fn,
                num_workers=self.loader.num_workers,
                prefetch_factor=self.loader.prefetch_factor,
                worker_init_fn=self.loader.worker_init_fn,
                multiprocessing_context=self.loader.multiprocessing_context,
                generator=generator(self.seed, "workers", self.name, epoch),
            )
        )
        for batch in indices:
            yield next(records) if batch else []

    def _epoch(self, epoch: int) -> list[list[int]]:
        parts: tuple[Any, ...] = (self._dataset, self.loader.sampler, self._batch_sampler)
        for part in parts:
            if hasattr(part, "set_epoch"):  # of augmenting data sets and seeded samplers
                part.set_epoch(epoch)
        kept = type(self.loader.sampler) is not RandomSampler or self.loader.sampler.replacement
        if kept and self.images is None:
            return list(self._batch_sampler)
        draws = generator(self.seed, "order", self.name, epoch)
        size = self.batch_size
        if self.images is None:
            order = torch.randperm(len(self._dataset), generator=draws).tolist()
        else:
            images = torch.randperm(len(self.images), generator=draws).tolist()
            order = _whole_batches_first([self.images[image] for image in images], size)
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        return batches[: len(self.loader)]  # without a short last batch if the loader drops it


def _whole_batches_first(images: Iterable[Sequence[int]], size: int) -> list[int]:
    """Record numbers in an order in which as many batches of `size` as possible are of one image each.

    The remaining records of several images form a batch as soon as there are `size` of them.
    """
    order: list[int] = []
    left: list[int] = []
    for records in images:
        whole = len(records) // size * size
        order += records[:whole]
        left += records[whole:]
        while len(left) >= size:
            order += left[:size]
            del left[:size]
    return order + left


def _records_by_image(image_ids: Sequence[str]) -> list[list[int]]:
    """Record numbers per image, images in the order of their first record."""
    found: dict[str, list[int]] = {}
    for number, image in enumerate(image_ids):
        found.setdefault(image, []).append(number)
    return list(found.values())
