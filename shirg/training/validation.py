"""The losses of records that are not trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from shirg.errors import UserError
from shirg.training.budgets import Component
from shirg.training.examples import ExampleMaker
from shirg.training.guards import check_finite, described
from shirg.training.loss_model import LossModel
from shirg.training.plan import Plan, sum_over_processes

if TYPE_CHECKING:
    from accelerate import Accelerator


@torch.no_grad()
def validate(
    plan: Plan,
    loss_model: LossModel,
    examples: ExampleMaker,
    accelerator: Accelerator,
    *,
    step: int,
    before_batch: Callable[[int], None],
) -> dict[Component, float]:
    """Mean loss of every component over the validation records of all processes, with the same noise every time.

    Args:
        loss_model: not wrapped.
        step: optimizer steps done, for messages.
        before_batch: called with the number of every batch; may raise to end the validation.

    Raises:
        UserError: if a loss is not finite, or none of the records can be opened and asked.
    """
    assert plan.val_order is not None, "no validation is due without records"
    components = plan.sampler.components
    loss_model.set_training(False)
    sums = torch.zeros(len(components), 2, dtype=torch.float64)  # loss, targets
    for number, records in enumerate(plan.val_order.batches(0)):
        before_batch(number)
        ordinal = plan.ordinal(number, plan.val_order)
        for row, component in enumerate(components):
            with accelerator.autocast():
                made = examples(records, component, ordinal, "validation")
            losses, _ = loss_model(made, component)  # without examples too: other processes may need this one's share
            file = plan.not_finite_file
            check_finite(losses, described(made), file=file, step=step, component=component, what="loss")
            sums[row] += sums.new_tensor([losses.double().sum().item(), losses.numel()])
    found = sum_over_processes(accelerator, sums).tolist()
    if not all(count for _, count in found):
        raise UserError("val_loader: none of its records can be opened and asked; see logs/training.log")
    return {component: total / count for component, (total, count) in zip(components, found, strict=True)}
