"""What training asks of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image


class TrainingRecord(Protocol):
    """A question about an image. `shirg.data.Record` is one, and so is anything else that has these."""

    @property
    def id(self) -> str:
        """Names the record in messages."""

    @property
    def image_id(self) -> str:
        """Names the image's pixels: records about one image share it."""

    @property
    def question(self) -> str:
        """As it is put to the model."""

    @property
    def answers(self) -> Sequence[str]:
        """Accepted ones; the first is trained."""

    def open_image(self) -> Image.Image:
        """The image, upright and RGB; raises `UserError` if it cannot be read."""
