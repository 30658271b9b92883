"""What a run says about itself: first lines, step lines, the adapter's settings, the results."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from shirg.errors import UserError
from shirg.lavida.adapter import describe_parameters, parameters_by_role
from shirg.lavida.settings import FIELDS
from shirg.precision import DTYPES
from shirg.training import effort
from shirg.training.budgets import ratio_tokens
from shirg.training.checkpoints import BEST, RunState
from shirg.training.memory import Step, training_memory
from shirg.training.progress import in_units, in_words

if TYPE_CHECKING:
    from shirg.training.trainer import SHIRGLoRATrainer

USUAL_QUESTION = "What is the total on this page?"
"""For the length of a prompt before any record is read."""


def opening_lines(trainer: SHIRGLoRATrainer) -> list[str]:
    """What will happen: parameters by role, ratios and their tokens, batch, steps, precision, memory and time."""
    config, accelerator, order = trainer.config, trainer.accelerator, trainer.order
    effective = order.batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    pooled = trainer.sampler.pooled_tokens
    tokens = ", ".join(f"{ratio} -> {ratio_tokens(ratio, pooled)}" for ratio in trainer.sampler.ratios)
    lines = describe_parameters(trainer.model)
    lines.append(
        f"image tokens: {trainer.num_tokens} before selection; per ratio (square image): {tokens}; "
        f"drawn {config.ratio_sampling}"
    )
    lines.append(
        f"batch: {order.batch_size} records x {config.gradient_accumulation_steps} micro-batches x"
        f" {accelerator.num_processes} processes = {effective} per optimizer step"
    )
    lines.append(
        f"steps: {trainer.steps_per_epoch} x {config.num_epochs} epochs = {trainer.total_steps}, from step"
        f" {trainer.state.step}; objective {config.objective}, on {accelerator.device} in {trainer.precision.reason}"
    )
    return [*lines, *expectations(trainer)]


def expectations(trainer: SHIRGLoRATrainer) -> list[str]:
    """Peak memory and time, computed before the first step; what they leave out is said, and what to do where the time is
    absurd."""
    config, sampler = trainer.config, trainer.sampler
    model, accelerator = replace(trainer.model.config, vision=trainer.model.vision), trainer.accelerator
    mixed = trainer.precision.mixed
    dtype = trainer.model.dtype if mixed == "no" else DTYPES[mixed]
    step = Step(
        batch_size=trainer.order.batch_size,
        prompt_tokens=len(trainer.model.prompt_ids(USUAL_QUESTION)) - 1,
        answer_tokens=trainer.targets.length,
        objective=config.objective,
        checkpointing=config.gradient_checkpointing,
        body_bits=config.body_bits,
        body_shares=accelerator.num_processes if config.shard_body else 1,
        dtype=name_of(dtype),
        weights_dtype=name_of(trainer.model.dtype),
        dense_mask=accelerator.device.type != "cuda",
    )
    peaks = {ratio: training_memory(model, ratio, step).total for ratio in sampler.ratios}
    worst = max(peaks, key=peaks.__getitem__)
    speed = effort.matmul_speed(accelerator.device, dtype)
    left = range(trainer.state.step, trainer.total_steps)
    turns = trainer.order.records_per_image
    work = effort.run_flops(model, sampler, step, left, config.gradient_accumulation_steps, min(turns, step.batch_size))
    seconds = work / speed / effort.UTILISATION
    lines = [
        f"expected: peak memory {in_units(peaks[worst])} per process (ratio {worst}, computed; up to"
        f" {config.feature_cache_mb} MiB of cached features and the libraries come on top), time at least {in_words(seconds)}"
        f" ({work / 1e12:,.3g} TFLOP per process at half of the {speed / 1e12:,.3g} TFLOP/s that a matrix product reaches"
        f" here; reading, validation and saving come on top)"
    ]
    times = effort.times_as_documented(seconds, work, model) if work else 0.0
    if times > effort.MUCH_LONGER:
        others = trainer.threads.others if accelerator.num_processes == 1 else 0.0  # else they are this run's own
        way = effort.remedy(model, accelerator.device, trainer.precision, others)
        lines.append(f"this will take {times:.0f} times as long as docs/training.md says for so many records: {way}")
    return lines


def name_of(dtype: torch.dtype) -> str:
    """ "bfloat16" for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def step_line(entry: dict[str, Any], total_steps: int, seconds: float) -> str:
    """A line of `training.log` for one optimizer step; `seconds` were spent in all steps so far."""
    left = in_words(seconds / entry["step"] * (total_steps - entry["step"]))
    loss = "none" if entry["loss"] is None else f"{entry['loss']:.4f}"
    place = f"step {entry['step']}/{total_steps}"
    return f"{place}: loss {loss}, ratio {entry['budget']}, lr {entry['lr']:.2e}, {entry['seconds']:.2f} s, about {left} left"


def check_gradients(parameters: dict[str, nn.Parameter]) -> None:
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


def best_in_words(state: RunState) -> str:
    """Which adapter is kept as the best; said aloud when training helped nothing."""
    if state.best_loss is None:
        return "no validation, the last adapter is kept"
    untrained = ", before any training: it did not help" if state.best_step == 0 else ""
    return f"best validation loss {state.best_loss:.4f} at step {state.best_step}{untrained}"


def left_out(skipped: dict[str, str]) -> str:
    """How many records were not trained on, and why the first was not."""
    name, why = next(iter(skipped.items()))
    more = " (all are in training_results.json)" if len(skipped) > 1 else ""
    return f"left out: {len(skipped)} of the records, the first {name}: {why}{more}"


def adapter_settings(trainer: SHIRGLoRATrainer, validation: dict[str, float] | None = None) -> dict[str, Any]:
    """What an adapter's card and settings file say of its training."""
    config = trainer.config
    settings = {
        "base_model": config.base_model,
        "token_budgets": list(config.token_budgets),
        "include_pooled": config.include_pooled,
        "training": {
            **{name: value for name, value in trainer.run.items() if name not in FIELDS},
            "run": trainer.run_name,
            "step": trainer.state.step,
            "total_steps": trainer.total_steps,
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")},
    }
    if validation is not None:
        settings["validation_loss"] = validation
    return settings


def results(trainer: SHIRGLoRATrainer) -> dict[str, Any]:
    """The run in numbers, all of them measured in it; JSON values. Every process has to call it."""
    from accelerate.utils import gather_object

    state, device = trainer.state, trainer.accelerator.device
    validations = trainer.validations.read()
    losses = [entry["loss"] for entry in trainer.metrics.read() if entry["loss"] is not None]
    window = max(len(losses) // 10, 1)
    return {
        "run": trainer.run_name,
        "steps": state.step,
        "updates": state.updates,
        "epochs": trainer.config.num_epochs,
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
        "parameters": {
            role: {"trainable": trainable, "total": total}
            for role, (trainable, total) in parameters_by_role(trainer.model).items()
        },
        "skipped_records": dict(gather_object(list(state.skipped.items()))),
        "cut_answers": sorted(set(gather_object(state.cut))),
        "feature_cache": {"hits": trainer.cache.hits, "misses": trainer.cache.misses, "bytes": trainer.cache.nbytes},
        "mixed_precision": trainer.precision.mixed,
        "precision": trainer.precision.reason,
        "device": str(device),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "watched": trainer.watch.summary(state.drawn, trainer.gradients_checked),
        "best_model": str(trainer.checkpoints / BEST),
        "output_dir": str(trainer.folder),
    }
