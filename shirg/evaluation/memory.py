"""The most memory that an answer takes, counted in bytes of tensors.

A process-wide figure would not do on a CPU: the system's high-water mark never falls, so that every path after the largest
would show the largest, and the allocator keeps what was freed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def peak_bytes(model: nn.Module, device: torch.device, action: Callable[[], object]) -> int:
    """Most bytes that tensors held at once while `action` ran, the weights of `model` included.

    On a GPU the allocator's own peak. On a CPU the largest sum between two operations: what an operation allocates and
    frees inside itself is not seen.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        action()
        return torch.cuda.max_memory_allocated(device)
    weights = {tensor.untyped_storage().data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    with _Alive(weights) as alive:
        action()
    return sum(tensor.untyped_storage().nbytes() for tensor in weights.values()) + alive.most


class _Alive(TorchDispatchMode):
    """Follows the storages that operations make.

    Attributes:
        most: bytes that were alive at once.
    """

    def __init__(self, known: dict[int, Tensor]):
        super().__init__()
        self.known, self.most = known, 0
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        operation: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        self._held = {place: entry for place, entry in self._held.items() if not entry[0].expired()}
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                storage = tensor.untyped_storage()
                self._held[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self.most = max(self.most, sum(size for _, size in self._held.values()))
        return made
