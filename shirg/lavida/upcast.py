"""bfloat16 models on a processor without bfloat16 instructions: computed in float32, and stored so if memory allows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional

from shirg.precision import choose_precision

if TYPE_CHECKING:
    from shirg.lavida.model import Lavida

MEMORY_FACTOR = 1.25
"""Free memory needed to store weights in float32, in multiples of their size; the rest is for activations and caches."""

CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux has the memory limit of a container (control groups, version 2)."""

LARGE = 10**9
"""Bytes of float32 weights from which the log has a line about their storage."""

logger = logging.getLogger(__name__)


class UpcastLinear(nn.Linear):
    """A linear layer that keeps the precision of its weights and multiplies float32 copies of them.

    A copy exists during one product, so memory grows by one layer. Casting reads 2 and writes 4 bytes per weight, which is
    little compared with the product for a prefix of hundreds of rows.
    """

    @classmethod
    def of(cls, linear: nn.Linear) -> UpcastLinear:
        """The same layer with the same tensors."""
        made = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        made.weight, made.bias = linear.weight, linear.bias
        return made

    def forward(self, values: Tensor) -> Tensor:
        """[..., in] of any precision to float32 [..., out]."""
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(values.float(), self.weight.float(), bias)


def upcast_if_faster(model: Lavida) -> None:
    """Make a bfloat16 model on a CPU compute in float32 if that is faster; other models do not change."""
    if model.dtype is not torch.bfloat16 or model.device.type != "cpu":
        return
    precision = choose_precision("auto", "cpu")
    if precision.dtype is torch.bfloat16:
        return
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    fits = free_memory() > MEMORY_FACTOR * size
    compute_in_float32(model, keep_storage=not fits)
    if size >= LARGE:
        stored = (
            f"weights are stored in it too ({size / 1e9:.1f} GB)" if fits else "weights stay bfloat16, to save memory"
        )
        logger.info("%s; %s", precision.reason, stored)


def free_memory() -> int:
    """Bytes of memory that this process can still use: of the machine, or of the container if that has less."""
    free = psutil.virtual_memory().available
    limit, used = (CONTAINER / name for name in ("memory.max", "memory.current"))
    try:
        return min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free


def compute_in_float32(model: Lavida, *, keep_storage: bool) -> None:
    """Make `model` compute in float32.

    Args:
        keep_storage: the language model's matrices, nearly all of an 8B model, keep their precision and are cast when they are
            used; tower, projector, norms and word embeddings become float32. False casts everything, which is faster and
            takes twice the memory.
    """
    if keep_storage:
        for parent in list(model.language.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, UpcastLinear.of(child))
    stored = {layer.weight for layer in model.modules() if isinstance(layer, UpcastLinear)}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor not in stored and tensor.is_floating_point():
            tensor.data = tensor.data.float()
