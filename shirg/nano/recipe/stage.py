"""A training stage of a given duration: progress, saving, resuming."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn

from shirg.files import atomic_path, write_json
from shirg.nano.recipe.muon import Muon
from shirg.seeds import derived_seed

log = logging.getLogger(__name__)

SAVE_SECONDS = 120.0
LOG_STEPS = 50
WARM_UP, FLOOR = 0.02, 0.03
MAX_GRAD_NORM = 1.0


@dataclass
class Stage:
    """One stage's folder, length in seconds of training, and what has been spent of it.

    The clock, not a number of steps, decides the length, because the recipe is planned in hours of whatever machine there is.
    Weights and the time spent are saved every two minutes; a stopped stage resumes from there with new momenta and pages
    that it has not shown yet.
    """

    folder: Path
    seconds: float
    dtype: torch.dtype = torch.float32
    """What products are computed in, bfloat16 or float32; the same for all processes, whose updates must be equal."""
    spent: float = 0.0
    steps: int = 0
    sessions: int = 0

    def __post_init__(self) -> None:
        record = self.folder / "stage.json"
        if record.exists():
            known = json.loads(record.read_text())
            self.spent, self.steps, self.sessions = known["seconds"], known["steps"], known["sittings"]

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def finished(self) -> bool:
        return self.spent >= self.seconds

    def common_seed(self, seed: int) -> int:
        """A seed that differs between sessions but not between processes: their batches have equal sizes, so none waits."""
        return derived_seed(seed, self.sessions)

    def own_seed(self, seed: int) -> int:
        """A seed that differs between sessions and processes, so that no page is shown twice."""
        return derived_seed(seed, self.sessions, rank())

    def run(self, modules: nn.Module, steppers: list[torch.optim.Optimizer]) -> Iterator[float]:
        """Yield the share done (0 to 1) before every step, with the learning rates set; saves on the way and at the end."""
        groups = [group for stepper in steppers for group in stepper.param_groups]
        rates = [group["lr"] for group in groups]
        self.sessions += 1
        before, began, saved = self.spent, time.monotonic(), time.monotonic()
        while not self.finished:
            progress = self.spent / self.seconds
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * learning_rate(progress)
            yield progress
            self.steps += 1
            self.spent = _from_first(before + time.monotonic() - began)
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save(modules)
                saved = time.monotonic()
        self.save(modules)

    def save(self, modules: nn.Module) -> None:
        """Write the weights, then the time spent on them: a process killed in between repeats a little and loses nothing."""
        if rank() > 0:
            return
        with atomic_path(self.weights) as fresh:
            save_file({name: value.contiguous() for name, value in modules.state_dict().items()}, fresh)
        # "sittings" is the key of earlier versions, whose stages can be resumed.
        write_json(self.folder / "stage.json", {"seconds": self.spent, "steps": self.steps, "sittings": self.sessions})


def rank() -> int:
    """Number of this process among those that train together; 0 when it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def _from_first(seconds: float) -> float:
    """The first process's clock, so that all stop after the same step."""
    if not dist.is_initialized():
        return seconds
    clock = torch.tensor(seconds, dtype=torch.float64)
    dist.broadcast(clock, 0)
    return clock.item()


def _average_gradients(modules: nn.Module) -> None:
    """One message for all gradients; a part that one process had no use for in this step counts as zero there."""
    learning = [p for p in modules.parameters() if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learning])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, grad in zip(learning, flat.split([p.numel() for p in learning]), strict=True):
        p.grad = grad.view_as(p)


def learning_rate(progress: float) -> float:
    """Factor of the learning rate: linear warm-up over 2%, then a cosine down to 3%."""
    if progress < WARM_UP:
        return max(progress, 1e-3) / WARM_UP
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))


def optimizers(modules: nn.Module, matrix_lr: float, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW at a fifth of its rate for embeddings, norms, biases and read-outs."""
    named = [(name, p) for name, p in modules.named_parameters() if p.requires_grad]
    hidden = [p for name, p in named if p.ndim == 2 and ("layers." in name or "mm_projector" in name)]
    chosen = {id(p) for p in hidden}
    others = [p for _, p in named if id(p) not in chosen]
    return [
        Muon(hidden, lr=matrix_lr, weight_decay=0.01, momentum=0.95, dtype=dtype),
        torch.optim.AdamW(others, lr=matrix_lr / 5, weight_decay=0.01, betas=(0.9, 0.98)),
    ]


def optimizer_step(modules: nn.Module, steppers: list[torch.optim.Optimizer], loss: torch.Tensor) -> None:
    """One step down the gradient of `loss`, clipped to norm 1."""
    modules.zero_grad(set_to_none=True)
    loss.backward()
    if dist.is_initialized():
        _average_gradients(modules)
    nn.utils.clip_grad_norm_(modules.parameters(), MAX_GRAD_NORM)
    for stepper in steppers:
        stepper.step()


class Curve:
    """Means over the last LOG_STEPS steps, logged and appended to `curve.jsonl` beside the weights."""

    def __init__(self, stage: Stage):
        self.stage = stage
        self.recent: list[dict[str, float]] = []

    def add(self, values: dict[str, float]) -> None:
        self.recent.append(values)
        if rank() > 0 or len(self.recent) < LOG_STEPS:
            return
        names = dict.fromkeys(name for one in self.recent for name in one)
        means = {name: round(float(np.mean([one[name] for one in self.recent if name in one])), 4) for name in names}
        point = {"step": self.stage.steps + 1, "seconds": round(self.stage.spent, 1), **means}
        self.stage.folder.mkdir(parents=True, exist_ok=True)
        with open(self.stage.folder / "curve.jsonl", "a", encoding="utf-8") as lines:
            lines.write(json.dumps(point) + "\n")
        log.info("  ".join(f"{name} {value}" for name, value in point.items()))
        self.recent = []
