"""One LoRA for every token budget: the training loop."""

from __future__ import annotations

import contextlib
import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from shirg import identity
from shirg.errors import UserError
from shirg.files import append_line, clear_leftovers, read_lines, write_json
from shirg.lavida import adapter
from shirg.lavida.loading import usual_dtype
from shirg.locks import folder_lock
from shirg.seeds import derived_seed, scoped_seed
from shirg.threads import SpareThreads, spare_threads
from shirg.training import checkpoints, guards, logs, report
from shirg.training.body import check_body_bits, quantize_body, shard_body
from shirg.training.checkpoints import RunState
from shirg.training.config import SHIRGLoRAConfig, lacking
from shirg.training.examples import ExampleMaker, FeatureCache
from shirg.training.loss_model import LossModel, target_weights
from shirg.training.plan import (
    METRICS,
    START,
    VALIDATIONS,
    Plan,
    TrainingRecord,
    make_accelerator,
    make_plan,
)
from shirg.training.validation import ImageSums, Validation, relative_interval, relative_loss, validate

if TYPE_CHECKING:
    from accelerate import Accelerator

    from shirg.lavida import Lavida
    from shirg.training.budgets import Component

logger = logging.getLogger(__name__)


class SHIRGLoRATrainer:
    """Trains a LoRA on the projector with one randomly drawn component of the mixture per optimizer step.

    The tower and the language model stay frozen. Everything random follows from `config.seed` and the step, so the same
    run twice gives the same losses, and so does a resumed one.
    """

    def __init__(self, config: SHIRGLoRAConfig, model: Lavida) -> None:
        """
        Args:
            config: the run's settings.
            model: a `Lavida`. If it has an adapter, that one is trained. Otherwise it gets the adapter of the checkpoint to
                resume from, with its vision settings, or a new one.

        Raises:
            UserError: if a budget exceeds the grid, the model has no tokenizer, or its adapter's rank, alpha,
                dropout or target modules differ from `config`.
        """
        self.model = model
        self.folder = Path(config.output_dir)
        self.checkpoints = self.folder / "checkpoints"
        latest = checkpoints.find_latest(self.checkpoints) if config.resume else None
        self.stored: dict[str, Any] = {} if latest is None else checkpoints.stored_run(latest)
        """The settings of the run that is resumed; empty for a new one."""
        self.lacking = lacking(self.stored) if latest else []
        """Settings that the resumed run does not store because of its version; they keep that version's behaviour."""
        self.config = config = config.continuing(self.stored) if latest else config
        self.started_from: str | None = self.stored.get("started_from")
        """Fingerprint of the adapter that the run began with."""
        if latest is not None:  # first, since loading an adapter can change the model's vision settings
            if not adapter.has_adapter(model):
                model.load_adapter(latest)
        elif adapter.has_adapter(model):
            check_adapter(config, model)
            self.started_from = identity.of_adapter(model)["adapter_weights"]
        else:
            attach_adapter(config, model)
        config.check_grid(model)
        check_body_bits(config.body_bits, model.device)
        if model.tokenizer is None:
            raise UserError("model: it has no tokenizer, which training needs; load a folder that holds tokenizer.json")
        if config.body_bits < 16:
            quantize_body(model, config.body_bits)

    def train(
        self,
        train_loader: DataLoader[Any],
        val_loader: DataLoader[Any] | None = None,
        *,
        on_start: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Train, and return the results that are also written to `logs/training_results.json`.

        Writes to `output_dir`: `checkpoints/checkpoint-STEP/`, `checkpoints/best_model/` (lowest validation loss of the answers'
        tokens relative to step 0, mean over the components; the last adapter if there is no validation), `logs/metrics.jsonl`,
        `logs/validation.jsonl`, `logs/training.log`. The model keeps the last adapter.

        Args:
            train_loader: yields lists of records with `id`, `image_id`, `open_image()`, `question`, `answers`.
            val_loader: yields the same. Every validation uses the same noise, so that their losses are comparable.
            on_start: called in the first process when the run is accepted, before its first step.

        Raises:
            UserError: for loaders that cannot be used, an output folder that cannot be written or that another process is
                writing to, a checkpoint of another run, a loss or gradient that is not finite (the message names the records), or
                out of memory (the message suggests what to change).
            KeyboardInterrupt: on Ctrl-C, after the current step was finished and saved.
            SystemExit: on SIGTERM, also after saving, with exit code 75, on which schedulers can requeue.
        """
        config, precision = self.config, self.config.mixed_precision
        if precision == "auto":  # a resumed run keeps its precision, whatever this machine would choose today
            precision = self.stored.get("mixed_precision", precision)
        accelerator, chosen = make_accelerator(
            *(precision, self.model.device),
            trained_in_bfloat16=usual_dtype(self.model.config.raw) == "bfloat16",
            trackers=config.trackers,
            log_folder=logs.log_folder(self.folder),
        )
        plan = make_plan(
            *(config, self.model, train_loader, val_loader, accelerator, chosen),
            started_from=self.started_from,
            without=self.lacking,
        )
        with contextlib.ExitStack() as stack:
            if plan.is_main:
                stack.enter_context(folder_lock(plan.folder))
            make_folders(plan)
            if plan.is_main:
                stack.enter_context(logs.log_file(plan.folder / "logs" / "training.log"))
            stop = stack.enter_context(guards.deferred_interrupt(logger.warning if plan.is_main else None))
            threads = stack.enter_context(spare_threads())
            if self.lacking and plan.is_main:
                kept = ", ".join(f"{name} {getattr(config, name)}" for name in self.lacking)
                logger.info("the run is of an earlier version and keeps its settings: %s", kept)
            session = Session(plan, self.model, accelerator, stop, threads)
            if on_start is not None and plan.is_main:
                on_start()
            results = session.run()
        if stop.requested:  # while the last files were written
            raise guards.stopped_by(stop)
        return results


class Session:
    """One process's part of a run, from its start or resume to its end or a stop."""

    def __init__(
        self, plan: Plan, model: Lavida, accelerator: Accelerator, stop: guards.StopRequest, threads: SpareThreads
    ) -> None:
        """Loads the run's last checkpoint if it is resumed, and otherwise renames the files of an earlier run.

        Args:
            model: with its adapter.
            stop: checked after every step.
            threads: adjusted before every step.
        """
        self.plan, self.model, self.accelerator, self.stop, self.threads = plan, model, accelerator, stop, threads
        config = plan.config
        self.state, latest = restore(plan, model, accelerator)
        self.steps = read_lines(plan.folder / METRICS)
        """Every step of the run so far, as in `metrics.jsonl`."""
        self.steps_before = len(self.steps)
        """How many of them earlier sessions took."""
        self.validations = read_lines(plan.folder / VALIDATIONS)
        self.warned: set[str] = set()
        self.bar = logs.progress_bar(shown=plan.is_main)
        self.task = self.bar.add_task("training", total=plan.total_steps, completed=self.state.step, line="")
        self.cache = FeatureCache(model, config.feature_cache_mb * 2**20)
        self.examples = ExampleMaker(plan, model, self.cache, self.state)
        for parameter in adapter.lora_parameters(model).values():
            parameter.requires_grad_(True)
        model.eval()
        model.language.set_gradient_checkpointing(config.gradient_checkpointing)
        self.loss_model = LossModel(model, config.objective, bool(config.share_prefix))
        if config.shard_body:
            shard_body(self.loss_model, plan.device, plan.processes)
        parameters = adapter.lora_parameters(model).values()
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.wrapped, self.optimizer = accelerator.prepare(self.loss_model, optimizer)
        if latest is not None:
            checkpoints.load_optimizer(latest, model, self.optimizer.optimizer)
            if accelerator.scaler is not None and self.state.scaler:
                accelerator.scaler.load_state_dict(self.state.scaler)

    def run(self) -> dict[str, Any]:
        """Run the remaining steps; returns the results."""
        self.threads.adjust()
        if self.plan.is_main:
            for line in report.opening_lines(self.plan, self.model, self.state.step, self.threads.others):
                logger.info(line)
        with logs.tracking(self.accelerator, self.plan.run, step=self.state.step), self.bar:
            try:
                self.loop()
            except guards.StopRequested:
                self.save()
                logger.warning(
                    "stopped at step %d; the same command with --resume (resume=True in Python) continues from there",
                    self.state.step,
                )
                raise guards.stopped_by(self.stop) from None
        return self.finish()

    def loop(self) -> None:
        """Every remaining optimizer step, with the validations and checkpoints that are due in between."""
        plan, state = self.plan, self.state
        self.validate_if_due()  # before the first step; after resuming, a validation that was interrupted
        for micro_batches in plan.micro_batches(state.step):
            self.threads.adjust()
            self.optimizer_step(micro_batches)
            self.validate_if_due()
            if state.step % plan.config.save_steps == 0 or state.step == plan.total_steps:
                self.save()

    def optimizer_step(self, micro_batches: list[list[TrainingRecord]]) -> None:
        """One update of the adapter: one component (with "continuous" one per micro-batch), and the weighted mean loss over
        every target of every process."""
        plan, state = self.plan, self.state
        began, rate = time.perf_counter(), plan.rate(state.step)
        components = plan.sampler.micro_batches(state.step, len(micro_batches))
        names, label = list(dict.fromkeys(one.name for one in components)), plan.sampler.group(components[0])
        context: dict[str, Any] = {"step": state.step, "component": max(components, key=lambda one: one.most or 0)}
        length = self.examples.step_length(micro_batches, self.accelerator, state.step)
        nominal = plan.records_per_step * length  # keeps fp16 in range until the weight of all targets is known
        size, checkpointing = max(map(len, micro_batches)), plan.config.gradient_checkpointing
        with guards.memory_advice(**context, records=size, checkpointing=checkpointing):
            sums, batch = self.accumulate(micro_batches, components, length, nominal, context)
            loss, weight, tokens, stops = sum_over_processes(self.accelerator, sums).tolist()
        norm = self.update(rate, nominal / weight, batch, context) if weight else torch.zeros(())
        state.step += 1
        self.record_step(
            {
                "run": plan.run_name,
                "step": state.step,
                "loss": loss / weight if weight else None,
                "budget": names[0] if len(names) == 1 else names,
                "component": label,
                "lr": rate,
                "grad_norm": norm.item() if norm.isfinite() else None,
                "tokens": int(tokens),
                "seconds": time.perf_counter() - began,
                "memory": guards.memory_in_use(plan.device),
                "cached": self.cache.nbytes,
            }
        )
        if stops:
            raise guards.StopRequested

    def accumulate(
        self,
        micro_batches: list[list[TrainingRecord]],
        components: Sequence[Component],
        length: int,
        nominal: int,
        context: dict[str, Any],
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        """Add up the gradients of this process's weighted losses, divided by `nominal`.

        Returns:
            Float64 sums [4] over this process (weighted loss, weights, tokens, requests to stop), and the records for messages.
        """
        plan, state, accelerator, config = self.plan, self.state, self.accelerator, self.plan.config
        sums = torch.zeros(4, dtype=torch.float64)
        batch: list[dict[str, Any]] = []
        for number, (records, component) in enumerate(zip(micro_batches, components, strict=True)):
            ordinal, last = plan.ordinal(number, plan.order), number == len(micro_batches) - 1
            with accelerator.autocast():
                examples = self.examples(records, component, ordinal, length, "noise", state.step)
            described = guards.described(examples)
            batch += described
            self.loss_model.set_training(True, checkpointing=config.gradient_checkpointing)
            with contextlib.nullcontext() if last else accelerator.no_sync(self.wrapped):
                with scoped_seed(plan.device, config.seed, "dropout", state.step, ordinal):
                    losses, tokens = self.wrapped(examples, component)
                own = {**context, "component": component}
                guards.check_finite(losses, described, file=plan.not_finite_file, what="loss", **own)
                weights = target_weights(examples, config.padding_weight, losses)
                # Wrappers average gradients over the processes; their sum is needed.
                accelerator.backward((losses * weights).sum() * plan.processes / nominal)
            weighted = (losses.detach() * weights).double().sum().item()
            sums += sums.new_tensor([weighted, weights.double().sum().item(), tokens, 0])
        sums[3] = self.stop.requested
        return sums, batch

    def update(self, rate: float, scale: float, batch: list[dict[str, Any]], context: dict[str, Any]) -> Tensor:
        """Step with the accumulated gradients times `scale`; returns their norm before clipping."""
        config, accelerator, parameters = self.plan.config, self.accelerator, adapter.lora_parameters(self.model)
        for parameter in parameters.values():
            if parameter.grad is not None:  # `check_gradients` names those without one
                parameter.grad.mul_(scale)
        if self.state.updates == 1:
            guards.check_gradients(parameters)
        norm: Tensor = accelerator.clip_grad_norm_(parameters.values(), config.max_grad_norm)
        if accelerator.scaler is None:  # fp16's own scaler skips such steps and lowers its scale
            guards.check_finite(norm, batch, file=self.plan.not_finite_file, what="gradient", **context)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.state.updates += not self.optimizer.step_was_skipped
        self.optimizer.zero_grad()
        return norm

    def record_step(self, entry: dict[str, Any]) -> None:
        """Count a step, and write it to the journal, the progress bar, the trackers and the log."""
        state = self.state
        state.tokens += entry["tokens"]
        state.drawn[entry["component"]] += 1
        state.seconds += entry["seconds"]
        entry["seconds"] = round(entry["seconds"], 4)
        self.steps.append(entry)
        if not self.plan.is_main:
            return
        append_line(self.plan.folder / METRICS, entry)
        self.bar.update(self.task, completed=state.step, line=logs.step_text(entry))
        self.accelerator.log(logs.step_values(entry), step=state.step)
        guards.warn(self.steps, self.steps_before, self.warned)
        if state.step % self.plan.config.logging_steps == 0:
            logger.info(report.step_line(entry, self.plan.total_steps, state.seconds))

    def validate_if_due(self) -> None:
        """Validate every component; the adapter with the lowest loss of the answers' tokens relative to step 0 is kept."""
        plan, state = self.plan, self.state
        if state.step == state.validated_step or not plan.validates_at(state.step):
            return
        if plan.is_main:
            logger.info("step %d: validating every component", state.step)
        task = self.bar.add_task("validating", total=plan.validation_batches, line="validating")

        def before_batch(number: int) -> None:
            if self.stop.requested and plan.processes == 1:
                raise guards.StopRequested
            self.bar.update(task, completed=number)

        try:
            found = validate(
                plan, self.loss_model, self.examples, self.accelerator, step=state.step, before_batch=before_batch
            )
        finally:
            self.bar.remove_task(task)
        self.record_validation(found)

    def record_validation(self, found: Validation) -> None:
        """Save the adapter if it is the best so far, and log the losses."""
        plan, state = self.plan, self.state
        if state.validated_step < 0:
            state.start = found.answers
            if plan.is_main:
                write_json(plan.folder / START, found.images)
        state.validated_step = state.step
        entry: dict[str, Any] = {
            "run": plan.run_name,
            "step": state.step,
            "records": found.records,
            "losses": found.losses,
            "mean": statistics.fmean(found.losses.values()),
            "answers": found.answers,
            "padding": found.padding,
        }
        score, best = entry["mean"], state.best_loss
        if state.start:
            entry |= self.compared_with_start(found)
            score, best = entry["relative"], state.best_relative
        if best is None or score < best:
            state.best_step, state.best_loss = state.step, score
            if state.start:
                state.best_loss, state.best_relative = statistics.fmean(found.answers.values()), score
            if plan.is_main:
                settings = report.adapter_settings(plan, state.step, entry)
                checkpoints.save_best(plan.checkpoints, self.model, settings=settings)
        self.validations.append(entry)
        if plan.is_main:
            append_line(plan.folder / VALIDATIONS, entry)
            self.accelerator.log(logs.validation_values(entry), step=state.step)
            logger.info("step %d: %s", state.step, report.validation_text(entry))

    def compared_with_start(self, found: Validation) -> dict[str, float | None]:
        """The loss of the answers' tokens relative to that before the first step, and its interval over the images."""
        low = high = None
        path = self.plan.folder / START
        if self.state.step and path.exists():
            start: ImageSums = json.loads(path.read_text(encoding="utf-8"))
            interval = relative_interval(found.images, start, seed=self.plan.config.seed)
            low, high = interval.low, interval.high
        return {"relative": relative_loss(found.answers, self.state.start), "low": low, "high": high}

    def save(self) -> None:
        """Write a checkpoint and delete the oldest beyond `save_total_limit`."""
        plan, state = self.plan, self.state
        if self.accelerator.scaler is not None:
            state.scaler = self.accelerator.scaler.state_dict()
        if plan.is_main:
            settings = report.adapter_settings(plan, state.step)
            optimizer = self.optimizer.optimizer
            path = checkpoints.save_checkpoint(
                plan.checkpoints, self.model, optimizer, state, settings=settings, run=plan.run
            )
            checkpoints.rotate(plan.checkpoints, plan.config.save_total_limit)
            logger.info("saved %s", path)
        self.accelerator.wait_for_everyone()

    def finish(self) -> dict[str, Any]:
        """Write and return the results."""
        from accelerate.utils import gather_object

        plan, state = self.plan, self.state
        self.model.eval()
        if plan.val_order is None and plan.is_main:
            settings = report.adapter_settings(plan, state.step)
            checkpoints.save_best(plan.checkpoints, self.model, settings=settings)
        state.skipped = dict(gather_object(list(state.skipped.items())))
        state.cut = sorted(set(gather_object(state.cut)))
        results = {
            **report.results(plan, self.model, state, self.steps, self.validations),
            "feature_cache": {"hits": self.cache.hits, "misses": self.cache.misses, "bytes": self.cache.nbytes},
            "watched": guards.watched(self.steps, self.steps_before, state, plan.sampler),
        }
        if plan.is_main:
            write_json(plan.folder / "logs" / "training_results.json", results)
        logger.info("finished: %d steps; %s", state.step, report.best_text(state))
        if state.skipped:
            logger.warning("%s", report.skipped_text(state.skipped))
        return results


def sum_over_processes(accelerator: Accelerator, values: Tensor) -> Tensor:
    """The sums of every process's values, in float64 where the device has it."""
    wide = torch.float32 if accelerator.device.type == "mps" else torch.float64
    return accelerator.reduce(values.to(accelerator.device, wide))


# ------------------------------------------------------------------ before the first step


PEFT_NAMES = {
    "lora_rank": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "target_modules",
}
"""Fields of `SHIRGLoRAConfig` -> fields of `peft.LoraConfig`."""


def attach_adapter(config: SHIRGLoRAConfig, model: Lavida) -> None:
    """Attach a new LoRA with the configured rank, alpha, dropout and target modules."""
    options = (config.lora_rank, config.lora_alpha, config.lora_dropout, config.target_modules)
    adapter.attach_lora(model, *options, seed=derived_seed(config.seed, "lora"))


def check_adapter(config: SHIRGLoRAConfig, model: Lavida) -> None:
    """Raise `UserError` unless the model's adapter matches the config, since the config is stored with the new adapter."""
    for name, theirs in PEFT_NAMES.items():
        wanted, found = getattr(config, name), getattr(model.peft_config[adapter.NAME], theirs)
        if sorted(wanted) != sorted(found) if name == "target_modules" else wanted != found:
            raise UserError(
                f"{name}: got {wanted!r}, but the model's adapter has {found!r}; unload the adapter or use its value"
            )


def make_folders(plan: Plan) -> None:
    """Make the folders that a run fills.

    Raises:
        UserError: if one cannot be written.
    """
    try:
        for name in ("checkpoints", "logs"):
            (plan.folder / name).mkdir(parents=True, exist_ok=True)
        with open(plan.folder / "logs" / "training.log", "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise UserError(f"output_dir: {plan.folder} cannot be written ({error.strerror or error})") from error


def restore(plan: Plan, model: Lavida, accelerator: Accelerator) -> tuple[RunState, Path | None]:
    """The state to resume from and its checkpoint, whose adapter is loaded; without one a new state, and files of an earlier run
    are renamed. The journals are cut after the state's step.

    Raises:
        OtherRunError: if the checkpoint is of another run.
    """
    state, latest = RunState(drawn=dict.fromkeys(plan.sampler.groups, 0)), None
    if plan.is_main:
        clear_leftovers(plan.checkpoints)
    accelerator.wait_for_everyone()
    if plan.config.resume:
        latest = checkpoints.find_latest(plan.checkpoints)
    if latest is not None:
        state = checkpoints.load_state(latest, run=plan.run)
        model.load_adapter(latest)
    if plan.is_main:
        if latest is None and plan.config.resume:
            logger.warning("no checkpoint in %s to resume from: starting over", plan.checkpoints)
        if latest is None and any(plan.checkpoints.iterdir()):
            checkpoints.set_aside(plan.checkpoints)
            plan.checkpoints.mkdir(exist_ok=True)
        for journal in (plan.folder / METRICS, plan.folder / VALIDATIONS):
            if latest is None:
                checkpoints.set_aside(journal)
            checkpoints.rewind(journal, state.step)
    accelerator.wait_for_everyone()
    return state, latest
