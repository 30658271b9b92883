"""The plan of a run, made before its first optimizer step: device, precision, data, mixture, number of steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.data import DataLoader

from shirg import identity
from shirg.data.sampler import EpochOrder
from shirg.errors import UserError
from shirg.lavida.costs import SQUARE, path_tokens
from shirg.precision import Precision, choose_precision
from shirg.training.body import check_sharding
from shirg.training.budgets import BudgetSampler
from shirg.training.config import SHIRGLoRAConfig

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL import Image

    from shirg.lavida import Lavida

METRICS, VALIDATIONS = "logs/metrics.jsonl", "logs/validation.jsonl"
"""In a run's folder: a line for every optimizer step and every validation."""

VALIDATION_SHARE, MAX_VALIDATIONS = 0.2, 20
"""Limits of `validation_interval` "auto": validation time as a share of training time, and validations per run."""

PASSES = 2.5
"""Time of training on a record, in forward passes (measured with the nano)."""

START = "logs/validation_start.json"
"""In a run's folder: the validation losses of every image before the first step, with which later ones are compared."""

SUPPORTED = ("NO", "MULTI_CPU", "MULTI_GPU")
"""Values of accelerate's `DistributedType` that the trainer supports: one process, or data parallel with full copies."""


class TrainingRecord(Protocol):
    """A question about an image. `shirg.data.Record` implements it, and other classes may."""

    @property
    def id(self) -> str:
        """Name in messages."""

    @property
    def image_id(self) -> str:
        """Name of the image; records about one image share it."""

    @property
    def question(self) -> str:
        """The question as the model gets it."""

    @property
    def answers(self) -> Sequence[str]:
        """Accepted answers; the first is the target."""

    def open_image(self) -> Image.Image:
        """The image, upright and RGB; raises `UserError` if it cannot be read."""


@dataclass(frozen=True)
class Plan:
    """Everything about a run that does not change after it has started."""

    config: SHIRGLoRAConfig
    """Resolved for the model."""
    rank: int
    processes: int
    device: torch.device
    precision: Precision
    order: EpochOrder
    """Order of the training records, for this process."""
    val_order: EpochOrder | None
    sampler: BudgetSampler
    """The components of the mixture, and which one a step trains."""
    grid_tokens: int
    """Tokens of the large view, before selection."""
    image_tokens: int
    """Maximum over image shapes and components; a record with so many must fit the model's positions."""
    steps_per_epoch: int
    run: dict[str, Any]
    """What the losses depend on, JSON values; a resumed run must share it."""
    run_name: str
    """Fingerprint of `run`."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps."""
        return self.steps_per_epoch * self.config.num_epochs

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    @property
    def answer_tokens(self) -> int:
        """Positions of an answer."""
        assert self.config.max_answer_tokens is not None, "resolved"
        return self.config.max_answer_tokens

    @property
    def records_per_step(self) -> int:
        """Records of a full optimizer step, over all processes."""
        return self.order.batch_size * self.config.gradient_accumulation_steps * self.processes

    @property
    def folder(self) -> Path:
        """Output folder."""
        return Path(self.config.output_dir)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def not_finite_file(self) -> Path:
        """File for a batch whose loss or gradient is not finite."""
        return self.folder / "logs" / f"not_finite_{self.rank}.json"

    def rate(self, step: int) -> float:
        """Learning rate of optimizer step `step` (counted from 0)."""
        return cosine_with_warmup(step, self.total_steps, self.config.learning_rate, self.config.warmup_ratio)

    def micro_batches(self, step: int) -> Iterator[list[list[TrainingRecord]]]:
        """The lists of records of every optimizer step from `step` on, for this process."""
        count = self.config.gradient_accumulation_steps
        first_epoch, place = divmod(step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.config.num_epochs):
            batches = self.order.batches(epoch, skip=place * count if epoch == first_epoch else 0)
            while chunk := list(itertools.islice(batches, count)):
                yield chunk

    def ordinal(self, batch: int, order: EpochOrder) -> int:
        """Number of the first record of this process's `batch`-th micro-batch among those of all processes."""
        return (batch * self.processes + self.rank) * order.batch_size

    def validates_at(self, step: int) -> bool:
        """Whether there is a validation after `step` steps: before the first, regularly, at the end."""
        return self.val_order is not None and (step % self.validation_every == 0 or step == self.total_steps)

    @property
    def validation_every(self) -> int:
        """Optimizer steps between validations."""
        assert self.val_order is not None, "no validation is due without records"
        interval = self.config.validation_interval
        if self.config.validation_steps is not None:
            return self.config.validation_steps
        if interval == "epoch":
            return self.steps_per_epoch
        if interval == "auto":
            records = min(self.validation_batches * self.val_order.batch_size * self.processes, self.val_order.records)
            passes = records * len(self.sampler.components)
            trained = self.total_steps * self.records_per_step * PASSES
            interval = 1 / min(max(VALIDATION_SHARE * trained // passes, 1), MAX_VALIDATIONS)
        return max(round(interval * self.total_steps), 1)

    @property
    def validation_batches(self) -> int:
        """Batches of a validation on this process."""
        assert self.val_order is not None, "no validation is due without records"
        most = self.config.validation_records
        if most is None:
            return len(self.val_order)
        return min(len(self.val_order), math.ceil(most / (self.val_order.batch_size * self.processes)))


def make_plan(
    config: SHIRGLoRAConfig,
    model: Lavida,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any] | None,
    accelerator: Accelerator,
    precision: Precision,
    *,
    started_from: str | None,
    without: Collection[str] = (),
) -> Plan:
    """Make the plan from settings, model, data and processes; writes nothing.

    Args:
        config: not resolved yet: `share_prefix` is None unless the user set it.
        started_from: fingerprint of the adapter that training began with; None for a new one.
        without: settings that a resumed run of an earlier version does not store.

    Raises:
        UserError: for loaders that cannot be used, or a body that cannot be sharded.
    """
    resolved = config.resolved(model)
    place = {"rank": accelerator.process_index, "processes": accelerator.num_processes, "seed": config.seed}
    if config.shard_body:
        check_sharding(accelerator.num_processes, config.body_bits)
    dataset: Any = train_loader.dataset if isinstance(train_loader, DataLoader) else None
    by_image = bool(resolved.share_prefix) and (config.share_prefix is not None or hasattr(dataset, "image_ids"))
    order = EpochOrder(train_loader, name="train_loader", by_image=by_image, **place)
    val_order = None if val_loader is None else EpochOrder(val_loader, name="val_loader", **place)
    steps_per_epoch = math.ceil(len(order) / config.gradient_accumulation_steps)
    sampler = config.sampler(steps_per_epoch * config.num_epochs, path_tokens(model.config, "hd"))
    grid_tokens = config.check_grid(model)
    # A page of another shape than a square may take more tiles, where the checkpoint has canvases for it.
    most_pooled = max(path_tokens(model.config, "hd", image_size=size) for size in (SQUARE, *model.config.pinpoints))
    kept = [min(one.most, grid_tokens) + 1 if one.most else most_pooled for one in sampler.bounds]
    assert isinstance(dataset, Sized), "EpochOrder takes no other"
    run = {
        **identity.of_base(model),
        **resolved.trajectory(),
        "batch_size": order.batch_size,
        "records": len(dataset),
        "augment": bool(getattr(dataset, "augment", False)),
        "training_data": identity.of_data(dataset),
        "validation_data": None if val_loader is None else identity.of_data(val_loader.dataset),
        "started_from": started_from,
        "processes": accelerator.num_processes,
        "mixed_precision": precision.mixed,  # not "auto", which another machine may resolve differently
    }
    run = {name: value for name, value in run.items() if name not in without}
    return Plan(
        config=resolved,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
        device=accelerator.device,
        precision=precision,
        order=order,
        val_order=val_order,
        sampler=sampler,
        grid_tokens=grid_tokens,
        image_tokens=max(kept),
        steps_per_epoch=steps_per_epoch,
        run=run,
        run_name=identity.fingerprint(run),
    )


def make_accelerator(
    mixed_precision: str,
    device: torch.device,
    *,
    trained_in_bfloat16: bool = False,
    trackers: Sequence[str] = (),
    log_folder: Path | None = None,
) -> tuple[Accelerator, Precision]:
    """An `accelerate.Accelerator` for this run, and its precision with the reason.

    It takes the GPU if CUDA has one, and otherwise stays on the model's device: a Mac's GPU is used only if the
    model is on it. With several processes, the first one chooses the precision.

    Args:
        mixed_precision: one of `shirg.precision.MIXED_PRECISIONS`.
        device: where the model is now.
        trained_in_bfloat16: whether its weights were; fp16 then logs a warning.
        trackers: names of accelerate's trackers to log to.
        log_folder: for trackers that write files.

    Raises:
        UserError: if accelerate would shard the trained weights.
    """
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration, broadcast_object_list

    on_cpu = device.type == "cpu" and not torch.cuda.is_available()
    # accelerate never changes the precision of a process, but a notebook may train twice (transformers' Trainer does
    # the same).
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=on_cpu)
    place = device if on_cpu or device.type != "cpu" else "cuda"
    chosen = [choose_precision(mixed_precision, place, trained_in_bfloat16=trained_in_bfloat16)]
    precision = broadcast_object_list(chosen)[0]
    project = ProjectConfiguration(logging_dir=str(log_folder)) if trackers else None
    accelerator = Accelerator(
        mixed_precision=precision.mixed, cpu=on_cpu, log_with=list(trackers) or None, project_config=project
    )
    kind = accelerator.distributed_type.value
    if kind not in SUPPORTED:
        raise UserError(
            f"distributed_type: {kind} shards the trained weights, which are less than a megabyte here; use MULTI_GPU, and"
            " --shard-body (shard_body) to divide the frozen ones"
        )
    return accelerator, precision


def cosine_with_warmup(step: int, total_steps: int, peak: float, warmup_ratio: float) -> float:
    """Learning rate of optimizer step `step` (from 0): linear up to `peak`, then half a cosine that would reach 0 at
    `total_steps`. A function of the step alone, so that a resumed run needs no scheduler state.

    The first step's rate is above zero: with a rate of zero LoRA's B would stay zero, and so A's gradient.
    """
    warmup = math.ceil(warmup_ratio * total_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total_steps - warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
