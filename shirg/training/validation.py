"""The losses of records that are not trained on."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from shirg.bootstrap import Interval, ratio_interval
from shirg.errors import UserError
from shirg.training.examples import ExampleMaker
from shirg.training.guards import check_finite, described
from shirg.training.loss_model import LossModel, target_weights
from shirg.training.plan import Plan

if TYPE_CHECKING:
    from accelerate import Accelerator

ImageSums = dict[str, dict[str, float]]
"""Component -> image -> sum of the losses of its answers' tokens."""


@dataclass(frozen=True)
class Validation:
    """Mean losses of a target by component."""

    losses: dict[str, float]
    """Weighted as in training."""
    answers: dict[str, float]
    """Of the answers' tokens."""
    padding: dict[str, float | None]
    """Of the padding; None if there is none."""
    images: ImageSums
    records: int


@torch.no_grad()
def validate(
    plan: Plan,
    loss_model: LossModel,
    examples: ExampleMaker,
    accelerator: Accelerator,
    *,
    step: int,
    before_batch: Callable[[int], None],
) -> Validation:
    """Losses of every component over the validation records of all processes, with the same noise every time.

    Answers are padded to their full length, as in inference.

    Args:
        loss_model: not wrapped.
        step: optimizer steps done, for messages.
        before_batch: called with the number of every batch; may raise to end the validation.

    Raises:
        UserError: if a loss is not finite, or none of the records can be opened and asked.
    """
    from accelerate.utils import gather_object

    assert plan.val_order is not None, "no validation is due without records"
    loss_model.set_training(False)
    rows: list[tuple[str, str, float, int, float, int]] = []  # component, image, then sum and number: answer, padding
    for number, records in enumerate(plan.val_order.batches(0, most=plan.validation_batches)):
        before_batch(number)
        ordinal = plan.ordinal(number, plan.val_order)
        for component in plan.sampler.components:
            with accelerator.autocast():
                made = examples(records, component, ordinal, plan.answer_tokens, "validation")
            losses, _ = loss_model(made, component)  # without examples, too: all processes gather a sharded body
            file = plan.not_finite_file
            check_finite(losses, described(made), file=file, step=step, component=component, what="loss")
            losses = losses.double()
            of_answer = target_weights(made, 0.0, losses)
            for example, loss, kept in zip(made, losses, of_answer, strict=True):
                answer, count = (loss * kept).sum().item(), int(kept.sum())
                padding = (loss * (1 - kept)).sum().item()
                rows.append((str(component), example.image_id, answer, count, padding, len(loss) - count))
    rows = gather_object(rows)
    by_component = {name: [row for row in rows if row[0] == name] for name in map(str, plan.sampler.components)}
    if not all(by_component.values()):
        raise UserError("val_loader: none of its records can be opened and asked; see logs/training.log")
    found = Validation({}, {}, {}, {}, max(map(len, by_component.values())))
    for name, own in by_component.items():
        answer, targets, padding, pads = (sum(column) for column in list(zip(*own, strict=True))[2:])
        weight = plan.config.padding_weight
        found.losses[name] = (answer + weight * padding) / (targets + weight * pads)
        found.answers[name] = answer / targets
        found.padding[name] = padding / pads if pads else None
        sums = found.images[name] = dict.fromkeys((row[1] for row in own), 0.0)
        for row in own:
            sums[row[1]] += row[2]
    return found


def relative_loss(answers: Mapping[str, float], start: Mapping[str, float]) -> float:
    """Mean over the components of the loss of the answers' tokens relative to that at the start: every component counts alike,
    whatever the size of its loss."""
    return statistics.fmean(loss / start[name] for name, loss in answers.items())


def relative_interval(images: ImageSums, start: ImageSums, *, seed: int) -> Interval:
    """The 95% interval of `relative_loss` under resampling of images, the losses of an image paired with its own at the start.

    Every image has the same targets each time, so sums are compared. An image that one of the two lacks is left out.
    """
    known = [set(sums) for of in (images, start) for sums in of.values()]
    shared = sorted(set.intersection(*known))
    ours, theirs = (np.array([[sums[image] for sums in of.values()] for image in shared]) for of in (images, start))
    return ratio_interval(ours, theirs, shared, seed=seed)
