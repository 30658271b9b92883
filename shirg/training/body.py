"""Less memory for the blocks of the frozen language model ("body"): 8 or 4 bits, or sharded over the processes of a run.

**Quantized** (bitsandbytes): only the linear layers of the blocks are replaced; tower, projector, adapter, embeddings and
head stay as they are. 4 bits are NF4 with doubly quantized scales, 8 bits are LLM.int8() (docs of bitsandbytes). Gradients
pass through to the adapter. Rounded weights are another model with other losses: evaluate an adapter on the body that it will be
used with.

**Sharded** (torch's `fully_shard`): each process holds a shard of every block and gathers the whole block for its forward
and backward pass. Every process holds the whole adapter, and DDP sums its gradients. Gathering is a collective operation, so
every process has to run the body as often as the others, with or without records.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import nn

from shirg.errors import UserError
from shirg.lavida.adapter import lora_parameters
from shirg.training.loss_model import LossModel

if TYPE_CHECKING:
    from shirg.lavida import Lavida


def check_body_bits(bits: int, device: torch.device) -> None:
    """Raise `UserError` unless a body on `device` can have `bits` bits here."""
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


def check_sharding(processes: int, body_bits: int) -> None:
    """Raise `UserError` unless the body can be sharded."""
    if processes < 2:
        raise UserError("shard_body: there is one process; start several, or leave it out")
    if body_bits < 16:
        raise UserError(f"shard_body: a body in {body_bits} bits (body_bits) cannot be sharded; choose one of the two")


def shard_body(loss_model: LossModel, device: torch.device, processes: int) -> None:
    """Shard the blocks of the body in place, before DDP wraps it; DDP then ignores all frozen weights."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    mesh = init_device_mesh(device.type, (processes,))
    for layer in loss_model.model.language.layers:
        # Every layer is its own FSDP root, and a root would keep its gathered weights after the forward pass.
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    trained = {id(parameter) for parameter in lora_parameters(loss_model.model).values()}
    frozen = [name for name, parameter in loss_model.named_parameters() if id(parameter) not in trained]
    frozen += [name for name, _ in loss_model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(loss_model, frozen)
    loss_model.sharded = True
