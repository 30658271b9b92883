"""What happens to pages before a camera or a scanner has done with them; never a flip, since text has a direction."""

from __future__ import annotations

import io
import random
from dataclasses import replace

from PIL import Image, ImageEnhance, ImageFilter

from shirg.data.records import Record, image_id


def augment_image(image: Image.Image, source: random.Random) -> bytes:
    """Changes brightness, contrast and colour, blurs and turns a little, and returns JPEG bytes of the same size.

    The ranges leave print of 6 pixels legible: at most 0.5 pixel of blur, 2 degrees of rotation, JPEG quality from 60.

    Args:
        image: RGB.
        source: of all the choices; the same state gives the same bytes.
    """
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(source.uniform(0.8, 1.2))
    degrees = source.uniform(-2.0, 2.0) if source.random() < 0.5 else 0.0
    if degrees:
        paper = image.getpixel((0, 0))  # the corners that turn into view look like the page's own corner
        image = image.rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor=paper)
    radius = source.uniform(0.0, 0.5) if source.random() < 0.3 else 0.0
    if radius:
        image = image.filter(ImageFilter.GaussianBlur(radius))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=source.randint(60, 95))
    return buffer.getvalue()


def augment_record(record: Record, seed: int, epoch: int, index: int) -> Record:
    """The record with its image augmented; the choices follow from (seed, epoch, index) alone.

    The image gets a new `image_id`, so nothing that was remembered for the original is taken for it.

    Raises:
        UserError: if the image cannot be opened.
    """
    data = augment_image(record.open_image(), random.Random(f"{seed}:{epoch}:{index}"))
    return replace(record, image=data, image_id=image_id(data))
