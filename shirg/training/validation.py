"""The losses of records that are not trained on, and the adapter that does best on them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from shirg.data.sampler import EpochOrder
from shirg.errors import UserError
from shirg.training import checkpoints, report
from shirg.training.guards import described
from shirg.training.interrupts import StopRequested
from shirg.training.trackers import validation_values

if TYPE_CHECKING:
    from shirg.training.trainer import SHIRGLoRATrainer

logger = logging.getLogger(__name__)


def is_due(trainer: SHIRGLoRATrainer) -> bool:
    """Whether to validate after the step that was done last: before the first, every `validation_steps`, at the end."""
    step, every = trainer.state.step, trainer.config.validation_steps or trainer.steps_per_epoch
    if trainer.val_order is None or step == trainer.state.validated_step:
        return False
    return step % every == 0 or step == trainer.total_steps


def validate(trainer: SHIRGLoRATrainer) -> None:
    """Mean loss per ratio over the validation records; the adapter with the lowest mean over the ratios is kept."""
    assert trainer.val_order is not None, "nothing is due without validation records"
    if trainer.accelerator.is_main_process:
        logger.info("step %d: validating every ratio on %d records", trainer.state.step, trainer.val_order.records)
    _record(trainer, _losses(trainer, trainer.val_order))


@torch.no_grad()
def _losses(trainer: SHIRGLoRATrainer, order: EpochOrder) -> dict[str, float]:
    trainer.train_mode(False)
    loss_model = trainer.accelerator.unwrap_model(trainer.loss_model)
    ratios = trainer.sampler.ratios
    sums = torch.zeros(len(ratios), 2, dtype=torch.float64)
    with trainer.progress.validating(len(order)) as advance:
        for number, records in enumerate(order.batches(0)):
            if trainer.stop.requested and trainer.accelerator.num_processes == 1:
                raise StopRequested
            ordinal = trainer.ordinal(number, order)
            for row, ratio in enumerate(ratios):
                with trainer.accelerator.autocast():
                    examples = trainer.examples(records, ratio, ordinal, "validation")
                losses, _ = loss_model(
                    examples, ratio
                )  # without examples too: other processes may need this one's share
                trainer.check_finite(losses, described(examples), ratio)
                sums[row] += sums.new_tensor([losses.double().sum().item(), losses.numel()])
            advance()
    found = trainer.sum_over_processes(sums).tolist()
    if not all(count for _, count in found):
        raise UserError("val_loader: none of its records can be opened and asked; see logs/training.log")
    return {str(ratio): total / count for ratio, (total, count) in zip(ratios, found, strict=True)}


def _record(trainer: SHIRGLoRATrainer, losses: dict[str, float]) -> None:
    state, is_main = trainer.state, trainer.accelerator.is_main_process
    mean = sum(losses.values()) / len(losses)
    state.validated_step = state.step
    if state.best_loss is None or mean < state.best_loss:
        state.best_loss, state.best_step = mean, state.step
        if is_main:
            settings = report.adapter_settings(trainer, losses)
            checkpoints.save_best(trainer.checkpoints, trainer.model, settings=settings)
    if is_main:
        entry = {"run": trainer.run_name, "step": state.step, "losses": losses, "mean": mean}
        trainer.validations.append(entry)
        trainer.accelerator.log(validation_values(entry), step=state.step)
        parts = ", ".join(f"{ratio} {loss:.4f}" for ratio, loss in losses.items())
        logger.info("step %d: validation loss %.4f (%s)", state.step, mean, parts)
