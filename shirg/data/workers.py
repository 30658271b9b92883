"""Work in processes whose results come in the order of the tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Task], Result], tasks: Iterable[Task], num_workers: int | None) -> Iterator[Result]:
    """`function` of every task, in order and a bounded stretch ahead, so that neither tasks nor results pile up.

    Args:
        function: may be sent to another process; the same task must give the same result.
        tasks: read as the work goes on; may be endless.
        num_workers: processes; 0 works in this one, None takes up to two.
    """
    import torch
    from torch.utils.data import DataLoader

    num_workers = min(2, os.cpu_count() or 1) if num_workers is None else num_workers
    work: Any = _Work(function)  # no Dataset by name, so that this module loads without torch
    # A loader's workers end when this process is killed, which those of concurrent.futures do not.
    loader: DataLoader[Result] = DataLoader(
        work,
        batch_size=None,
        sampler=tasks,
        num_workers=num_workers,
        collate_fn=_same,
        generator=torch.Generator(),  # else it draws from the global one, and preparing would change the training
    )
    return iter(loader)


class _Work:
    def __init__(self, function: Callable[[Any], Any]):
        self.function = function

    def __getitem__(self, task: Any) -> Any:
        return self.function(task)


def _same(value: Any) -> Any:
    return value
