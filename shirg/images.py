"""Decoding of images: bytes of a file, or a PIL image of any mode, become upright RGB of 8 bits.

PIL is imported in functions, since models and their costs need no PIL.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from shirg.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

logger = logging.getLogger(__name__)

MAX_PIXELS = 80_000_000
"""Largest width x height that is decoded (240 MB as RGB), below Pillow's own warning at 89 million."""

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""Recognised by content, not by file name. Without PostScript, which Pillow passes to another program."""

WHITE_IS_ZERO, BITS_PER_SAMPLE, RANGES = 262, 258, ((280, 281), (340, 341))
"""TIFF 6.0's tags: PhotometricInterpretation, BitsPerSample, and the pairs MinSampleValue, MaxSampleValue and
SMinSampleValue, SMaxSampleValue."""

PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
"""Chunks of a PNG that determine its pixels and orientation."""

RESIZED = "5cdec09464e73245cc2807c8ab2e60923594b4242397bdf630f7684c6341188f"
"""Result of `resized_pattern` with Pillow 13.0.0, with which the official outputs were recorded, and with 9.5 to 12.3."""

DEEP_INTEGERS = ("PNG", "PPM")
"""Formats whose grey values Pillow scales to 16 bits in mode "I"."""


def open_image(data: bytes, what: str = "image") -> Image.Image:
    """Decode the bytes of an image file as an upright RGB image of 8 bits; see `to_rgb`.

    Args:
        data: content of a PNG, JPEG, GIF, WebP, BMP, TIFF or PPM file; of several frames the first is used.
        what: name of the image in messages.

    Raises:
        UserError: if the data is no such image, is damaged, or has more than `MAX_PIXELS` pixels.
    """
    return decode(data, what)[0]


def decode(data: bytes, what: str = "image") -> tuple[Image.Image, str]:
    """The image as of `open_image`, and the format of its content (`PNG`, `JPEG`, `MPO`, `GIF`, ...).

    A PNG or JPEG file whose metadata Pillow cannot read is read without metadata, with a warning.

    Raises:
        UserError: as `open_image`.
    """
    try:
        return _decode(data, what)
    except UserError as error:
        bare = without_metadata(data)
        if len(bare) == len(data):
            raise
        try:
            found = _decode(bare, what)
        except UserError:
            raise error from None
        logger.warning("%s; its metadata is damaged and is ignored", error)
        return found


def without_metadata(data: bytes) -> bytes:
    """A PNG or JPEG file without the chunks or segments that do not determine its pixels or orientation; others unchanged.

    Removed are texts, profiles, densities and animation of PNG (whose first frame is the image), and comments and application
    segments of JPEG except EXIF (APP1) and Adobe's colour transform (APP14).
    """
    if data.startswith(PNG_START):
        kept, place = [PNG_START], len(PNG_START)
        while place < len(data):
            end = place + 12 + int.from_bytes(data[place : place + 4])
            if data[place + 4 : place + 8] in PNG_CHUNKS:
                kept.append(data[place:end])
            place = end
        return b"".join(kept)
    if not data.startswith(JPEG_START):
        return data
    kept, place = [JPEG_START], len(JPEG_START)
    while place + 3 < len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:  # up to the start of the scan
        marker, end = data[place + 1], place + 2 + int.from_bytes(data[place + 2 : place + 4])
        is_exif = data[place + 4 : place + 10] == b"Exif\0\0"
        adobe = marker == 0xEE and end - place >= 16
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or is_exif or adobe:
            kept.append(data[place:end])
        place = end
    return b"".join([*kept, data[place:]])


def _decode(data: bytes, what: str) -> tuple[Image.Image, str]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata, and about size, which is checked here
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return to_rgb(image, what), image.format or ""
    except UserError:
        raise
    except UnidentifiedImageError as error:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise UserError(f"{what}: cannot be read (not a {known} file)") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{what}: more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow's readers raise errors of every type on damaged bytes
        raise UserError(f"{what}: cannot be read ({_reason(error)})") from error


def to_rgb(image: Image.Image, what: str = "image") -> Image.Image:
    """An upright RGB copy [H, W, 3] of 8 bits, without metadata, of a PIL image of any mode.

    The orientation tag of EXIF is applied. Transparent pixels are composited on white, since their hidden colour is mostly black,
    as is the text. Grey values of more than 8 bits are scaled, see `grey_range`. Unreadable metadata is ignored with a warning.

    Args:
        what: name of the image in messages.

    Raises:
        UserError: if it is no PIL image, is empty, damaged, or has more than `MAX_PIXELS` pixels.
    """
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise UserError(f"{what} must be a PIL image; got a {type(image).__name__}")
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise UserError(f"{what}: {width}x{height} pixels; at most {MAX_PIXELS} are opened, and at least 1")
    try:
        image.load()
        turn = _turn(image, what)
        rgb = _on_white(_eight_bits(image), what).convert("RGB")
        upright = rgb if turn is None else rgb.transpose(turn)
    except Exception as error:  # Pillow decodes late and raises errors of every type on damaged files
        raise UserError(f"{what}: cannot be read ({_reason(error)})") from error
    upright.info = {}  # without the orientation tag, which a second call would apply again
    return upright


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at `size` (width, height), bicubic, with the pixels of Pillow 13 for every installed version.

    Pillow filters rows and columns separately and rounds to 8 bits between. Versions differ in the order, and so by up to 8 grey
    levels. The order below gives the pixels of `Image.resize` in 13.0.0 (tested with 3,000 sizes) also with 9.5 to 12.3.
    """
    from PIL import Image

    lost = image.height - size[1]
    columns_first = lost > max(0, 2 * (image.width - size[0]))
    halfway = (image.width, size[1]) if columns_first else (size[0], image.height)
    return image.resize(halfway, Image.Resampling.BICUBIC).resize(size, Image.Resampling.BICUBIC)


def resized_pattern() -> str:
    """SHA-256 of a pattern after `resize` with both orders of passes; equal to `RESIZED` if the pixels are the recorded ones."""
    from PIL import Image

    columns, rows = np.meshgrid(np.arange(230), np.arange(800))
    values = np.stack([(columns * rows * factor + columns) % 256 for factor in (1, 3, 7)], axis=-1)
    pattern = Image.fromarray(values.astype(np.uint8))
    views = (resize(image, (384, 384)) for image in (pattern, pattern.transpose(Image.Transpose.TRANSPOSE)))
    return hashlib.sha256(b"".join(view.tobytes() for view in views)).hexdigest()


def grey_range(image: Image.Image) -> tuple[float, float]:
    """The values of black and white in an image of mode "I", "F", or "I;16" and its variants.

    Declared ranges have precedence: TIFF's tags MinSampleValue and MaxSampleValue, then 0 to 2^bits - 1 for unsigned integers of
    up to 16 bits. Otherwise it is the first of 0 to 1 (floats only), 0 to 255 and 0 to 65535 that contains all values, else the
    smallest and the largest value.
    """
    tags: Any = getattr(image, "tag_v2", None) or {}
    for low, high in ((_number(tags.get(first)), _number(tags.get(last))) for first, last in RANGES):
        if low is not None and high is not None and low < high:
            return low, high
    if image.mode.startswith("I;16"):
        return 0, 2 ** min(int(_number(tags.get(BITS_PER_SAMPLE)) or 16), 16) - 1
    if image.mode == "I" and image.format in DEEP_INTEGERS:
        return 0, 65535
    values = np.asarray(image)
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    usual = (1, 255, 65535) if image.mode == "F" else (255, 65535)
    return next(((0.0, float(white)) for white in usual if least >= 0 and most <= white), (least, most))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as "L", or as "LA" if one value is declared transparent; other modes unchanged."""
    from PIL import Image

    if image.mode == "La":  # Pillow converts it to "LA" only
        return image.convert("LA")
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    low, high = grey_range(image)
    values = np.asarray(image).astype(np.float64)
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * (255 / max(high - low, 1e-300))
    grey = np.floor(scaled.clip(0, 255) + 0.5).astype(np.uint8)
    if (getattr(image, "tag_v2", None) or {}).get(WHITE_IS_ZERO) == 0:
        grey = 255 - grey
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return Image.fromarray(grey)
    opaque: NDArray[np.uint8] = np.where(values == clear, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(opaque)))


def _on_white(image: Image.Image, what: str) -> Image.Image:
    from PIL import Image

    if not image.has_transparency_data:
        return image
    try:
        layer = image.convert("RGBA")
    except Exception as error:
        logger.warning("%s: its transparency cannot be read (%s) and is ignored", what, _reason(error))
        image = image.copy()
        image.info.pop("transparency", None)
        return image
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def _turn(image: Image.Image, what: str) -> Image.Transpose | None:
    """The transposition of the EXIF orientation tag, or None."""
    from PIL import ExifTags, Image

    try:
        tag = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # malformed EXIF gives SyntaxError, struct.error, ValueError, ...
        logger.warning("%s: its EXIF cannot be read (%s) and is ignored; taken as upright", what, _reason(error))
        return None
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return turns.get(tag) if isinstance(tag, int) else None


def _number(tag: Any) -> float | None:
    """A tag's value; the first one if there is one per channel."""
    first = tag[0] if isinstance(tag, tuple) and tag else tag
    try:
        return float(first)
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
