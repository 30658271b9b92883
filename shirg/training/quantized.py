"""A frozen body in 8 or 4 bits, by bitsandbytes: for a card that does not hold it in 16.

Only the linear layers of the language model's blocks are replaced; tower, projector, adapter, embeddings and head stay as
they are. 4 bits are NF4 with doubly quantized scales, 8 bits are LLM.int8() (docs of bitsandbytes). Gradients pass through
to the adapter; the frozen weights get none. The losses are those of another, rounded, model, so an adapter trained on one
should be judged on the body that it will serve.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import nn

from shirg.errors import UserError

if TYPE_CHECKING:
    from shirg.lavida import Lavida

BODY_BITS = (16, 8, 4)
"""16 leaves the body as it was loaded."""

STORED_BITS = {8: 8.0, 4: 4.127}
"""Per weight, scales included: NF4 has one 8-bit scale per 64 weights, and a float32 one per 256 of those."""


def check_body_bits(bits: int, device: torch.device) -> None:
    """Raise `UserError` unless a body on `device` can be held in `bits` bits here."""
    if bits == 16:
        return
    if device.type != "cuda":
        raise UserError(f"body_bits: {bits} needs a CUDA GPU, but the model is on {device}; take 16")
    if find_spec("bitsandbytes") is None:
        raise UserError(f"body_bits: {bits} needs bitsandbytes; `pip install bitsandbytes`, or take 16")


def quantize_body(model: Lavida, bits: int) -> None:
    """Replace the linear layers of the blocks by frozen ones of 8 or 4 bits, one after another, in place."""
    for block in model.language.layers:
        linear = [(name, module) for name, module in block.named_modules() if type(module) is nn.Linear]
        for name, module in linear:
            block.set_submodule(name, _quantized(module, bits))


def _quantized(linear: nn.Linear, bits: int) -> nn.Module:
    import bitsandbytes

    weight, shape = linear.weight.data, (linear.in_features, linear.out_features)
    if bits == 4:
        kind = {"quant_type": "nf4", "compress_statistics": True}
        layer = bitsandbytes.nn.Linear4bit(*shape, bias=False, compute_dtype=weight.dtype, device="meta", **kind)
        layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, **kind)
    else:
        layer = bitsandbytes.nn.Linear8bitLt(*shape, bias=False, has_fp16_weights=False, device="meta")
        layer.weight = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    layer.bias = linear.bias
    return layer.to(weight.device)  # quantizes
