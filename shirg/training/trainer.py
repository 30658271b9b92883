"""One LoRA for every token budget: the training loop."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from shirg import identity
from shirg.data.sampler import EpochOrder
from shirg.errors import UserError
from shirg.files import clear_leftovers, write_json
from shirg.lavida import adapter
from shirg.lavida.costs import SQUARE, path_tokens
from shirg.locks import owned
from shirg.seeds import derived_seed, scoped_seed
from shirg.threads import spare_threads
from shirg.training import checkpoints, report, validation
from shirg.training.budgets import Ratio, check_grid, ratio_tokens
from shirg.training.config import SHIRGLoRAConfig
from shirg.training.devices import make_accelerator
from shirg.training.examples import ExampleMaker, first_ordinal
from shirg.training.features import FeatureCache
from shirg.training.guards import Watch, check_finite, described, memory_advice, memory_in_use
from shirg.training.interrupts import StopRequested, deferred_interrupt, stopped_by
from shirg.training.journal import Journal, log_file
from shirg.training.loss_model import LossModel
from shirg.training.processes import check_processes
from shirg.training.progress import Progress
from shirg.training.quantized import check_body_bits, quantize_body
from shirg.training.records import TrainingRecord
from shirg.training.schedule import cosine_with_warmup
from shirg.training.sharding import check_sharding, shard_body
from shirg.training.targets import AnswerTargets
from shirg.training.trackers import log_folder, step_values, tracking

if TYPE_CHECKING:
    from shirg.lavida import Lavida

logger = logging.getLogger(__name__)


class SHIRGLoRATrainer:
    """Trains a LoRA on the projector with one randomly drawn ratio per optimizer step.

    The tower and the language model stay frozen. Everything random follows from `config.seed` and the step, so the same
    run twice gives the same losses, and so does a resumed one.
    """

    def __init__(self, config: SHIRGLoRAConfig, model: Lavida) -> None:
        """
        Args:
            config: the run's settings.
            model: a `Lavida`; it keeps the adapter it carries. Without one it gets that of the checkpoint to resume from, with
                its settings of the selection, or a fresh one.

        Raises:
            UserError: if a budget exceeds the grid, the model has no tokenizer, or its adapter is not of the configured
                form.
        """
        self.sharing_asked = config.share_prefix is not None
        self.config = config = config.resolved(model)
        self.model = model
        self.folder = Path(config.output_dir)
        self.checkpoints = self.folder / "checkpoints"
        self._get_adapter()  # before anything reads the model's settings, which it may bring along
        self.num_tokens = check_grid(config.token_budgets, model)
        check_body_bits(config.body_bits, model.device)
        assert config.max_answer_tokens is not None, "resolved"
        self.targets = AnswerTargets(
            model.tokenizer,
            family=model.config.family,
            eos_token_id=model.config.eos_token_id,
            length=config.max_answer_tokens,
        )
        self.metrics = Journal(self.folder / "logs" / "metrics.jsonl")
        self.validations = Journal(self.folder / "logs" / "validation.jsonl")
        if config.body_bits < 16:
            quantize_body(model, config.body_bits)

    def train(self, train_loader: DataLoader[Any], val_loader: DataLoader[Any] | None = None) -> dict[str, Any]:
        """Train, and return the results that are also written to `logs/training_results.json`.

        Leaves in `output_dir`: `checkpoints/checkpoint-STEP/`, `checkpoints/best_model/` (lowest mean validation loss
        over the ratios; the last adapter if there is no validation), `logs/metrics.jsonl`, `logs/validation.jsonl`,
        `logs/training.log`. The model keeps the last adapter.

        Args:
            train_loader: yields lists of records with `id`, `image_id`, `open_image()`, `question`, `answers`.
            val_loader: likewise; the same noise is used at every validation, so its losses compare.

        Raises:
            UserError: for loaders that cannot be used, an output folder that cannot be written or is being filled by another
                process, a checkpoint of another run, a loss or gradient that is not finite (the message names the records), no
                memory left (it says what to change), a launcher that started fewer processes than asked.
            KeyboardInterrupt: on Ctrl-C, after the current step was finished and saved.
            Preempted: on SIGTERM, likewise; a `SystemExit` with a code on which schedulers can requeue.
        """
        asked = self.config.mixed_precision
        if asked == "auto":  # a resumed run goes on as it began, whatever this machine would choose today
            asked = self.stored.get("mixed_precision", asked)
        self.accelerator, self.precision = make_accelerator(
            asked,
            self.model.device,
            trackers=self.config.trackers,
            log_folder=log_folder(self.folder),
        )
        check_processes(self.accelerator)
        if self.config.shard_body:
            check_sharding(self.accelerator.num_processes, self.config.body_bits)
        self._plan(train_loader, val_loader)
        with owned(self.folder) if self.accelerator.is_main_process else contextlib.nullcontext():
            return self._train()

    def _train(self) -> dict[str, Any]:
        """What `train` does in a folder of its own."""
        self._make_folders()
        log = (
            log_file(self.folder / "logs" / "training.log")
            if self.accelerator.is_main_process
            else contextlib.nullcontext()
        )
        told = logger.warning if self.accelerator.is_main_process else None
        with log, deferred_interrupt(told) as self.stop, spare_threads() as self.threads:
            self._set_up()
            shown = self.accelerator.is_main_process
            with (
                tracking(self.accelerator, self.run, step=self.state.step),
                Progress(self.total_steps, self.state.step, shown=shown) as self.progress,
            ):
                try:
                    self._loop()
                except StopRequested:
                    self._save()
                    logger.warning(
                        "stopped at step %d; the same command with --resume (resume=True in Python) goes on from there",
                        self.state.step,
                    )
                    raise stopped_by(self.stop) from None
            results = self._finish()
        if self.stop.requested:  # while the last files were written
            raise stopped_by(self.stop)
        return results

    # -- before the first step -------------------------------------------------------------------------------------

    def _get_adapter(self) -> None:
        self.stored: dict[str, Any] = {}
        """The settings of the run that is resumed; empty for a new one."""
        self.started_from: str | None = None
        latest = checkpoints.find_latest(self.checkpoints) if self.config.resume else None
        if latest is not None:
            self.stored = checkpoints.stored_run(latest)
            self.started_from = self.stored.get("started_from")
            if not adapter.has_adapter(self.model):
                self.model.load_adapter(latest)
        elif adapter.has_adapter(self.model):
            self._check_adapter()
            self.started_from = identity.of_adapter(self.model)["adapter_weights"]
        else:
            self._attach()

    def _attach(self) -> None:
        config = self.config
        adapter.attach_lora(
            self.model,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            targets=config.target_modules,
            seed=derived_seed(config.seed, "lora"),
        )

    def _check_adapter(self) -> None:
        """An adapter the model came with must be what the config says, since the config is what gets recorded."""
        config, found = self.config, self.model.peft_config[adapter.NAME]
        for name, wanted, value in (
            ("lora_rank", config.lora_rank, found.r),
            ("lora_alpha", config.lora_alpha, found.lora_alpha),
            ("lora_dropout", config.lora_dropout, found.lora_dropout),
            ("target_modules", set(config.target_modules), set(found.target_modules or ())),
        ):
            if wanted != value:
                raise UserError(
                    f"{name}: got {wanted!r}, but the model carries an adapter with {value!r}; unload it or match it"
                )

    def _make_folders(self) -> None:
        try:
            for name in ("checkpoints", "logs"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            with open(self.folder / "logs" / "training.log", "a", encoding="utf-8"):
                pass
        except OSError as error:
            raise UserError(f"output_dir: {self.folder} cannot be written ({error.strerror or error})") from error

    def _plan(self, train_loader: DataLoader[Any], val_loader: DataLoader[Any] | None) -> None:
        """All that follows from settings, model and data, and needs no folder."""
        config = self.config
        place = {
            "rank": self.accelerator.process_index,
            "processes": self.accelerator.num_processes,
            "seed": config.seed,
        }
        by_image = bool(config.share_prefix) and (self.sharing_asked or hasattr(train_loader.dataset, "image_ids"))
        self.order = EpochOrder(train_loader, name="train_loader", by_image=by_image, **place)
        self.val_order = EpochOrder(val_loader, name="val_loader", **place) if val_loader is not None else None
        self.steps_per_epoch = math.ceil(len(self.order) / config.gradient_accumulation_steps)
        self.total_steps = self.steps_per_epoch * config.num_epochs
        # A page of another shape than a square may take more tiles, where the checkpoint has canvases for it.
        shapes = (SQUARE, *self.model.config.pinpoints)
        most_pooled = max(path_tokens(self.model.config, "hd", image_size=size) for size in shapes)
        self.sampler = config.sampler(self.total_steps, path_tokens(self.model.config, "hd"))
        self.image_tokens = max(ratio_tokens(ratio, most_pooled) for ratio in self.sampler.ratios)
        self.cache = FeatureCache(self.model, config.feature_cache_mb * 2**20)
        self.state = checkpoints.RunState(drawn={str(ratio): 0 for ratio in self.sampler.ratios})
        self.gradients_checked = False
        self.watch = Watch(self.sampler)
        assert isinstance(train_loader.dataset, Sized), "EpochOrder takes no other"
        self.run = {
            **identity.of_base(self.model),
            **config.trajectory(),
            "batch_size": self.order.batch_size,
            "records": len(train_loader.dataset),
            "augment": bool(getattr(train_loader.dataset, "augment", False)),
            "training_data": identity.of_data(train_loader.dataset),
            "validation_data": None if val_loader is None else identity.of_data(val_loader.dataset),
            "started_from": self.started_from,
            "processes": self.accelerator.num_processes,
            "mixed_precision": self.precision.mixed,  # "auto" may come to something else on the machine that resumes
        }
        self.run_name = identity.fingerprint(self.run)

    def _set_up(self) -> None:
        latest = self._restore_or_clear()
        self.watch.recall(self.metrics.read())
        self.examples = ExampleMaker(
            self.model,
            self.cache,
            self.targets,
            self.state,
            image_tokens=self.image_tokens,
            seed=self.config.seed,
        )
        self._prepare(latest)
        self.threads.adjust()
        if self.accelerator.is_main_process:
            for line in report.opening_lines(self):
                logger.info(line)

    def _restore_or_clear(self) -> Path | None:
        """The checkpoint to go on from, its adapter and state loaded; otherwise what an earlier run left is set
        aside."""
        if self.accelerator.is_main_process:
            clear_leftovers(self.checkpoints)
        self.accelerator.wait_for_everyone()
        latest = checkpoints.find_latest(self.checkpoints) if self.config.resume else None
        if latest is not None:
            self.state = checkpoints.load_state(latest, run=self.run)
            self.model.load_adapter(latest)
        if self.accelerator.is_main_process:
            if latest is None and self.config.resume:
                logger.warning("no checkpoint in %s to go on from: beginning anew", self.checkpoints)
            if latest is None and any(self.checkpoints.iterdir()):
                checkpoints.set_aside(self.checkpoints)
                self.checkpoints.mkdir(exist_ok=True)
            for journal in (self.metrics, self.validations):
                if latest is None:
                    checkpoints.set_aside(journal.path)
                journal.rewind(self.state.step)
        self.accelerator.wait_for_everyone()
        return latest

    def _prepare(self, latest: Path | None) -> None:
        config = self.config
        parameters = list(adapter.lora_parameters(self.model).values())
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.model.eval()
        self.model.language.set_gradient_checkpointing(config.gradient_checkpointing)
        loss_model = LossModel(self.model, config.objective, bool(config.share_prefix))
        if config.shard_body:
            shard_body(loss_model, self.accelerator.device, self.accelerator.num_processes)
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.loss_model, self.optimizer = self.accelerator.prepare(loss_model, optimizer)
        if latest is not None:
            checkpoints.load_optimizer(latest, self.model, self.optimizer.optimizer)
            if self.accelerator.scaler is not None and self.state.scaler:
                self.accelerator.scaler.load_state_dict(self.state.scaler)

    # -- the loop --------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        if validation.is_due(self):  # before the first step, or what an interruption cut off
            validation.validate(self)
        for micro_batches in self._micro_batches():
            self.threads.adjust()
            self._step(micro_batches)
            if validation.is_due(self):
                validation.validate(self)
            if self.state.step % self.config.save_steps == 0 or self.state.step == self.total_steps:
                self._save()

    def _micro_batches(self) -> Iterator[list[list[TrainingRecord]]]:
        """The lists of records of every remaining optimizer step."""
        count = self.config.gradient_accumulation_steps
        epoch, place = divmod(self.state.step, self.steps_per_epoch)
        for number in range(epoch, self.config.num_epochs):
            batches = self.order.batches(number, skip=place * count if number == epoch else 0)
            while chunk := list(itertools.islice(batches, count)):
                yield chunk

    def _step(self, micro_batches: list[list[TrainingRecord]]) -> None:
        """One optimizer step: one ratio, all micro-batches, the mean over every target of every process."""
        began = time.perf_counter()
        config, state, accelerator = self.config, self.state, self.accelerator
        ratio = self.sampler(state.step)
        rate = cosine_with_warmup(state.step, self.total_steps, config.learning_rate, config.warmup_ratio)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        records, recomputed = max(map(len, micro_batches)), config.gradient_checkpointing
        with memory_advice(step=state.step, ratio=ratio, records=records, checkpointing=recomputed):
            loss_sum, targets, tokens, stop = self._accumulate(micro_batches, ratio)
        norm = self._update(targets, ratio) if targets else 0.0
        state.step += 1
        state.tokens += tokens
        state.drawn[str(ratio)] += 1
        seconds = time.perf_counter() - began
        state.seconds += seconds
        entry = {
            "run": self.run_name,
            "step": state.step,
            "loss": loss_sum / targets if targets else None,
            "budget": ratio,
            "lr": rate,
            "grad_norm": norm if math.isfinite(norm) else None,
            "tokens": tokens,
            "seconds": round(seconds, 4),
            "memory": memory_in_use(accelerator.device),
        }
        if accelerator.is_main_process:
            self.metrics.append(entry)
            self.progress.step(entry)
            self.watch.step(entry, self.cache.nbytes)
            accelerator.log(step_values(entry), step=state.step)
            if state.step % config.logging_steps == 0:
                logger.info(report.step_line(entry, self.total_steps, state.seconds))
        if stop:
            raise StopRequested

    def _accumulate(self, micro_batches: list[list[TrainingRecord]], ratio: Ratio) -> tuple[float, int, int, bool]:
        """Backward through the micro-batches; returns loss sum, targets and tokens of all processes, and whether to
        stop."""
        accelerator, config = self.accelerator, self.config
        self.train_mode(True)
        self.batch: list[dict[str, Any]] = []
        counts = torch.zeros(4, dtype=torch.float64)
        for number, records in enumerate(micro_batches):
            ordinal = self.ordinal(number, self.order)
            with accelerator.autocast():
                examples = self.examples(records, ratio, ordinal, "noise", self.state.step)
            self.batch += described(examples)
            last = number == len(micro_batches) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.loss_model):
                with scoped_seed(accelerator.device, config.seed, "dropout", self.state.step, ordinal):
                    losses, tokens = self.loss_model(examples, ratio)
                self.check_finite(losses, described(examples), ratio)
                # Wrappers average gradients over the processes; what is wanted is their sum over this nominal count.
                accelerator.backward(losses.sum() * accelerator.num_processes / self._nominal_targets())
            counts += counts.new_tensor([losses.detach().double().sum().item(), losses.numel(), tokens, 0])
        counts[3] = self.stop.requested
        loss_sum, targets, tokens, stop = self.sum_over_processes(counts).tolist()
        return loss_sum, int(targets), int(tokens), stop > 0

    def sum_over_processes(self, values: torch.Tensor) -> torch.Tensor:
        """The sums of every process's values, in float64 where the device has it."""
        wide = torch.float32 if self.accelerator.device.type == "mps" else torch.float64
        return self.accelerator.reduce(values.to(self.accelerator.device, wide))

    def _nominal_targets(self) -> int:
        """Targets of a full optimizer step: a fixed scale that keeps fp16 gradients in range until the true count is
        known."""
        records = self.order.batch_size * self.config.gradient_accumulation_steps * self.accelerator.num_processes
        return records * self.targets.length

    def _update(self, targets: int, ratio: Ratio) -> float:
        """Scale the gradients to the mean over `targets`, clip, step. Returns the norm before clipping."""
        parameters = adapter.lora_parameters(self.model)
        for parameter in parameters.values():
            if parameter.grad is not None:  # `check_gradients` names those without one
                parameter.grad.mul_(self._nominal_targets() / targets)
        if self.state.updates >= 1 and not self.gradients_checked:
            report.check_gradients(parameters)
            self.gradients_checked = True
        norm = self.accelerator.clip_grad_norm_(parameters.values(), self.config.max_grad_norm)
        if self.accelerator.scaler is None:  # fp16's own scaler skips such steps and lowers its scale
            self.check_finite(norm, self.batch, ratio, "gradient")
        self.optimizer.step()
        self.state.updates += not self.optimizer.step_was_skipped
        self.optimizer.zero_grad()
        return norm.item()

    def train_mode(self, training: bool) -> None:
        """Dropout of the adapter on or off; the frozen rest stays in evaluation mode."""
        self.model.eval()
        self.model.mm_projector.train(training)
        # transformers recomputes blocks in train mode only; these blocks have no dropout, so nothing else changes.
        self.model.language.train(training and self.config.gradient_checkpointing)

    def check_finite(self, values: torch.Tensor, batch: list[dict[str, Any]], ratio: Ratio, what: str = "loss") -> None:
        file = self.folder / "logs" / f"not_finite_{self.accelerator.process_index}.json"
        check_finite(values, batch, file=file, step=self.state.step, ratio=ratio, what=what)

    def ordinal(self, batch: int, order: EpochOrder) -> int:
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        return first_ordinal(batch, order.batch_size, rank=rank, processes=processes)

    # -- saving ----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.accelerator.scaler is not None:
            self.state.scaler = self.accelerator.scaler.state_dict()
        if self.accelerator.is_main_process:
            path = checkpoints.save_checkpoint(
                self.checkpoints,
                self.model,
                self.optimizer.optimizer,
                self.state,
                settings=report.adapter_settings(self),
                run=self.run,
            )
            checkpoints.rotate(self.checkpoints, self.config.save_total_limit)
            logger.info("saved %s", path)
        self.accelerator.wait_for_everyone()

    def _finish(self) -> dict[str, Any]:
        self.model.eval()
        if self.val_order is None and self.accelerator.is_main_process:
            checkpoints.save_best(self.checkpoints, self.model, settings=report.adapter_settings(self))
        results = report.results(self)
        if self.accelerator.is_main_process:
            write_json(self.folder / "logs" / "training_results.json", results)
        logger.info("finished: %d steps; %s", self.state.step, report.best_in_words(self.state))
        if results["skipped_records"]:
            logger.warning("%s", report.left_out(results["skipped_records"]))
        self.cache.clear()
        del self.loss_model, self.optimizer, self.accelerator  # with them go AdamW's moments and any wrapper's buffers
        return results
