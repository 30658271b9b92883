"""Opening images that nobody has vouched for: bounded before decoding, upright, RGB."""

from __future__ import annotations

import io
import warnings
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shirg.errors import UserError

MAX_PIXELS = 80_000_000
"""Largest width x height that is decoded (240 MB as RGB); it lies below Pillow's own warning at 89 million."""

MAX_BYTES = 256 * 2**20
"""Largest image file that is read into memory."""

# By content, never by file name. PostScript is left out on purpose: Pillow hands it to another program.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")

KEPT = ("PNG", "JPEG", "MPO")
"""Formats whose files are stored as they are. MPO is a JPEG with further pictures behind it."""


def safe_relative(name: str) -> PurePosixPath:
    """`name` from a data set's record as a path that cannot leave the data folder.

    Links inside the folder are followed: their owner put them there, a record did not.

    Raises:
        UserError: if the name is empty, absolute or climbs with `..`.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or "\0" in name:
        raise UserError(f"image {name!r}: not a path inside the data folder; use one like 'images/0001.png'")
    return path


def read_bytes(path: Path) -> bytes:
    """The content of an image file of at most `MAX_BYTES`.

    Raises:
        UserError: if the file is missing, unreadable or larger.
    """
    try:
        size = path.stat().st_size
        if not path.is_file() and not path.is_dir():  # a pipe or a device may never end
            raise UserError(f"image {path}: not a file")
        if size > MAX_BYTES:
            raise UserError(f"image {path}: {size} bytes; at most {MAX_BYTES} are read")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"image {path}: {error.strerror or error}") from error


def open_image(data: bytes, what: str = "image") -> Image.Image:
    """Decodes an image file's bytes as an upright RGB image [H, W, 3] of 8 bits.

    EXIF rotation is applied, transparency laid on white, 16-bit grey scaled to 8, the first frame of several taken.

    Args:
        data: content of a PNG, JPEG, GIF, WebP, BMP, TIFF or PPM file.
        what: how the message names the image.

    Raises:
        UserError: if the data is not such an image, is damaged, or has more than `MAX_PIXELS` pixels.
    """
    return decode(data, what)[0]


def as_png_or_jpeg(data: bytes, what: str = "image") -> tuple[bytes, int, int]:
    """Checks an image by decoding it and returns (bytes, width, height) of its upright form.

    PNG and JPEG files keep their bytes; other formats become PNG.

    Raises:
        UserError: as `open_image`.
    """
    image, file_format = decode(data, what)
    return (data if file_format in KEPT else encode_png(image)), image.width, image.height


def within(data: bytes, max_side: int, what: str = "image") -> tuple[bytes, int, int]:
    """As `as_png_or_jpeg`, with images whose longer side is above `max_side` shrunk to it.

    A shrunk JPEG stays a JPEG (quality 95, no chroma subsampling), everything else becomes PNG.

    Raises:
        UserError: as `open_image`.
    """
    image, file_format = decode(data, what)
    if max(image.size) <= max_side:
        return (data if file_format in KEPT else encode_png(image)), image.width, image.height
    scale = max_side / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    if file_format not in ("JPEG", "MPO"):
        return encode_png(image), *size
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue(), *size


def encode_png(image: Image.Image) -> bytes:
    """The image as PNG bytes; equal images give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)  # on pages with grain half the time of the usual 6, and no larger
    return buffer.getvalue()


def decode(data: bytes, what: str = "image") -> tuple[Image.Image, str]:
    """The image as `open_image` gives it, and the format that its content has (`PNG`, `JPEG`, `GIF`, ...).

    Raises:
        UserError: as `open_image`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on damaged metadata and on size, which is judged here
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(f"{what}: {image.width}x{image.height} pixels; at most {MAX_PIXELS} are opened")
                file_format = image.format or ""
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image)), file_format
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{what}: more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow's decoders raise errors of every type on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        raise UserError(f"{what}: cannot be read ({reason})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow clips 16-bit grey at 255 instead of scaling it.
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")
