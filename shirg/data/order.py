"""Which records a process reads, and in which order: a function of seed, epoch and process alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from shirg.errors import UserError


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


def deal(batches: list[list[int]], rank: int, processes: int) -> list[list[int]]:
    """The batches of one process, dealt in turn.

    Where they do not come out even, the last processes get an empty one, so that every process makes the same number
    of steps and no record counts twice.
    """
    dealt = batches + [[]] * (-len(batches) % processes)
    return dealt[rank::processes]


class EpochBatches(Sampler[list[int]]):
    """The batches of one process in an epoch: its share of those that one process alone would read.

    Attributes:
        skip: batches at the beginning that are left out of the next iteration.
    """

    def __init__(self, order: Sampler[int], batch_size: int, rank: int = 0, processes: int = 1):
        """
        Args:
            order: all records; `set_epoch` of it is called if it has one.
            batch_size: records per batch; the last of an epoch may be shorter.
            rank: this process, from 0.
            processes: how many share the epoch.

        Raises:
            UserError: if the numbers make no share.
        """
        if batch_size < 1:
            raise UserError(f"batch_size: {batch_size}; at least 1")
        if not 0 <= rank < processes:
            raise UserError(f"rank: {rank}; from 0 to below processes ({processes})")
        self.order, self.batch_size, self.rank, self.processes, self.skip = order, batch_size, rank, processes, 0

    def set_epoch(self, epoch: int) -> None:
        """Tells which epoch comes next."""
        if hasattr(self.order, "set_epoch"):
            self.order.set_epoch(epoch)

    def __len__(self) -> int:
        """Batches per epoch, the same for every process."""
        return math.ceil(math.ceil(len(self.order) / self.batch_size) / self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        order, size = list(self.order), self.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        return iter(deal(batches, self.rank, self.processes)[self.skip :])
