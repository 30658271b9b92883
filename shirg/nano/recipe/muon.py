"""Muon with its products in the precision that this machine computes fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
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
        """One step for every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._step(matrix, matrix.grad, group["lr"], group["weight_decay"], group["momentum"])

    def _step(self, matrix: nn.Parameter, grad: Tensor, lr: float, weight_decay: float, momentum: float) -> None:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        mean = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        update = orthogonal(grad.lerp(mean, momentum), self.dtype)
        matrix.mul_(1 - lr * weight_decay)
        matrix.add_(update.to(matrix.dtype), alpha=-lr * math.sqrt(max(1, matrix.shape[0] / matrix.shape[1])))


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
