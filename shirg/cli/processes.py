"""Processes started by torchrun."""

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
"""Longest time that a finished process waits for the others."""


@dataclass(frozen=True)
class Processes:
    """Number of processes and rank of this one; 1 and 0 without torchrun."""

    number: int = 1
    rank: int = 0
    local_rank: int = 0
    """Rank on its machine, and index of its GPU."""

    @classmethod
    def of_launcher(cls) -> Processes:
        """Read from torchrun's environment variables."""
        names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
        return cls(*(int(os.environ.get(name, default)) for name, default in zip(names, "100", strict=True)))

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Initialise the process group, each process with its own GPU; nothing for a single process."""
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
        """Wait until all processes call this."""
        from torch import distributed

        distributed.barrier()
