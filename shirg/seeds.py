"""Random numbers that depend on their purpose, not on earlier draws.

Every draw of a run (data order, budget, noise, dropout) has its own generator, seeded by the run's seed and the position in the
run. So a resumed run, another micro-batch size or another number of processes draws the same numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts that identify a draw; the same on every machine and Python version."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derived_seed(*parts)`."""
    return torch.Generator().manual_seed(derived_seed(*parts))


@contextlib.contextmanager
def scoped_seed(device: torch.device, *parts: int | str) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them after it.

    For code without a generator argument: `nn.Dropout`, and the initialisation in peft.
    """
    devices = [] if device.type in ("cpu", "meta") else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(derived_seed(*parts))
        yield
