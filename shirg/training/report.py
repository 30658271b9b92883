"""Log lines and results of a run, as functions of its plan, state and journals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from shirg.gate.page_budget import MOST
from shirg.lavida.adapter import describe_parameters, parameters_by_role
from shirg.lavida.settings import FIELDS
from shirg.precision import DTYPES
from shirg.training import effort
from shirg.training.checkpoints import BEST, RunState
from shirg.training.guards import Entry
from shirg.training.logs import size_text, step_text, time_text
from shirg.training.memory import Step, training_memory
from shirg.training.plan import Plan

if TYPE_CHECKING:
    from shirg.lavida import Lavida

USUAL_QUESTION = "What is the total on this page?"
"""For the length of a prompt before any record is read."""


def opening_lines(plan: Plan, model: Lavida, step: int, others: float) -> list[str]:
    """First lines of the log: parameters by role, components and their tokens, batch, steps, precision, memory and time.

    Args:
        step: optimizer steps done.
        others: processors that other programs keep busy.
    """
    config, sampler = plan.config, plan.sampler
    tokens = ", ".join(
        f"{one} -> {'at most ' * (one.budget == 'auto')}{one.tokens(sampler.pooled_tokens)}"
        for one in sampler.components
    )
    drawn: str = config.ratio_sampling
    if drawn == "continuous":
        drawn = "continuously from {} to {} in place of the fixed ones, with which it is validated".format(
            *sampler.range
        )
    return [
        *describe_parameters(model),
        f"image tokens: {plan.grid_tokens} before selection; per budget (square image): {tokens}; drawn {drawn}",
        f"batch: {plan.order.batch_size} records x {config.gradient_accumulation_steps} micro-batches x"
        f" {plan.processes} processes = {plan.records_per_step} per optimizer step",
        f"steps: {plan.steps_per_epoch} x {config.num_epochs} epochs = {plan.total_steps}, from step"
        f" {step}; objective {config.objective}, on {plan.device} in {plan.precision.reason}",
        *forecast(plan, model, step, others),
    ]


def forecast(plan: Plan, model: Lavida, step: int, others: float) -> list[str]:
    """Computed peak memory and time, what they leave out, and advice if the time is far above the documented one."""
    config, sampler, precision = plan.config, plan.sampler, plan.precision
    shape = replace(model.config, vision=model.vision)
    dtype = model.dtype if precision.mixed == "no" else DTYPES[precision.mixed]
    parts = Step(
        batch_size=plan.order.batch_size,
        prompt_tokens=len(model.prompt_ids(USUAL_QUESTION)) - 1,
        answer_tokens=plan.answer_tokens,
        objective=config.objective,
        checkpointing=config.gradient_checkpointing,
        body_bits=config.body_bits,
        body_shares=plan.processes if config.shard_body else 1,
        dtype=dtype_name(dtype),
        weights_dtype=dtype_name(model.dtype),
        dense_mask=plan.device.type != "cuda",
    )
    peaks = {one: training_memory(shape, one, parts).total for one in sampler.bounds}
    worst = max(peaks, key=peaks.__getitem__)
    bound = f"; auto counts as its upper bound {MOST}" if "auto" in config.token_budgets else ""
    speed = effort.matmul_speed(plan.device, dtype)
    left = range(step, plan.total_steps)
    sharing = min(plan.order.records_per_image, parts.batch_size)
    work = effort.run_flops(shape, sampler, parts, left, config.gradient_accumulation_steps, sharing)
    seconds = work / speed / effort.UTILISATION
    lines = [
        f"expected: computed peak of a training step {size_text(peaks[worst])} per process (budget {worst}{bound}; up to"
        f" {config.feature_cache_mb} MiB of cached features and 2 GB of allocator and libraries come on top), time at least"
        f" {time_text(seconds)} ({work / 1e12:,.3g} TFLOP per process at half of the {speed / 1e12:,.3g} TFLOP/s that a"
        f" matrix product reaches here; reading, validation and saving come on top)"
    ]
    times = effort.times_as_documented(seconds, work, model.config) if work else 0.0
    if times > effort.MUCH_LONGER:
        others = others if plan.processes == 1 else 0.0  # else they are this run's own
        remedy = effort.remedy(model.config, plan.device, precision, others)
        lines.append(
            f"this will take {times:.0f} times as long as docs/training.md states for so many records: {remedy}"
        )
    return lines


def dtype_name(dtype: torch.dtype) -> str:
    """ "bfloat16" for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def step_line(entry: Entry, total_steps: int, seconds: float) -> str:
    """A line of `training.log` for one optimizer step; `seconds` were spent in all steps so far."""
    left = time_text(seconds / entry["step"] * (total_steps - entry["step"]))
    return f"step {entry['step']}/{total_steps}: {step_text(entry)}, about {left} left"


def best_text(state: RunState) -> str:
    """Which adapter is kept as the best, and whether training helped."""
    if state.best_loss is None:
        return "no validation, the last adapter is kept"
    untrained = ", before any training: it did not help" if state.best_step == 0 else ""
    return f"best validation loss {state.best_loss:.4f} at step {state.best_step}{untrained}"


def validation_text(entry: Entry) -> str:
    """The losses of a validation, from its line of `validation.jsonl`."""
    answers = ", ".join(f"{name} {loss:.4f}" for name, loss in entry["answers"].items())
    padding = ", ".join(f"{name} {loss:.4f}" for name, loss in entry["padding"].items() if loss is not None)
    text = f"validation loss of answer tokens {answers}; of padding {padding or '-'}; {entry['records']} records"
    if entry.get("low") is None:
        return text
    return f"{text}; answers at {entry['relative']:.4f} [{entry['low']:.4f}, {entry['high']:.4f}] of step 0"


def skipped_text(skipped: Mapping[str, str]) -> str:
    """How many records were not trained on, and why the first was not."""
    name, why = next(iter(skipped.items()))
    more = " (all are in training_results.json)" if len(skipped) > 1 else ""
    return f"left out: {len(skipped)} of the records, the first {name}: {why}{more}"


def adapter_settings(plan: Plan, step: int, validation: Entry | None = None) -> dict[str, Any]:
    """Training settings for an adapter's card and settings file.

    Args:
        step: optimizer steps done.
        validation: its line of `validation.jsonl`, if there was a validation.
    """
    config = plan.config
    settings = {
        "trained": step > 0 or plan.run["started_from"] is not None,
        "base_model": config.base_model,
        "token_budgets": list(config.token_budgets),
        "include_pooled": config.include_pooled,
        "include_early": config.include_early,
        "training": {
            **{name: value for name, value in plan.run.items() if name not in FIELDS},
            "run": plan.run_name,
            "step": step,
            "total_steps": plan.total_steps,
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")},
    }
    if validation is None:
        return settings
    kept = {name: validation[name] for name in ("relative", "low", "high") if name in validation}
    return {**settings, "validation_loss": validation["answers"], "validation_loss_relative_to_start": kept}


def results(
    plan: Plan, model: Lavida, state: RunState, steps: Sequence[Entry], validations: Sequence[Entry]
) -> dict[str, Any]:
    """The run in numbers, all of them measured in it; JSON values.

    Args:
        state: with the skipped records and cut answers of all processes.
        steps, validations: the lines of the journals.
    """
    losses = [entry["loss"] for entry in steps if entry["loss"] is not None]
    window = max(len(losses) // 10, 1)
    return {
        "run": plan.run_name,
        "steps": state.step,
        "updates": state.updates,
        "epochs": plan.config.num_epochs,
        "steps_per_ratio": state.drawn,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "tokens_per_second": state.tokens / state.seconds if state.seconds else None,
        "train_loss_first": sum(losses[:window]) / window if losses else None,
        "train_loss_last": sum(losses[-window:]) / window if losses else None,
        "validation_before": validations[0] if validations else None,
        "validation_after": validations[-1] if validations else None,
        "best_validation_loss": state.best_loss,
        "best_step": state.best_step,
        "best_validation": next((entry for entry in validations if entry["step"] == state.best_step), None),
        "parameters": {
            role: {"trainable": trainable, "total": total}
            for role, (trainable, total) in parameters_by_role(model).items()
        },
        "skipped_records": state.skipped,
        "cut_answers": state.cut,
        "padding_weight": plan.config.padding_weight,
        "mixed_precision": plan.precision.mixed,
        "precision": plan.precision.reason,
        "device": str(plan.device),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(plan.device) if plan.device.type == "cuda" else None,
        "best_model": str(plan.checkpoints / BEST),
        "output_dir": str(plan.folder),
    }
