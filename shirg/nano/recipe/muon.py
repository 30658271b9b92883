"""Muon with its products in the precision that this machine computes fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration that sends singular values near one (Jordan et al., "Muon: an optimizer for hidden layers in neural
networks", 2024)."""
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are made orthogonal, with decoupled weight decay and Nesterov momentum.

    The steps are those of `torch.optim.Muon`, which makes its products in bfloat16 on every processor. Without instructions for
    that they took 26 times as long as in float32, and longer than the rest of a step.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.bfloat16,
    ):
        """
        Args:
            params: matrices; others have no singular values.
            dtype: what products are computed in.
        """
        self.dtype = dtype
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure is called
        """One step for every matrix that has a gradient. Processes that train together share the work: their gradients must
        be equal, and so are their steps."""
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            directions = [self._direction(matrix, group["momentum"]) for matrix in matrices]
            for matrix, update in zip(matrices, orthogonal_each(directions, self.dtype), strict=True):
                rate = group["lr"] * math.sqrt(max(1, matrix.shape[0] / matrix.shape[1]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update.to(matrix.dtype), alpha=-rate)

    def _direction(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        assert matrix.grad is not None
        mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(mean, momentum)


def orthogonal_each(matrices: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """`orthogonal` of each matrix; every process computes its share and sends it to the others."""
    if not dist.is_initialized():
        return [orthogonal(matrix, dtype) for matrix in matrices]
    found: list[Tensor] = [matrix.to(dtype) for matrix in matrices]  # of the right shapes, to be overwritten
    for owner, share in enumerate(shared_out([matrix.shape for matrix in matrices], dist.get_world_size())):
        if owner == dist.get_rank():
            for index in share:
                found[index] = orthogonal(matrices[index], dtype)
        if not share:
            continue
        message = torch.cat([found[index].flatten() for index in share])
        dist.broadcast(message, owner)
        for index, part in zip(share, message.split([found[index].numel() for index in share]), strict=True):
            found[index] = part.view_as(found[index])
    return found


def shared_out(shapes: list[torch.Size], processes: int) -> list[list[int]]:
    """Indices of the matrices that each process works on: the costliest first, each to whoever has least to do."""
    costs = [min(shape) ** 2 * (2 * max(shape) + min(shape)) for shape in shapes]
    shares: list[list[int]] = [[] for _ in range(processes)]
    for index in sorted(range(len(shapes)), key=lambda index: -costs[index]):
        min(shares, key=lambda share: sum(costs[other] for other in share)).append(index)
    return shares


def orthogonal(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest orthogonal matrix to [R, C], roughly: singular values end between 0.5 and 1.5; products in `dtype`."""
    a, b, c = COEFFICIENTS
    tall = gradient.shape[0] > gradient.shape[1]
    found = (gradient.T if tall else gradient).to(dtype)
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found
