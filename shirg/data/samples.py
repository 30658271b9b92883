"""A record with the views for the tower, each made once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Protocol

from shirg.data.records import Record

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

VIEWS = ("large", "tiles")
"""Views in training: the large view for every budget, base view and tiles for LaViDa's pooled path."""


class Shapes(Protocol):
    """Cuts images into a model's views; `shirg.lavida.views.ViewShapes` implements it."""

    def cut(self, image: Image.Image, views: str) -> Tensor:
        """The RGB image's `views`, [V, H, W, 3] uint8."""


@dataclass(frozen=True, slots=True)
class Sample(Record):
    """A record with its image as input of a model's tower.

    Views are bytes, [V, H, W, 3] uint8, and are normalised on the tower's device: 1.35 MB for one of 672 pixels and 2.2 MB
    for five of 384. In float32 four times as much would be copied from worker to trainer and to the GPU.

    Attributes:
        shapes: of the model's views.
        augmented: whether the image is augmented, so that its features need not be cached.
        made: the views made so far, by name.
    """

    shapes: Shapes = field(kw_only=True)
    augmented: bool = False
    made: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, record: Record, shapes: Shapes, *, augmented: bool = False) -> Sample:
        """A record with views to be made."""
        known = {place.name: getattr(record, place.name) for place in fields(Record)}
        return cls(**known, shapes=shapes, augmented=augmented)

    def view(self, name: str) -> Tensor:
        """One of `shirg.lavida.vision.Views`, [V, H, W, 3] uint8; made on first use.

        Raises:
            UserError: if the image cannot be opened.
        """
        if name not in self.made:
            self.make([name])
        return self.made[name]

    def make(self, names: Iterable[str]) -> None:
        """Makes these views, decoding the image once.

        Raises:
            UserError: if the image cannot be opened.
        """
        image = self.open_image()
        for name in names:
            self.made[name] = self.shapes.cut(image, name)
