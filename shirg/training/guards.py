"""What is watched while a run goes on: numbers that stop being numbers, losses that do not fall, memory that creeps."""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shirg.errors import UserError
from shirg.files import write_json
from shirg.training.budgets import BudgetSampler, Ratio
from shirg.training.loss_model import Example

logger = logging.getLogger(__name__)

CREEP_SHARE, CREEP_BYTES = 0.4, 2**29
"""Memory creeps when it has grown by more than two fifths and by more than 512 MiB, since allocators and caches breathe."""

LEAST_STEPS = 40
"""Optimizer steps before memory is judged; an early quarter is then compared with the last."""

LEAST_LOSSES = 32
"""Steps of a ratio before its losses are judged."""


def described(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """What is remembered of a batch until its gradients are known, JSON values."""
    return [{"record": one.record_id, "image": one.image_id, "hidden": int(one.masked.sum())} for one in examples]


def check_finite(
    values: Tensor, batch: Sequence[dict[str, Any]], *, file: Path, step: int, ratio: Ratio, what: str
) -> None:
    """Raise unless all of `values` are finite; the batch is then written to `file`.

    Args:
        values: [B, N] losses of the batch, or one number of all of it, such as the gradient's norm.
        batch: its records, from `described`.
        what: "loss" or "gradient".

    Raises:
        UserError: naming the records.
    """
    finite = values.detach().isfinite()
    if finite.all():
        return
    good = finite.all(dim=1).tolist() if finite.ndim == 2 else [False] * len(batch)
    bad = [entry["record"] for entry, is_good in zip(batch, good, strict=True) if not is_good]
    content = {"what": what, "after_steps": step, "ratio": ratio, "not_finite": bad, "batch": list(batch)}
    write_json(file, content)
    shown = ", ".join(bad[:8]) + (f" and {len(bad) - 8} more" if len(bad) > 8 else "")
    raise UserError(
        f"the {what} is not finite after {step} steps (ratio {ratio}) for record(s) {shown}; look at them (the batch is in"
        f" {file}), or lower learning_rate. The checkpoints written before are good"
    )


@contextlib.contextmanager
def memory_advice(*, step: int, ratio: Ratio, records: int, checkpointing: bool) -> Iterator[None]:
    """Turn "out of memory" inside the block into a `UserError` that says what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError, and so is the CPU's
        if not (isinstance(error, MemoryError) or _is_out_of_memory(error)):
            raise
        advice = [f"batch_size (now {records}; more accumulation steps keep the optimizer step as it is)"] * (
            records > 1
        )
        advice += [f"the largest token budget (this step's ratio was {ratio})"]
        tail = "" if checkpointing else ", or turn gradient_checkpointing on (the same losses, about half more work)"
        raise UserError(
            f"out of memory after {step} steps: lower {' or '.join(advice)}{tail}; resume goes on from the last checkpoint"
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class Watch:
    """Keeps an eye on a run; warns once per trouble while it goes on, and sums up at the end."""

    def __init__(self, sampler: BudgetSampler):
        self.sampler = sampler
        self.losses: dict[str, list[float]] = {}
        self.memory: list[int] = []
        self.warned: set[str] = set()

    def step(self, entry: dict[str, Any], cache_bytes: int) -> None:
        """Take note of one optimizer step, given as its line of `metrics.jsonl`.

        Args:
            cache_bytes: held by the feature cache, which may grow up to its limit.
        """
        self._note_loss(entry)
        self.memory.append(entry["memory"] - cache_bytes)
        if len(self.memory) % LEAST_STEPS == 0:
            for name, (passed, found) in (("loss", self.loss_falls()), ("memory", self.memory_stays())):
                if passed is False and name not in self.warned:
                    self.warned.add(name)
                    logger.warning("step %d: %s", entry["step"], found)

    def recall(self, entries: Sequence[dict[str, Any]]) -> None:
        """Take the losses of the steps before a resume into account, given as their lines of `metrics.jsonl`."""
        for entry in entries:
            self._note_loss(entry)

    def _note_loss(self, entry: dict[str, Any]) -> None:
        if entry["loss"] is not None:
            self.losses.setdefault(str(entry["budget"]), []).append(entry["loss"])

    def loss_falls(self) -> tuple[bool | None, str]:
        """Whether the loss is lower in the last quarter than in the first, each ratio compared with itself.

        Losses scatter with the records and the noise of a step, and those of steps about the same images alike; so a change
        within three standard errors decides nothing.
        """
        quarters = [_first_and_last_quarter(losses) for losses in self.losses.values() if len(losses) >= LEAST_LOSSES]
        if not quarters:
            return None, f"fewer than {LEAST_LOSSES} steps of any ratio"
        first, last = (statistics.fmean(statistics.fmean(pair[side]) for pair in quarters) for side in (0, 1))
        squared = sum(statistics.variance(side) / len(side) for pair in quarters for side in pair) / len(quarters) ** 2
        change, noise = last - first, 3 * math.sqrt(squared)
        found = f"{first:.4f} in the first quarter, {last:.4f} in the last"
        if -noise <= change < noise:
            return None, f"the training loss stays within its scatter of {noise:.4f}: {found}"
        return change < 0, f"the training loss {'falls' if change < 0 else 'does not fall'}: {found}"

    def memory_stays(self) -> tuple[bool | None, str]:
        """Whether memory in use stays where it was; the first quarter, in which everything is met once, is left out."""
        if len(self.memory) < LEAST_STEPS:
            return None, f"fewer than {LEAST_STEPS} steps in this part of the run"
        second, last = map(statistics.fmean, _first_and_last_quarter(self.memory[len(self.memory) // 4 :]))
        creeps = last - second > max(CREEP_SHARE * second, CREEP_BYTES)
        verb = "creeps up" if creeps else "stays"
        return not creeps, f"memory in use {verb}: {second / 2**20:,.0f} MiB early, {last / 2**20:,.0f} MiB late"

    def budgets_fit(self, drawn: dict[str, int]) -> tuple[bool | None, str]:
        """Whether every ratio was drawn as often as its probabilities say: under "uniform", which deals each once per
        window, within one draw, else within four standard deviations and one draw.

        Draws are dealt in strata, which only makes them more even than independent ones.
        """
        steps = sum(drawn.values())
        if not steps:
            return None, "no step was taken"
        wanted, variance = dict.fromkeys(drawn, 0.0), dict.fromkeys(drawn, 0.0)
        for step in range(steps):
            for ratio, chance in self.sampler.probabilities(step).items():
                wanted[str(ratio)] += chance
                variance[str(ratio)] += chance * (1 - chance)
        spread = 0 if self.sampler.sampling == "uniform" else 4
        fits = all(abs(drawn[name] - wanted[name]) <= 1 + spread * math.sqrt(variance[name]) for name in drawn)
        return fits, ", ".join(f"{name}: {drawn[name]} of {wanted[name]:.1f} expected" for name in drawn)

    def summary(self, drawn: dict[str, int], gradients_checked: bool) -> list[dict[str, Any]]:
        """The checklist, JSON values: `passed` is None where the run was too short to tell."""
        gradients = "none without one after the first update" if gradients_checked else "fewer than two updates"
        steps = sum(drawn.values())
        found = {
            "losses and gradients are finite": (
                True if steps else None,
                f"in {steps:,} steps; another one ends the run",
            ),
            "training loss falls": self.loss_falls(),
            "budgets drawn as configured": self.budgets_fit(drawn),
            "gradients reach all LoRA tensors": (gradients_checked or None, gradients),
            "memory stays": self.memory_stays(),
        }
        return [{"name": name, "passed": passed, "found": words} for name, (passed, words) in found.items()]


def memory_in_use(device: torch.device) -> int:
    """Bytes: those of tensors on a GPU, the process's resident ones elsewhere (0 where the system does not tell)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError):
        fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
        return int(fields[0]) * 1024
    return 0


def _first_and_last_quarter(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    size = max(len(values) // 4, 1)
    return values[:size], values[-size:]
