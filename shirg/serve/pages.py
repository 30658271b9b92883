"""Images of requests: data URIs and fetched files, PNG, JPEG, WebP and one-page PDF -> upright RGB images."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import threading
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shirg.errors import UserError
from shirg.images import open_image

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP")
PDF = b"%PDF-"
PDF_SIDE = 2016
"""Pixels of the longer side of a rendered PDF page: three times the side of SHIRG's view."""
_pdfium = threading.Lock()  # pdfium is not safe for threads


@dataclass(frozen=True)
class ImageFile:
    """The bytes of an image or of a one-page PDF."""

    data: bytes
    name: str
    """Its place in the request, for messages."""

    @property
    def digest(self) -> str:
        """A hash of its bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def open(self, max_pixels: int) -> Image.Image:
        """The upright RGB image.

        Raises:
            UserError: if it is no such file, is damaged, has more pixels, or is a PDF of several pages.
        """
        if self.data.startswith(PDF):
            return _pdf_page(self.data, self.name)
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(self.data), formats=FORMATS) as image:
                width, height = image.size
        except UnidentifiedImageError as error:
            raise UserError(f"{self.name}: is no PNG, JPEG, WebP or PDF file") from error
        except Exception:  # damaged, or larger than Pillow's own limit: open_image names the reason
            width = height = 0
        if width * height > max_pixels:
            raise UserError(f"{self.name}: {width}x{height} pixels; at most {max_pixels:,} are taken")
        return open_image(self.data, self.name)


def data_uri(url: str, name: str) -> ImageFile:
    """The file in a data URI.

    Raises:
        UserError: if it is none, or its base64 is damaged.
    """
    head, comma, payload = url.partition(",")
    if not comma or not head.startswith("data:"):
        raise UserError(f"{name}: got {url[:40]!r}, must be a data URI: data:image/png;base64,...")
    if not head.endswith(";base64"):
        raise UserError(f"{name}: the data URI must be in base64: data:image/png;base64,...")
    if "%" in payload:
        payload = urllib.parse.unquote(payload)
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: other signs than ASCII
        raise UserError(f"{name}: its base64 is damaged") from error
    return ImageFile(data, name)


def _pdf_page(data: bytes, name: str) -> Image.Image:
    import pypdfium2

    with _pdfium:
        try:
            document = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            raise UserError(f"{name}: the PDF cannot be read") from error
        try:
            if len(document) != 1:
                raise UserError(f"{name}: the PDF has {len(document)} pages; send one page")
            page = document[0]
            longest = max(page.get_size())
            if not longest > 0:
                raise UserError(f"{name}: the page of the PDF is empty")
            return page.render(scale=PDF_SIDE / longest).to_pil().convert("RGB")
        except pypdfium2.PdfiumError as error:
            raise UserError(f"{name}: the PDF cannot be read") from error
        finally:
            document.close()
