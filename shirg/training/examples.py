"""From records to what the loss needs: image features, prompt, targets and noise."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shirg.errors import ItemError
from shirg.training.budgets import Ratio, path_of
from shirg.training.checkpoints import RunState
from shirg.training.features import FeatureCache
from shirg.training.loss_model import Example, draw_mask
from shirg.training.records import TrainingRecord
from shirg.training.targets import AnswerTargets

if TYPE_CHECKING:
    from shirg.lavida import Lavida

logger = logging.getLogger(__name__)


class ExampleMaker:
    """Makes examples of records, and keeps count of what had to be left out or cut."""

    def __init__(
        self,
        model: Lavida,
        cache: FeatureCache,
        targets: AnswerTargets,
        state: RunState,
        *,
        image_tokens: int,
        seed: int,
    ):
        """
        Args:
            state: its `skipped` and `cut` are added to.
            image_tokens: most that an image takes in any of the run's ratios: a record must fit with all of them, so that
                every ratio sees the same records.
            seed: the run's seed, for the noise.
        """
        self.model = model
        self.cache = cache
        self.targets = targets
        self.state = state
        self.image_tokens = image_tokens
        self.seed = seed

    def __call__(
        self, records: Sequence[TrainingRecord], ratio: Ratio, ordinal: int, *purpose: int | str
    ) -> list[Example]:
        """The examples of `records`; one that cannot be opened, asked or fitted into the model (`ItemError`) is left out,
        counted and listed.

        Args:
            ordinal: number of the first record in its optimizer step (or validation), over all processes.
            purpose: what the noise is for, beside seed and ordinal.
        """
        examples = []
        for number, record in enumerate(records, start=ordinal):
            try:
                examples.append(self._example(record, ratio, number, purpose))
            except ItemError as error:
                if record.id not in self.state.skipped:
                    logger.warning("record %s is skipped: %s", record.id, error)
                self.state.skipped[record.id] = str(error)
        return examples

    def _example(self, record: TrainingRecord, ratio: Ratio, number: int, purpose: tuple[int | str, ...]) -> Example:
        prompt = self.model.prompt_ids(record.question)
        self.model.check_length(self.image_tokens + len(prompt) - 1, self.targets.length)
        features = self.cache.get(record, path_of(ratio))
        target, was_cut = self.targets(record.answers[0])
        if was_cut and record.id not in self.state.cut:
            self.state.cut.append(record.id)
        masked = draw_mask(self.targets.length, self.seed, *purpose, number)
        question = self.model.question_ids(prompt)
        return Example(record.id, record.image_id, features, prompt, question, target, masked)


def first_ordinal(batch: int, batch_size: int, *, rank: int, processes: int) -> int:
    """Number of the first record of this process's `batch`-th micro-batch among those of all processes."""
    return (batch * processes + rank) * batch_size
