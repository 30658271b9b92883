"""Random numbers that depend on what they are for, never on what was drawn before.

Every draw of a run (data order, budget, noise, dropout) gets its own generator from the run's seed and the place in the
run. So a resumed run, another split of the batch, or another number of processes draws the same numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from what identifies the draw; the same on every machine and Python version."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derived_seed(*parts)`."""
    return torch.Generator().manual_seed(derived_seed(*parts))


@contextlib.contextmanager
def scoped_seed(device: torch.device, *parts: int | str) -> Iterator[None]:
    """Seed torch's own generators inside the block and put them back after it.

    For code that takes no generator: `nn.Dropout`, and the initialisation inside peft.
    """
    devices = [] if device.type in ("cpu", "meta") else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(derived_seed(*parts))
        yield
