"""FLOPs of a training step, and the time that a run will take on this machine, forecast before the first step.

Forward passes are counted by `shirg.lavida.costs`. The body is frozen, so the backward pass of a linear layer costs as much as
its forward pass (gradients of activations, none of weights), and that of attention two times its forward pass. Attention of a row
is counted dense, as kernels without blocks compute it.
"""

from __future__ import annotations

import time

import torch

from shirg.lavida import costs
from shirg.lavida.config import LavidaConfig
from shirg.precision import Precision, bfloat16_speedup
from shirg.threads import usable_processors
from shirg.training.budgets import BudgetSampler, Component
from shirg.training.memory import Step

CPU_SPEED, GPU_SPEED = 0.06e12, 0.5 * 312e12
"""FLOP/s from which the times in docs/training.md are computed: LaViDa-nano's, measured on two cores with AVX2; those of large
models, computed for an A100 at half of its peak."""

LARGE = 10**9
"""Parameters from which a model is trained on a GPU."""

BUSY = 0.5
"""Number of processors kept busy by other programs above which the user is warned."""

MUCH_LONGER = 3.0
"""The user is warned if the forecast time is more than this many times the documented one."""

UTILISATION = 0.5
"""Expected speed of a training step relative to one large matrix product."""


def language_flops(
    config: LavidaConfig,
    rows: float,
    length: int,
    answers: int,
    *,
    read: int | None = None,
    checkpointing: bool = False,
) -> float:
    """Forward and backward pass of body and head, in FLOPs.

    Args:
        rows: number of rows of `length` positions, with full attention.
        answers: positions that predict, of all rows.
        read: positions of a row whose hidden states the loss reads; None: all.
        checkpointing: blocks run forward once more.
    """
    body = costs.flops_by_operation(config, "body", length, read or length, 0)
    forward, attention = sum(body.values()), body[torch.ops.aten.bmm]
    return rows * ((3 if checkpointing else 2) * forward + attention) + 2 * costs.flops(config, "head", answers)


def vision_flops(config: LavidaConfig, component: Component) -> int:
    """The tower's pass over one image that is new, and the projector's three, in FLOPs."""
    budget = None if component.most is None else min(component.most, costs.path_tokens(config, "highres"))
    shape = costs.vision_shape(config, component.path, budget=budget)
    tower = costs.tower_flops(config, shape)
    if budget is None:  # tokens are pooled after the projector
        return tower + 3 * costs.flops(config, "projector", shape.encoded)
    relevance = 0 if shape.early else costs.relevance_flops(config, shape.views, shape.encoded // shape.views)
    return tower + relevance + 3 * costs.flops(config, "projector", shape.tokens)


def micro_batch_flops(config: LavidaConfig, component: Component, step: Step, questions: float = 1.0) -> int:
    """Forward and backward pass of one micro-batch, in FLOPs.

    Args:
        questions: records about one image that share its prefix and its pass through the tower.
    """
    tokens = component.tokens(costs.path_tokens(config, "hd"))
    rows, length = step.rows(tokens)
    times, read = float(rows), step.read
    if questions > 1 and step.objective == "packed":  # the other objectives give every answer rows of its own
        read = round(questions * (2 * step.answer_tokens + step.question_tokens))
        times, length = step.batch_size / questions, tokens + step.prompt_tokens - step.question_tokens + read
    language = language_flops(
        config,
        times,
        length,
        step.batch_size * step.answer_tokens,
        read=read if step.dense_mask else None,
        checkpointing=step.checkpointing,
    )
    return round(language + step.batch_size / questions * vision_flops(config, component))


def run_flops(
    config: LavidaConfig, sampler: BudgetSampler, step: Step, steps: range, micro_batches: int, questions: float = 1.0
) -> float:
    """Expected FLOPs of one process in the optimizer steps `steps`, validation not counted."""
    chances: dict[Component, float] = {}
    for number in steps:
        for one, chance in sampler.probabilities(number).items():
            chances[one] = chances.get(one, 0.0) + chance
    return micro_batches * sum(
        chance * micro_batch_flops(config, one, step, questions) for one, chance in chances.items()
    )


def times_as_documented(seconds: float, work: float, config: LavidaConfig) -> float:
    """Ratio of the forecast `seconds` of `work` FLOPs to the time that docs/training.md states for them."""
    return seconds * (GPU_SPEED if needs_gpu(config) else CPU_SPEED) / work


def needs_gpu(config: LavidaConfig) -> bool:
    """Whether this model is too large to train on a CPU; a record takes 31 TFLOP at 8B (docs/training.md)."""
    return sum(costs.parameters(config).values()) >= LARGE


def remedy(config: LavidaConfig, device: torch.device, precision: Precision, others: float = 0.0) -> str:
    """Advice for a run that would take too long.

    Args:
        others: processors that other programs keep busy, which a run on the CPU lacks.
    """
    if device.type == "cpu" and needs_gpu(config):
        return "train on a GPU"
    if device.type == "cpu" and precision.mixed == "bf16" and bfloat16_speedup() < 1:
        return "leave --mixed-precision at auto, which takes float32 here"
    if device.type == "cpu" and others > BUSY:
        processors = len(usable_processors())
        return f"other programs keep {others:.1f} of {processors} processors busy; stop them, or start later"
    return "train on fewer records (--dataset-size, --ocr-samples, --epochs), or with fewer threads (OMP_NUM_THREADS)"


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
