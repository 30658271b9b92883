"""Decoding of images: every mode and format becomes upright RGB, or is refused with a reason."""

from __future__ import annotations

import hashlib
import io
import logging
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shirg import images
from shirg.errors import UserError
from shirg.images import open_image, resize, to_rgb

EIGHT_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
FORMAT_MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("1", "L", "RGB", "CMYK", "YCbCr"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA", "L"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "LAB", "I", "F", "I;16", "I;16B"),
    "PPM": ("1", "L", "RGB", "I", "I;16", "F"),
}


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def corners(width: int = 4, height: int = 2) -> Image.Image:
    """White with a red pixel at the top left."""
    image = Image.new("RGB", (width, height), "white")
    image.putpixel((0, 0), (255, 0, 0))
    return image


def picture(mode: str) -> Image.Image:
    """Grey levels 0, 85, 170 and 255, as a picture of that mode shows them."""
    levels = np.array([[0, 85], [170, 255]])
    if mode == "F":
        return Image.fromarray((levels / 255).astype(np.float32))
    if mode == "I":
        return Image.fromarray(levels.astype(np.int32))
    if mode.startswith("I;16"):
        return Image.frombytes(mode, (2, 2), (levels * 257).astype(">u2" if mode.endswith("B") else "<u2").tobytes())
    grey = Image.fromarray(levels.astype(np.uint8))
    if mode == "PA":
        return grey.convert("P").convert("PA")
    through = {"La": "LA", "RGBa": "RGBA", "LAB": "RGB", "HSV": "RGB"}.get(mode)
    return (grey.convert(through) if through else grey).convert(mode)


def grey(image: Image.Image) -> list[int]:
    red, green, blue = np.asarray(image).reshape(-1, 3).T.astype(int)
    assert abs(red - green).max() <= 2 and abs(red - blue).max() <= 2
    return red.tolist()


def test_the_modes_tried_are_all_that_pillow_has():
    assert {*Image.MODES} == {*EIGHT_BIT, *DEEP}


@pytest.mark.parametrize("mode", [*EIGHT_BIT, *DEEP])
def test_a_picture_of_any_mode_shows_its_grey_levels(mode: str):
    rgb = to_rgb(picture(mode))
    assert rgb.mode == "RGB"
    if mode == "1":
        assert {*grey(rgb)} == {0, 255}
    else:
        assert np.abs(np.subtract(grey(rgb), [0, 85, 170, 255])).max() <= 2


@pytest.mark.parametrize(
    ("file_format", "mode"), [(name, mode) for name in FORMAT_MODES for mode in FORMAT_MODES[name]]
)
def test_files_and_pil_images_give_the_same_pixels(file_format: str, mode: str):
    data = encoded(picture(mode), file_format)
    of_bytes, of_image = open_image(data), to_rgb(opened(data))
    assert of_bytes.tobytes() == of_image.tobytes()
    if mode not in ("1", "LAB") and file_format not in ("JPEG", "WEBP", "GIF"):
        in_memory = np.asarray(to_rgb(picture(mode)), dtype=int)
        # A file of mode "I" may declare 16 bits, which the same values in memory do not.
        factor = 257 if mode == "I" and file_format in images.DEEP_INTEGERS else 1
        assert np.abs(np.asarray(of_bytes, dtype=int) - in_memory // factor).max() <= 2


def test_formats_are_those_that_are_named():
    assert tuple(FORMAT_MODES) == images.FORMATS


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 128, 255], np.int32), [0, 128, 255]),
        (np.array([0, 1], np.int32), [0, 1]),
        (np.array([0, 32768, 65535], np.int32), [0, 128, 255]),
        (np.array([-1000, 0, 1000], np.int32), [0, 128, 255]),
        (np.array([70_000, 70_000], np.int32), [0, 0]),
        (np.array([0, 0.5, 1], np.float32), [0, 128, 255]),
        (np.array([0, 128, 255], np.float32), [0, 128, 255]),
        (np.array([0, 257, 65535], np.float32), [0, 1, 255]),
        (np.array([-2, 0, 2], np.float32), [0, 128, 255]),
        (np.array([np.nan, 0.5, np.inf, -np.inf, 1], np.float32), [0, 128, 255, 0, 255]),
        (np.array([np.nan, np.nan], np.float32), [0, 0]),
        (np.array([0, 127, 128, 257, 32768, 32896, 65535], np.uint16), [0, 0, 0, 1, 128, 128, 255]),
        (np.array([0, 255], np.uint16), [0, 1]),
    ],
)
def test_deep_grey_worked_by_hand(values: np.ndarray, expected: list[int]):
    assert grey(to_rgb(Image.fromarray(values[None]))) == expected


def test_a_png_of_sixteen_bits_is_scaled_the_same_from_file_and_pil():
    data = encoded(Image.fromarray(np.array([[0, 32768], [65535, 257]], np.uint16)), "PNG")
    assert grey(open_image(data)) == grey(to_rgb(opened(data))) == [0, 128, 255, 1]


def tiff(values: np.ndarray, **tags: int) -> bytes:
    """A little-endian TIFF of one strip, with exactly these tags of TIFF 6.0."""
    pixels, (height, width) = values.tobytes(), values.shape
    entries = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    entries |= {279: len(pixels)} | {int(tag[1:]): value for tag, value in tags.items()}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return (
        b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(entries)) + directory + bytes(4)
    )


def test_a_tiffs_tags_have_precedence():
    sixteen = np.array([[0, 2048, 4095]], np.uint16)
    assert grey(open_image(tiff(sixteen))) == [0, 8, 16]
    assert grey(open_image(tiff(sixteen, t280=0, t281=4095))) == [0, 128, 255]
    assert grey(open_image(tiff(sixteen, t280=2048, t281=4095))) == [0, 0, 255]
    assert grey(open_image(tiff(sixteen * 16, t262=0))) == [255, 127, 0]  # white is zero
    assert grey(open_image(tiff(np.array([[0, 1, 2]], np.uint32), t281=2, t280=0))) == [0, 128, 255]
    packed = np.array([[0x00, 0x08, 0x00, 0xFF, 0xF0, 0x00]], np.uint8)  # 0, 2048, 4095, 0 in 12 bits each
    assert grey(open_image(tiff(packed, t256=4, t258=12))) == [0, 128, 255, 0]


def test_transparent_pages_lie_on_white():
    page = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    page.putpixel((1, 0), (10, 20, 30, 255))
    assert [to_rgb(page).getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (10, 20, 30)]
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert open_image(encoded(palette, "PNG", transparency=0)).getpixel((1, 1)) == (255, 255, 255)
    deep = Image.fromarray(np.array([[0, 257, 65535]], np.uint16))
    deep.info["transparency"] = 257
    assert grey(to_rgb(deep)) == [0, 255, 255]


def test_transparency_that_cannot_be_read_is_ignored_with_a_note(caplog: pytest.LogCaptureFixture):
    image = corners()
    image.info["transparency"] = "junk"
    assert to_rgb(image, "page 7").getpixel((0, 0)) == (255, 0, 0)
    assert "page 7: its transparency cannot be read" in caplog.text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_obeyed_once(orientation: int):
    turned = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what undoes it, by EXIF 2.3, table 6
    image = corners()
    stored = image if turned[orientation] is None else image.transpose(Image.Transpose(turned[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif)
    for found in (open_image(data), to_rgb(opened(data)), to_rgb(to_rgb(opened(data)))):
        assert found.size == image.size and found.tobytes() == image.tobytes()


JUNK = [b"Exif\0\0http://ns.adobe.com/", b"junk", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", JUNK)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_malformed_exif_is_no_fault_of_the_pixels(file_format: str, exif: bytes, caplog: pytest.LogCaptureFixture):
    data = encoded(Image.new("RGB", (9, 9), "white"), file_format, dpi=(72, 72), exif=exif)
    with caplog.at_level(logging.WARNING):
        assert open_image(data, "a.jpg").size == to_rgb(opened(data), "b").size == (9, 9)
    if exif == JUNK[0]:
        assert [message.partition(" (")[0] for message in caplog.messages] == [
            "a.jpg: its EXIF cannot be read",
            "b: its EXIF cannot be read",
        ]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


@pytest.mark.parametrize(
    ("file_format", "junk"),
    [
        ("PNG", chunk(b"gAMA", b"1")),
        ("PNG", chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**21)))),  # a large profile, and sound
        ("PNG", chunk(b"iCCP", b"a\0\7")),
        ("PNG", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)))),
        ("PNG", chunk(b"acTL", b"1")),
        ("PNG", chunk(b"tEXt", b"a\0b")[:-1] + b"\0"),
        ("JPEG", segment(0xE0, b"JFIF\0")),
        ("JPEG", segment(0xE2, b"ICC_PROFILE\0")),
        ("JPEG", segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed")),
        ("JPEG", segment(0xEE, b"Adobe")),
    ],
)
def test_other_damaged_metadata_is_ignored_with_a_note(file_format: str, junk: bytes, caplog: pytest.LogCaptureFixture):
    exif = Image.Exif()
    exif[0x0112] = 3
    sound = encoded(corners(16, 8), file_format, exif=exif)
    start = 33 if file_format == "PNG" else 2  # after the header
    found = open_image(sound[:start] + junk + sound[start:], "page 7")
    assert found.tobytes() == open_image(sound).tobytes()
    assert "page 7: cannot be read" in caplog.text and "its metadata is damaged and is ignored" in caplog.text


def test_a_jpeg_keeps_its_colour_transform_without_its_metadata():
    cmyk = bytearray(encoded(corners(16, 8).convert("CMYK"), "JPEG"))
    cmyk[cmyk.index(b"Adobe") + 11] = 2  # YCCK, as Photoshop writes it; nothing but this byte tells it from CMYK
    sound = bytes(cmyk)
    damaged = sound[:2] + segment(0xE2, b"ICC_PROFILE\0") + sound[2:]
    assert open_image(damaged).tobytes() == open_image(sound).tobytes()


def recorded(size: tuple[int, int], target: tuple[int, int]) -> str:
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    values = np.stack([(columns * rows * factor + columns) % 256 for factor in (1, 3, 7)], axis=-1).astype(np.uint8)
    return hashlib.sha256(resize(Image.fromarray(values), target).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("size", "target", "digest"),
    [
        ((230, 800), (384, 384), "48b26cb670afa7b2"),  # 011e8e931c5a7e48 by `Image.resize` of Pillow 12.3
        ((700, 260), (384, 384), "e9db1582208d8adb"),
        ((500, 900), (384, 384), "779636331189c3fe"),
        ((900, 1200), (384, 384), "1f84c3623cb0a186"),
        ((900, 500), (384, 200), "1f2cfe7f8572cdd0"),
        ((60, 40), (100, 30), "3206d537dc4df3f3"),
    ],
)
def test_pixels_of_a_resized_image_are_those_of_the_recordings(size, target, digest):
    """Recorded with `Image.resize` of Pillow 13.0.0, whose order of passes other versions do not have."""
    assert recorded(size, target) == digest
    assert images.resized_pattern() == images.RESIZED


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch):
    class Huge(Image.Image):
        size = (20_000, 20_000)

    with pytest.raises(UserError, match="page 7: 20000x20000 pixels; at most 80000000"):
        to_rgb(Huge(), "page 7")
    with pytest.raises(UserError, match="0x3"):
        to_rgb(Image.new("RGB", (0, 3)))
    with pytest.raises(UserError, match="ndarray"):
        to_rgb(np.zeros((3, 3)))
    bomb = encoded(Image.new("L", (300, 300)), "PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", 300 * 300 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the image was decoded"))
    with pytest.raises(UserError, match="page 7: 300x300 pixels; at most 89999"):
        open_image(bomb, "page 7")


@pytest.mark.filterwarnings("error")
def test_pillows_own_limit_gives_the_same_kind_of_error():
    header = bytearray(encoded(Image.new("1", (1, 1)), "PNG"))
    header[16:24] = (60_000).to_bytes(4, "big") * 2  # the size in the header; its checksum no longer fits
    with pytest.raises(UserError, match=r"pixels|cannot be read"):
        open_image(bytes(header))


@pytest.mark.parametrize("data", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_other_data_is_refused(data: bytes):
    with pytest.raises(UserError, match=r"scan\.png: cannot be read \(not a PNG"):
        open_image(data, "scan.png")


def test_a_truncated_file_is_refused_from_file_and_pil():
    data = encoded(Image.effect_noise((64, 64), 80), "PNG")
    for door in (open_image, lambda cut: to_rgb(opened(cut))):
        with pytest.raises(UserError, match="cannot be read"):
            door(data[: len(data) // 2])


NOISE = {
    name: encoded(Image.effect_noise((24, 24), 60).convert("RGB"), name) for name in ("PNG", "JPEG", "TIFF", "GIF")
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(NOISE)), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8))
def test_flipped_bytes_open_or_raise_user_error(file_format: str, flips: list[tuple[float, int]]):
    data = bytearray(NOISE[file_format])
    for place, value in flips:
        data[round(place * (len(data) - 1))] = value
    try:
        assert open_image(bytes(data)).mode == "RGB"
    except UserError as error:
        assert "\n" not in str(error)
