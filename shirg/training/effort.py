"""How much work a training step is, and how long it will take here: known before the first step.

Operations are counted as `shirg.lavida.costs` counts them. The body is frozen, so the backward pass of a linear layer costs
as much as its forward pass (gradients of activations, none of weights); attention's is counted as twice its forward.
Attention of a row is counted dense, as kernels without blocks compute it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from shirg.lavida import costs
from shirg.lavida.config import LavidaConfig
from shirg.training.budgets import POOLED, BudgetSampler, Ratio, path_of, ratio_tokens
from shirg.training.memory import Step

UTILISATION = 0.5
"""Of what one large matrix product reaches, a training step is expected to reach this share."""


def language_flops(
    config: LavidaConfig,
    rows: Sequence[tuple[int, int, int]],
    answers: int,
    *,
    read: int | None = None,
    checkpointing: bool = False,
) -> int:
    """Forward and backward of the body and the head, in FLOPs.

    Args:
        rows: (positions, keys each of them may see, repeated so often).
        read: positions of a row whose hidden states the loss reads; None: all.
        answers: positions that predict.
        checkpointing: blocks run forward once more.
    """
    forward = sum(times * costs.body_flops(config, length, keys, read=read) for length, keys, times in rows)
    attention = forward - sum(times * costs.body_flops(config, length, 0, read=read) for length, _, times in rows)
    return (3 if checkpointing else 2) * forward + attention + 2 * costs.head_flops(config, answers)


def vision_flops(config: LavidaConfig, ratio: Ratio) -> int:
    """The tower's pass over one image that is met for the first time, and the projector's three, in FLOPs."""
    shape = costs.vision_shape(config, path_of(ratio), budget=None if ratio == POOLED else ratio)
    per_view = shape.grid[0] * shape.grid[1]
    look = costs.tower_flops(config, shape.views, per_view)
    if ratio == POOLED:  # tokens are pooled behind the projector
        return look + 3 * costs.projector_flops(config, shape.encoded)
    return look + costs.relevance_flops(config, shape.views, per_view) + 3 * costs.projector_flops(config, shape.tokens)


def micro_batch_flops(config: LavidaConfig, ratio: Ratio, step: Step) -> int:
    """Forward and backward of one micro-batch whose images are all new, in FLOPs."""
    rows, length = step.rows(ratio_tokens(ratio, costs.path_tokens(config, "hd")))
    answers = step.batch_size * step.answer_tokens
    read = step.read if step.dense_mask else None
    language = language_flops(config, [(length, length, rows)], answers, read=read, checkpointing=step.checkpointing)
    return language + step.batch_size * vision_flops(config, ratio)


def run_flops(config: LavidaConfig, sampler: BudgetSampler, step: Step, steps: range, micro_batches: int) -> float:
    """Expected FLOPs of one process in the optimizer steps `steps`, validation not counted."""
    cost = {ratio: micro_batch_flops(config, ratio, step) for ratio in sampler.ratios}
    return micro_batches * sum(
        chance * cost[ratio] for number in steps for ratio, chance in sampler.probabilities(number).items()
    )


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product on `device`, the best of three; draws no random numbers."""
    side = 8192 if device.type == "cuda" else 1024
    left = torch.linspace(-1, 1, side * side, device=device).view(side, side).to(dtype)
    best = float("inf")
    for _ in range(4):  # the first one loads the kernel, and may be the slowest
        began = time.perf_counter()
        (left @ left)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best
