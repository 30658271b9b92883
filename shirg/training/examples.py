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
from shirg.training.budgets import Component
from shirg.training.checkpoints import RunState
from shirg.training.loss_model import Example, draw_mask
from shirg.training.plan import Plan, TrainingRecord

if TYPE_CHECKING:
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
        self, records: Sequence[TrainingRecord], component: Component, ordinal: int, *purpose: int | str
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
                examples.append(self._example(record, component, number, purpose))
            except ItemError as error:
                if record.id not in self.state.skipped:
                    logger.warning("record %s is skipped: %s", record.id, error)
                self.state.skipped[record.id] = str(error)
        return examples

    def _example(
        self, record: TrainingRecord, component: Component, number: int, purpose: tuple[int | str, ...]
    ) -> Example:
        model, length = self.model, self.plan.answer_tokens
        prompt = model.prompt_ids(record.question)
        model.check_length(self.plan.image_tokens + len(prompt) - 1, length)
        features = self.cache.get(record, component.path)
        target, was_cut = answer_target(model, record.answers[0], length)
        if was_cut and record.id not in self.state.cut:
            self.state.cut.append(record.id)
        masked = draw_mask(length, self.plan.config.seed, *purpose, number)
        return Example(record.id, record.image_id, features, prompt, model.question_ids(prompt), target, masked)


def answer_target(model: Lavida, answer: str, length: int) -> tuple[Tensor, bool]:
    """Ids [length] Long: the answer and its end of turn as in LaViDa's own samples, then end-of-text. And whether it was cut.

    The end-of-text padding is a target like any other: generation denoises a whole block at once, so the model itself has to
    write where the answer ends (LaViDa llava_llada.py:131-132).
    """
    assert model.tokenizer is not None, "the trainer refuses a model without one"
    _header, ids = answer_ids(model.tokenizer, model.config.family, answer.strip())
    padded = ids[:length] + [model.config.eos_token_id] * (length - len(ids))
    return torch.tensor(padded, dtype=torch.long), len(ids) > length


class FeatureCache:
    """`model.image_features` with a memory, least recently used first out.

    The tower is frozen and encodes one image at a time, so a cached feature is bit-equal to a fresh one and a run gives
    the same losses with any cache size. Images are identified by `record.image_id`, which must therefore name the
    pixels; augmented ones are not kept, as they do not come again.
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
        """The tower's features of a record's image on `path` ("hd" or "shirg").

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
            views, size = path_of(path).views, (record.width, record.height)
            return self.model.encode_views(_opened(lambda: record.view(views)), size, views)
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
