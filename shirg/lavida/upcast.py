"""bfloat16 weights on a processor that has no bfloat16 instructions: store them as they are, multiply in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from shirg.lavida.model import Lavida


class UpcastLinear(nn.Linear):
    """A linear layer that holds its weights in their stored precision and multiplies float32 copies of them.

    A copy lives as long as the product, so memory grows by one layer. Casting reads 2 and writes 4 bytes per weight, less
    than the product of a prefix of hundreds of rows takes.
    """

    @classmethod
    def of(cls, linear: nn.Linear) -> UpcastLinear:
        """The same layer with the same tensors."""
        with torch.device("meta"):
            made = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        made.weight, made.bias = linear.weight, linear.bias
        return made

    def forward(self, values: Tensor) -> Tensor:
        """[..., in] of any precision to float32 [..., out]."""
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(values.float(), self.weight.float(), bias)


def compute_in_float32(model: Lavida, *, keep_storage: bool) -> Lavida:
    """Make `model` compute in float32; returns it.

    Args:
        keep_storage: the language model's matrices, which are nearly all of an 8B model, stay in their precision and are cast
            when they are used. Tower, projector, norms and word embeddings become float32. False casts everything, which is
            faster and takes twice the memory.
    """
    if keep_storage:
        for parent in list(model.language.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear and child.weight.dtype is not torch.float32:
                    setattr(parent, name, UpcastLinear.of(child))
    kept = {id(part.weight) for part in model.modules() if isinstance(part, UpcastLinear)}
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in kept and tensor.is_floating_point():
            tensor.data = tensor.data.float()
    return model
