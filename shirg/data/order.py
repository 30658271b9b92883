"""The order in which training meets its records: a function of seed, epoch and process alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from shirg.errors import UserError
from shirg.seeds import generator


def deal(batches: list[list[int]], rank: int, processes: int) -> list[list[int]]:
    """The batches of one process, dealt in turn.

    Where they do not come out even, the last processes get an empty one, so that every process makes the same number
    of steps and no record counts twice.
    """
    dealt = batches + [[]] * (-len(batches) % processes)
    return dealt[rank::processes]


class EpochOrder:
    """Deals the batches of a `DataLoader`, shuffled by a seed, to the processes of a run.

    A loader made with `shuffle=True` would shuffle by a generator that goes on from epoch to epoch; here its order follows
    from the seed and the epoch alone, so a resumed run goes on at the exact record without reading those before it. A
    loader that does not shuffle, or has a sampler of its own, keeps its order (which must then be repeatable for a
    resume to be exact), unless images are dealt.

    Example:
        >>> order = EpochOrder(loader, seed=0)
        >>> for epoch in range(3):
        ...     for records in order.batches(epoch):  # to go on later: order.batches(epoch, skip=batches_done)
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
            seed: of the order, another one for every name.
            name: how messages call it.
            rank: this process, from 0.
            processes: how many share the epoch; each gets as many batches, the last may be empty.
            by_image: shuffle images instead of records, the records of one image beside each other; needs a data set
                with `image_ids()`, one per record.

        Raises:
            UserError: if it is no DataLoader over a data set with a length, has no batches or does not know its images, or
                if rank and processes make no share.
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
            raise UserError(
                f"share_prefix: {name} is over a {type(dataset).__name__}, which has no image_ids() to tell which"
                " records are of one image"
            )
        self.images = _places(dataset.image_ids()) if by_image else None
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
        told = self.loader.batch_size or getattr(self._batch_sampler, "batch_size", None)
        return told or max(len(batch) for batch in self._batch_sampler)

    @property
    def records(self) -> int:
        """Records of an epoch, of all processes."""
        return len(self._dataset)

    @property
    def records_per_image(self) -> float:
        """Records about one image on average, where images are dealt; 1 where records are."""
        return len(self._dataset) / len(self.images) if self.images else 1.0

    def __len__(self) -> int:
        """Batches per epoch for one process; the same for every process."""
        return math.ceil(len(self.loader) / self.processes)

    def indices(self, epoch: int, skip: int = 0) -> list[list[int]]:
        """Record numbers of this process's batches in `epoch`, without the first `skip` batches; see `deal`."""
        return deal(self._epoch(epoch), self.rank, self.processes)[skip:]

    def batches(self, epoch: int, skip: int = 0) -> Iterator[list[Any]]:
        """The batches themselves: lists of records."""
        indices = self.indices(epoch, skip)
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
            if hasattr(part, "set_epoch"):  # augmentation and seeded samplers, as accelerate tells them too
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
    """The images' records in an order whose batches of `size` are of one image each, as far as there are so many of it; what
    is left of several images makes a batch when there is enough."""
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


def _places(image_ids: Sequence[str]) -> list[list[int]]:
    """Numbers of the records of every image, images by their first record."""
    found: dict[str, list[int]] = {}
    for number, image in enumerate(image_ids):
        found.setdefault(image, []).append(number)
    return list(found.values())
