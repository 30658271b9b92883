"""The most memory that an answer takes, counted in bytes of tensors.

On a CPU the process's own high-water mark would not do: it never falls, so that every path after the largest would show the
largest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode


def peak_bytes(model: nn.Module, device: torch.device, action: Callable[[], object]) -> int:
    """Most bytes that tensors held at once while `action` ran, the weights of `model` included.

    On a GPU the allocator's own peak. On a CPU the largest sum between two operations: what an operation allocates and frees
    inside itself is not seen.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        action()
        return torch.cuda.max_memory_allocated(device)
    weights = {tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())}
    with _Alive(weights) as alive:
        action()
    return sum(storage.nbytes() for storage in weights) + alive.most


class _Alive(TorchDispatchMode):
    """Follows the storages that operations make. `most`: bytes that were alive at once."""

    def __init__(self, known: set[UntypedStorage]):
        super().__init__()
        self.known, self.most, self._held = known, 0, WeakSet[UntypedStorage]()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        tensors = [one for one in (made if isinstance(made, tuple | list) else [made]) if isinstance(one, Tensor)]
        self._held.update({tensor.untyped_storage() for tensor in tensors} - self.known)
        self.most = max(self.most, sum(storage.nbytes() for storage in self._held))
        return made
