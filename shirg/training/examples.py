"""From records to what the loss needs: image features, prompt, targets and noise."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from shirg.data.samples import Sample
from shirg.errors import ItemError, UserError
from shirg.lavida.prompt import answer_ids
from shirg.lavida.vision import VisionFeatures, path_of
from shirg.seeds import generator
from shirg.training.budgets import Component
from shirg.training.checkpoints import RunState
from shirg.training.loss_model import Example, draw_mask
from shirg.training.plan import Plan, TrainingRecord

if TYPE_CHECKING:
    from accelerate import Accelerator

    from shirg.lavida import Lavida

Read = TypeVar("Read")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExampleMaker:
    """Makes examples of records, and counts those that are left out or cut in `state`."""

    plan: Plan
    model: Lavida
    cache: FeatureCache
    state: RunState

    def __call__(
        self, records: Sequence[TrainingRecord], component: Component, ordinal: int, length: int, *purpose: int | str
    ) -> list[Example]:
        """The examples of `records`; one that cannot be opened, asked or fitted into the model (`ItemError`) is left out,
        counted and listed.

        Args:
            ordinal: number of the first record in its optimizer step (or validation), over all processes.
            length: positions of an answer.
            purpose: what the noise is for, beside seed and ordinal.
        """
        examples = []
        for number, record in enumerate(records, start=ordinal):
            try:
                examples.append(self._example(record, component, number, length, purpose))
            except ItemError as error:
                if record.id not in self.state.skipped:
                    logger.warning("record %s is skipped: %s", record.id, error)
                self.state.skipped[record.id] = str(error)
        return examples

    def step_length(
        self, micro_batches: Sequence[Sequence[TrainingRecord]], accelerator: Accelerator, step: int
    ) -> int:
        """Positions of an answer in optimizer step `step`: the same for all records of all processes, so that the loss does not
        depend on how they are divided.

        "longest" adds one to five tokens to the longest answer; LaViDa adds up to 128 to a batch's longest row (train.py:1559).
        """
        plan, most = self.plan, self.plan.answer_tokens
        if plan.config.answer_padding == "full":
            return most
        answers = [record.answers[0] for records in micro_batches for record in records]
        longest = torch.tensor([max((len(_ids(self.model, answer)) for answer in answers), default=0)])
        more = 1 + torch.randint(5, (), generator=generator(plan.config.seed, "padding", step)).item()
        return min(int(accelerator.gather(longest.to(accelerator.device)).max()) + int(more), most)

    def _example(
        self, record: TrainingRecord, component: Component, number: int, length: int, purpose: tuple[int | str, ...]
    ) -> Example:
        model = self.model
        prompt = model.prompt_ids(record.question)
        question = model.question_ids(prompt)
        model.config.check_length(self.plan.image_tokens + len(prompt) - 1, self.plan.answer_tokens)
        features = self.cache.get(record, component.path)
        target, answer = answer_target(model, record.answers[0], length)
        if answer > length and record.id not in self.state.cut:
            self.state.cut.append(record.id)
        times = "uniform" if purpose[0] == "validation" else self.plan.config.noise_times
        masked = draw_mask(length, self.plan.config.seed, *purpose, number, times=times)
        return Example(record.id, record.image_id, features, prompt, question, target, answer, masked)


def answer_target(model: Lavida, answer: str, length: int) -> tuple[Tensor, int]:
    """Ids [length] Long: the answer and its end of turn as in LaViDa's own samples, then end-of-text. And the number of the ids
    before the padding; if it is more than `length`, the answer was cut.

    The padding is a target, too: generation denoises a whole block at once, so the model itself has to write where the answer
    ends (LaViDa llava_llada.py:131-132).
    """
    ids = _ids(model, answer)
    padded = ids[:length] + [model.config.eos_token_id] * (length - len(ids))
    return torch.tensor(padded, dtype=torch.long), len(ids)


def _ids(model: Lavida, answer: str) -> list[int]:
    assert model.tokenizer is not None, "the trainer refuses a model without one"
    return answer_ids(model.tokenizer, model.config.family, answer.strip())[1]


class FeatureCache:
    """`model.image_features` with a least-recently-used cache.

    The tower is frozen and encodes one image at a time, so a cached feature is bit-equal to a fresh one and a run gives
    the same losses with any cache size. The key is `record.image_id`, which must identify the pixels. Augmented images are
    not cached, since each has other pixels.
    """

    def __init__(self, model: Lavida, max_bytes: int):
        """
        Args:
            model: a `Lavida`.
            max_bytes: most bytes of tensors held; 0 holds nothing.
        """
        self.model = model
        self.shapes = model.view_shapes()
        self.max_bytes = max_bytes
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self._known: OrderedDict[tuple[str, str], VisionFeatures] = OrderedDict()

    def get(self, record: TrainingRecord, path: str) -> VisionFeatures:
        """The tower's features of a record's image on `path` ("hd", "shirg" or "early").

        Raises:
            ItemError: if the image cannot be opened.
        """
        key = (record.image_id, path)
        if key in self._known:
            self.hits += 1
            self._known.move_to_end(key)
            return self._known[key]
        self.misses += 1
        with torch.no_grad():
            features = self._encode(record, path)
        if not getattr(record, "augmented", False):
            self._keep(key, features)
        return features

    def _encode(self, record: TrainingRecord, path: str) -> VisionFeatures:
        if isinstance(record, Sample) and record.shapes == self.shapes:
            row, size = path_of(path), (record.width, record.height)
            return self.model.encode_views(_opened(lambda: record.view(row.views)), size, row.views, early=row.early)
        return self.model.image_features(_opened(record.open_image), path)

    def _keep(self, key: tuple[str, str], features: VisionFeatures) -> None:
        size = _bytes(features)
        if size > self.max_bytes:
            return
        self._known[key] = features
        self.nbytes += size
        while self.nbytes > self.max_bytes:
            _, oldest = self._known.popitem(last=False)
            self.nbytes -= _bytes(oldest)


def _opened(read: Callable[[], Read]) -> Read:
    """What `read` returns. It raises `UserError` where a record's image is damaged, which concerns no other record."""
    try:
        return read()
    except UserError as error:
        raise ItemError(str(error)) from error


def _bytes(features: VisionFeatures) -> int:
    return features.tokens.nbytes + features.pixels.nbytes
