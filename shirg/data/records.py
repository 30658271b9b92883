"""A record: an image, one question about it, and the accepted answers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from PIL import Image

from shirg.images import open_image

IMAGE_PLACEHOLDER = "<image>"


def image_id(data: bytes) -> str:
    """Content id of an image: sha256 of the file's bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Record:
    """A question about an image. Records that share an image have the same `image_id`.

    Attributes:
        id: unique within its source, `source:image:number`.
        image: bytes of a PNG or JPEG file.
        image_id: sha256 of `image`.
        question: for the model, without the image placeholder.
        answers: accepted answers; training uses the first.
        source: name of the data set, e.g. `llava_pretrain`, `chartqa`, `rendered`.
        licence: of the data set, in its publisher's words.
        width: of the upright image, pixels.
        height: of the upright image, pixels.
        kind: of image or question, e.g. `receipt` or `human`; empty where unknown.
        text_px: font size of the answer, pixels of the image; 0 where unknown.
        split: `train`, `validation` or `test`.
        path: of a linked image file; empty for an embedded image.
    """

    id: str
    image: bytes = field(repr=False)
    image_id: str
    question: str
    answers: tuple[str, ...]
    source: str
    licence: str
    width: int
    height: int
    kind: str = ""
    text_px: float = 0.0
    split: str = "train"
    path: str = ""

    @property
    def conversations(self) -> list[dict[str, str]]:
        """LLaVA's format: one human turn with the image placeholder, one answer."""
        return [
            {"from": "human", "value": f"{IMAGE_PLACEHOLDER}\n{self.question}"},
            {"from": "gpt", "value": self.answers[0]},
        ]

    def open_image(self) -> Image.Image:
        """The image, upright and RGB.

        Raises:
            UserError: if the bytes are damaged or hold too many pixels; the message names the record.
        """
        return open_image(self.image, f"image of record {self.id}")
