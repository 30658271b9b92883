"""Checks during training: stop requests, losses and gradients that are not finite, out of memory, loss and memory over time."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from shirg.errors import UserError
from shirg.files import write_json
from shirg.training.budgets import BudgetSampler, Component
from shirg.training.checkpoints import RunState
from shirg.training.loss_model import Example

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REQUEUE = 75
"""Exit code of a run that a scheduler stopped and that can be resumed: "temporary failure, try again" (sysexits.h
EX_TEMPFAIL). Ctrl-C leaves with 130, as a shell reports it."""

GROWTH_SHARE, GROWTH_BYTES = 0.4, 2**29
"""Memory grows if it is up by more than two fifths and by more than 512 MiB; allocators and caches vary by less."""

MIN_STEPS = 40
"""Optimizer steps before memory is judged; an early quarter is then compared with the last."""

MIN_LOSSES = 32
"""Steps of a component before its losses are judged."""

Entry = Mapping[str, Any]
"""An optimizer step: its line of `metrics.jsonl`."""

Finding = tuple[bool | None, str]
"""Whether a check passed, None if the run is too short to decide, and what was found."""


# ------------------------------------------------------------------ stop requests


@dataclass
class StopRequest:
    """The signal that requested a stop since `deferred_interrupt` began, or None."""

    signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None


class StopRequested(Exception):
    """Ends the training loop between two steps, where the state is consistent and can be saved."""


def stopped_by(request: StopRequest) -> BaseException:
    """What a run that has saved raises: `KeyboardInterrupt` after Ctrl-C, otherwise a `SystemExit` with `REQUEUE`.

    A process without a signal that stops because others of its run did has the same exit code.
    """
    return KeyboardInterrupt() if request.signal == signal.SIGINT else SystemExit(REQUEUE)


@contextlib.contextmanager
def deferred_interrupt(notify: Callable[[str], None] | None = None) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM inside the block into a request; a second one of its kind acts at once, as usual.

    `notify` gets a line at the first one, since a step can take long. Signals reach the main thread alone: elsewhere the block
    changes nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    usual = {number: signal.getsignal(number) for number in SIGNALS}

    def remember(number: int, _frame: FrameType | None) -> None:
        request.signal = asked = signal.Signals(number)
        signal.signal(asked, usual[asked])
        if notify is not None:
            with contextlib.suppress(RuntimeError):  # the signal came while another line was being written
                notify("stopping: this step is finished and saved first; a second time stops at once")

    for number in SIGNALS:
        signal.signal(number, remember)
    try:
        yield request
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------ failed steps


def described(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Names and masked tokens of a batch's records, for messages about its loss or gradients; JSON values."""
    return [{"record": one.record_id, "image": one.image_id, "hidden": int(one.masked.sum())} for one in examples]


def check_finite(
    values: Tensor, batch: Sequence[Mapping[str, Any]], *, file: Path, step: int, component: Component, what: str
) -> None:
    """Raise unless all of `values` are finite; the batch is then written to `file`.

    Args:
        values: [B, N] losses of the batch, or one number of all of it, such as the gradient's norm.
        batch: its records, from `described`.
        step: optimizer steps done before.
        what: "loss" or "gradient".

    Raises:
        UserError: naming the records.
    """
    finite = values.detach().isfinite()
    if finite.all():
        return
    good = finite.all(dim=1).tolist() if finite.ndim == 2 else [False] * len(batch)
    bad = [entry["record"] for entry, is_good in zip(batch, good, strict=True) if not is_good]
    content = {"what": what, "after_steps": step, "budget": component.name, "not_finite": bad, "batch": list(batch)}
    write_json(file, content)
    shown = ", ".join(bad[:8]) + (f" and {len(bad) - 8} more" if len(bad) > 8 else "")
    raise UserError(
        f"the {what} is not finite after {step} steps (budget {component}) for record(s) {shown}; inspect them (the batch is"
        f" in {file}), or lower learning_rate. Earlier checkpoints are not affected"
    )


def check_gradients(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise unless every LoRA tensor got a gradient.

    Meant for a step after the first update: LoRA's B is zero before, and so is the gradient of A.

    Raises:
        UserError: naming the tensors without one.
    """
    silent = [name for name, parameter in parameters.items() if parameter.grad is None or not parameter.grad.any()]
    if silent:
        raise UserError(
            f"no gradient reaches {', '.join(silent)}; check target_modules and that the base weights are finite"
        )


@contextlib.contextmanager
def memory_advice(*, step: int, component: Component, records: int, checkpointing: bool) -> Iterator[None]:
    """Turn "out of memory" inside the block into a `UserError` that suggests what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError, and so is the CPU's
        if not (isinstance(error, MemoryError) or _is_out_of_memory(error)):
            raise
        smaller = f"batch_size (now {records}; more accumulation steps keep the optimizer step as it is) or "
        tail = "" if checkpointing else ", or set gradient_checkpointing (the same losses, about 1.5 times the time)"
        raise UserError(
            f"out of memory after {step} steps: lower {smaller if records > 1 else ''}the largest token budget (this step's"
            f" was {component}){tail}; resume continues from the last checkpoint"
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


# ------------------------------------------------------------------ checks over many steps


def warn(steps: Sequence[Entry], before: int, warned: set[str]) -> None:
    """Log what is wrong after every `MIN_STEPS` steps of a session, each problem once.

    Args:
        steps: of the whole run so far.
        before: how many of them earlier sessions took.
        warned: names of the problems that were logged before; new ones are added.
    """
    if len(steps) == before or (len(steps) - before) % MIN_STEPS:
        return
    for name, (passed, found) in (("loss", loss_falls(steps)), ("memory", memory_stays(steps[before:]))):
        if passed is False and name not in warned:
            warned.add(name)
            logger.warning("step %d: %s", steps[-1]["step"], found)


def component_of(entry: Entry) -> str:
    """The component that an optimizer step is counted to; steps of earlier versions have their budget alone."""
    return str(entry.get("component", entry["budget"]))


def loss_falls(steps: Sequence[Entry]) -> Finding:
    """Whether the loss is lower in the last quarter than in the first, each component compared with itself.

    Losses scatter with the records and the noise of a step, and losses of steps about the same images are correlated; so a change
    within three standard errors decides nothing.
    """
    losses: dict[str, list[float]] = {}
    for entry in steps:
        if entry["loss"] is not None:
            losses.setdefault(component_of(entry), []).append(entry["loss"])
    quarters = [_first_and_last_quarter(values) for values in losses.values() if len(values) >= MIN_LOSSES]
    if not quarters:
        return None, f"fewer than {MIN_LOSSES} steps of any component"
    first, last = (statistics.fmean(statistics.fmean(pair[side]) for pair in quarters) for side in (0, 1))
    squared = sum(statistics.variance(side) / len(side) for pair in quarters for side in pair) / len(quarters) ** 2
    change, noise = last - first, 3 * math.sqrt(squared)
    found = f"{first:.4f} in the first quarter, {last:.4f} in the last"
    if -noise <= change < noise:
        return None, f"the training loss stays within its scatter of {noise:.4f}: {found}"
    return change < 0, f"the training loss {'falls' if change < 0 else 'does not fall'}: {found}"


def memory_stays(session: Sequence[Entry]) -> Finding:
    """Whether memory in use, cached features left out, stays constant; the first quarter does not count, since
    buffers and caches are allocated in it."""
    if len(session) < MIN_STEPS:
        return None, f"fewer than {MIN_STEPS} steps in this session"
    memory = [entry["memory"] - entry["cached"] for entry in session]
    second, last = map(statistics.fmean, _first_and_last_quarter(memory[len(memory) // 4 :]))
    grows = last - second > max(GROWTH_SHARE * second, GROWTH_BYTES)
    verb = "grows" if grows else "stays"
    return not grows, f"memory in use {verb}: {second / 2**20:,.0f} MiB early, {last / 2**20:,.0f} MiB late"


def budgets_fit(drawn: Mapping[str, int], sampler: BudgetSampler) -> Finding:
    """Whether every component was drawn as often as its probabilities predict: with "uniform" and "continuous", which draw each
    once per window, within one draw, otherwise within four standard deviations and one draw.

    Draws are stratified, so that they are at least as even as independent ones.
    """
    steps = sum(drawn.values())
    if not steps:
        return None, "no step was taken"
    wanted, variance = dict.fromkeys(drawn, 0.0), dict.fromkeys(drawn, 0.0)
    for step in range(steps):
        for component, chance in sampler.probabilities(step).items():
            wanted[sampler.group(component)] += chance
            variance[sampler.group(component)] += chance * (1 - chance)
    spread = 0 if sampler.sampling in ("uniform", "continuous") else 4
    fits = all(abs(drawn[name] - wanted[name]) <= 1 + spread * math.sqrt(variance[name]) for name in drawn)
    return fits, ", ".join(f"{name}: {drawn[name]} of {wanted[name]:.1f} expected" for name in drawn)


def watched(steps: Sequence[Entry], before: int, state: RunState, sampler: BudgetSampler) -> list[dict[str, Any]]:
    """The checklist of a finished run, JSON values: `passed` is None if it was too short to decide.

    Args:
        steps, before: as of `warn`.
    """
    checked = state.updates > 1 or None
    gradients = "none without one after the first update" if checked else "fewer than two updates"
    found: dict[str, Finding] = {
        "losses and gradients are finite": (
            state.step > 0 or None,
            f"in {state.step:,} steps; another one ends the run",
        ),
        "training loss falls": loss_falls(steps),
        "budgets drawn as configured": budgets_fit(state.drawn, sampler),
        "gradients reach all LoRA tensors": (checked, gradients),
        "memory stays": memory_stays(steps[before:]),
    }
    return [{"name": name, "passed": passed, "found": words} for name, (passed, words) in found.items()]


def memory_in_use(device: torch.device) -> int:
    """Bytes: those of tensors on a GPU, the process's resident ones elsewhere (0 if the system does not report it)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError):
        fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
        return int(fields[0]) * 1024
    return 0


def _first_and_last_quarter(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    size = max(len(values) // 4, 1)
    return values[:size], values[-size:]
