"""bfloat16 weights on a processor without bfloat16 instructions: multiplied in float32, and stored so where there is room."""

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

ROOM = 1.25
"""Free memory that float32 weights ask for, in multiples of their size: features, caches and activations come on top."""

CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux tells what a container may use (control groups, version 2)."""

LARGE = 10**9
"""Bytes of float32 weights from which it is told how they are held."""

logger = logging.getLogger(__name__)


class UpcastLinear(nn.Linear):
    """A linear layer that holds its weights as they are stored and multiplies float32 copies of them.

    A copy lives as long as the product, so memory grows by one layer. Casting reads 2 and writes 4 bytes per weight, which is
    little beside the product with a prefix of hundreds of rows.
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


def suit_processor(model: Lavida) -> None:
    """Let a bfloat16 model on a CPU compute in float32 where that is faster; no other model changes."""
    if model.dtype is not torch.bfloat16 or model.device.type != "cpu":
        return
    precision = choose_precision("auto", "cpu")
    if precision.dtype is torch.bfloat16:
        return
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    roomy = free_memory() > ROOM * size
    compute_in_float32(model, keep_storage=not roomy)
    if size >= LARGE:
        stored = f"the weights, too ({size / 1e9:.1f} GB)" if roomy else "the weights stay bfloat16, to save memory"
        logger.info("%s; %s", precision.reason, stored)


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, or of the container where that has less."""
    free = psutil.virtual_memory().available
    limit, used = (CONTAINER / name for name in ("memory.max", "memory.current"))
    try:
        return min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free


def compute_in_float32(model: Lavida, *, keep_storage: bool) -> None:
    """Make `model` compute in float32.

    Args:
        keep_storage: the language model's matrices, nearly all of an 8B model, stay as they are stored and are cast when they
            are used. Tower, projector, norms and word embeddings become float32. False casts everything, which is faster and
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
