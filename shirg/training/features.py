"""Tower features of images that several records, epochs and validations ask about."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from shirg.data.samples import Sample
from shirg.errors import ItemError, UserError
from shirg.lavida.vision import VisionFeatures, path_of
from shirg.training.records import TrainingRecord

if TYPE_CHECKING:
    from shirg.lavida import Lavida

Shown = TypeVar("Shown")


class FeatureCache:
    """`model.image_features` with a memory, least recently used first out.

    The tower is frozen and sees one image at a time, so a cached feature is bit-equal to a fresh one and a run gives
    the same losses with any cache size. Images are told apart by `record.image_id`, which must therefore name the
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
        """The tower's view of a record's image on `path` ("hd" or "shirg").

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
            features = self._look(record, path)
        if not getattr(record, "augmented", False):
            self._keep(key, features)
        return features

    def clear(self) -> None:
        """Forget every image."""
        self._known.clear()
        self.nbytes = 0

    def _look(self, record: TrainingRecord, path: str) -> VisionFeatures:
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


def _opened(read: Callable[[], Shown]) -> Shown:
    """What a record shows. It raises `UserError` where its image is damaged, and nothing else of the run is in it."""
    try:
        return read()
    except UserError as error:
        raise ItemError(str(error)) from error


def _bytes(features: VisionFeatures) -> int:
    return features.tokens.nbytes + features.pixels.nbytes
