"""Image files of data sets: safe paths, bounded reading, PNG or JPEG bytes."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image

from shirg.errors import UserError
from shirg.images import decode

MAX_BYTES = 256 * 2**20
"""Largest image file that is read into memory."""

KEPT = ("PNG", "JPEG", "MPO")
"""Formats whose files are stored unchanged. MPO is a JPEG file followed by more images."""


def safe_relative(name: str) -> PurePosixPath:
    """`name` from a data set's record as a path that cannot leave the data folder. Symbolic links are followed.

    Raises:
        UserError: if the name is empty, absolute or contains `..`.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or "\0" in name:
        raise UserError(f"image {name!r}: not a path inside the data folder; use one like 'images/0001.png'")
    return path


def check_file(path: Path) -> None:
    """Raise `UserError` if there is no file at `path`, or one of more than `MAX_BYTES`."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"image {path}: {error.strerror or error}") from error
    if not path.is_file() and not path.is_dir():  # a pipe or a device may never end
        raise UserError(f"image {path}: not a file")
    if size > MAX_BYTES:
        raise UserError(f"image {path}: {size} bytes; at most {MAX_BYTES} are read")


def read_bytes(path: Path) -> bytes:
    """The content of an image file of at most `MAX_BYTES`.

    Raises:
        UserError: if the file is missing, unreadable or larger.
    """
    check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"image {path}: {error.strerror or error}") from error


def as_png_or_jpeg(data: bytes, what: str = "image") -> tuple[bytes, int, int]:
    """Decode an image and return (bytes, width, height) of its upright form.

    PNG and JPEG files keep their bytes; other formats become PNG.

    Raises:
        UserError: as `shirg.images.open_image`.
    """
    return shrunk(data, None, what)


def shrunk(data: bytes, max_side: int | None, what: str = "image") -> tuple[bytes, int, int]:
    """As `as_png_or_jpeg`; an image whose longer side is above `max_side` is shrunk to it.

    A shrunk JPEG stays a JPEG (quality 95, no chroma subsampling), everything else becomes PNG.

    Raises:
        UserError: as `shirg.images.open_image`.
    """
    image, file_format = decode(data, what)
    if max_side is None or max(image.size) <= max_side:
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
    image.save(
        buffer, "PNG", compress_level=3
    )  # level 6, the default, takes twice as long and is no smaller on noisy pages
    return buffer.getvalue()
