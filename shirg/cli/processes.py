"""The processes that torchrun started, of which this is one."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shirg.locks import folder_lock
from shirg.process_group import shut_down_process_group

PATIENCE = datetime.timedelta(days=7)
"""How long a process that is done waits for the others, whose pages may be harder."""


@dataclass(frozen=True)
class Processes:
    """How many there are, and which one this is; one and 0 where nothing launched several."""

    number: int = 1
    rank: int = 0
    local_rank: int = 0
    """Index among its machine's processes, and of its GPU."""

    @classmethod
    def of_launcher(cls) -> Processes:
        """Read from torchrun's environment variables."""
        names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
        return cls(*(int(os.environ.get(name, default)) for name, default in zip(names, "100", strict=True)))

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """The processes connected, each on a GPU of its own; nothing for one alone."""
        if self.number == 1:
            yield
            return
        import torch
        from torch import distributed

        if torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank)
        distributed.init_process_group("gloo", timeout=PATIENCE)
        try:
            yield
        finally:
            shut_down_process_group()

    def owning(self, folder: Path) -> contextlib.AbstractContextManager[None]:
        """The lock of `folder`, held by the first process for all of them."""
        return folder_lock(folder) if self.rank == 0 else contextlib.nullcontext()

    def wait(self) -> None:
        """Until all are here."""
        from torch import distributed

        distributed.barrier()
