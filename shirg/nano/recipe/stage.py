"""A training stage of a given duration: progress, saving, resuming."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from shirg.errors import UserError
from shirg.files import atomic_path, write_json
from shirg.nano.recipe.muon import Muon
from shirg.seeds import derived_seed

log = logging.getLogger(__name__)

SAVE_SECONDS = 120.0
LOG_STEPS = 50
WARM_UP, DECAY, FLOOR = 0.02, 0.3, 0.02
AVERAGED = 0.999
MAX_GRAD_NORM = 1.0


@dataclass
class Stage:
    """One stage's folder, length in seconds of training, and what has been spent of it.

    The clock, not a number of steps, decides the length, because the recipe is planned in hours of whatever machine there is.
    `weights` holds averages over the last thousand or so steps, `state` what a stopped stage resumes from: weights and momenta.
    Both and the time spent are saved every two minutes; a resumed stage shows pages that it has not shown yet, at the learning
    rate that it had.
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
    def state(self) -> Path:
        return self.folder / "state.pt"

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
        """Yield the share done (0 to 1) before every step, with the learning rates set; saves on the way and at the end.

        `modules` end with the averaged weights. A finished stage only loads them.

        Raises:
            UserError: when the folder holds weights of other shapes.
        """
        rates = [group["lr"] for stepper in steppers for group in stepper.param_groups]
        average = self._resume(modules, steppers)
        groups = [group for stepper in steppers for group in stepper.param_groups]  # which resuming replaces
        self.sessions += 1
        before, began, saved = self.spent, time.monotonic(), time.monotonic()
        while not self.finished:
            progress = self.spent / self.seconds
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * learning_rate(progress)
            yield progress
            self.steps += 1
            average.update(modules, self.steps)
            self.spent = _from_first(before + time.monotonic() - began)
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save(modules, steppers, average)
                saved = time.monotonic()
        average.copy_to(modules)
        if self.spent > before:
            self.save(modules, steppers, average)

    def _resume(self, modules: nn.Module, steppers: list[torch.optim.Optimizer]) -> Average:
        """Load what is in the folder, if anything; the averages go on from there."""
        if not self.weights.exists():
            return Average(modules)
        kept = load_file(self.weights)
        shapes = {name: value.shape for name, value in modules.state_dict().items()}
        if shapes != {name: value.shape for name, value in kept.items()}:
            raise UserError(
                f"--work: {self.weights} was trained by a recipe with other shapes; give a new folder, or remove this one"
            )
        modules.load_state_dict(kept)
        average = Average(modules)
        if not self.finished and self.state.exists():
            known = torch.load(self.state, map_location="cpu", weights_only=True)
            modules.load_state_dict(known["weights"])
            for stepper, state in zip(steppers, known["steppers"], strict=True):
                stepper.load_state_dict(state)
        return average

    def save(self, modules: nn.Module, steppers: list[torch.optim.Optimizer], average: Average) -> None:
        """Write state and weights, then the time spent on them: a process killed in between repeats a little, loses nothing."""
        if rank() > 0:
            return
        with atomic_path(self.state) as fresh:
            steps = [stepper.state_dict() for stepper in steppers]
            torch.save({"weights": modules.state_dict(), "steppers": steps}, fresh)
        averaged = modules.state_dict() | average.values
        with atomic_path(self.weights) as fresh:
            save_file({name: value.contiguous() for name, value in averaged.items()}, fresh)
        # "sittings" is the key of earlier versions.
        write_json(self.folder / "stage.json", {"seconds": self.spent, "steps": self.steps, "sittings": self.sessions})


class Average:
    """Exponential averages of the parameters of `modules` that learn; of the first steps, their plain mean."""

    def __init__(self, modules: nn.Module):
        self.values = {name: p.detach().clone() for name, p in modules.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, modules: nn.Module, steps: int) -> None:
        """Count in the parameters after step `steps`."""
        for name, p in modules.named_parameters():
            if name in self.values:
                self.values[name].lerp_(p, max(1 - AVERAGED, 1 / steps))

    @torch.no_grad()
    def copy_to(self, modules: nn.Module) -> None:
        """Let the parameters be their averages."""
        for name, p in modules.named_parameters():
            if name in self.values:
                p.copy_(self.values[name])


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
    """Factor of the learning rate: warm-up over the first 2 %, then 1, then down to `FLOOR` over the last 30 %, all linear."""
    if progress < WARM_UP:
        return max(progress, 1e-3) / WARM_UP
    return min(1.0, FLOOR + (1 - FLOOR) * (1 - progress) / DECAY)


def batches(progress: float) -> int:
    """Batches of one step: twice as many while the learning rate falls."""
    return 2 if progress > 1 - DECAY else 1


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


def optimizer_step(
    modules: nn.Module, steppers: list[torch.optim.Optimizer], loss: Callable[[], torch.Tensor], count: int = 1
) -> None:
    """One step down the mean gradient of `count` calls of `loss`, clipped to norm 1."""
    modules.zero_grad(set_to_none=True)
    for _ in range(count):
        (loss() / count).backward()
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
