"""The frozen blocks of the language model divided among the processes of a run, by torch's `fully_shard`.

Each process holds a share of every block and gathers a whole block when it is its turn, forward and backward. The adapter
is small: every process keeps all of it, and DDP sums its gradients as ever. Gathering is done by all processes together, so
each of them has to run the body as often as the others, with or without records.
"""

from __future__ import annotations

import torch

from shirg.errors import UserError
from shirg.lavida.adapter import lora_parameters
from shirg.training.loss_model import LossModel


def check_sharding(processes: int, body_bits: int) -> None:
    """Raise `UserError` where a body cannot be divided."""
    if processes < 2:
        raise UserError(
            "shard_body: there is one process, which has nobody to share with; start several, or leave it out"
        )
    if body_bits < 16:
        raise UserError(f"shard_body: a body in {body_bits} bits (body_bits) is not divided; choose one of the two")


def shard_body(loss_model: LossModel, device: torch.device, processes: int) -> None:
    """Divide the blocks of the body in place, before DDP wraps it and is told to leave all frozen weights
    alone."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    mesh = init_device_mesh(device.type, (processes,))
    for layer in loss_model.model.language.layers:
        # Every layer is a root of its own, and roots would keep what they gathered in the forward pass.
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    trained = {id(parameter) for parameter in lora_parameters(loss_model.model).values()}
    frozen = [name for name, parameter in loss_model.named_parameters() if id(parameter) not in trained]
    frozen += [name for name, _ in loss_model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(loss_model, frozen)
    loss_model.sharded = True
