"""Images nobody has vouched for: each is opened as upright RGB or refused with a reason."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shirg.data import images
from shirg.data.images import as_png_or_jpeg, encode_png, open_image, read_bytes, safe_relative
from shirg.errors import UserError


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def corners(width: int = 4, height: int = 2) -> Image.Image:
    """White with a red pixel at the top left."""
    image = Image.new("RGB", (width, height), "white")
    image.putpixel((0, 0), (255, 0, 0))
    return image


def test_png_comes_back_pixel_for_pixel():
    image = corners()
    assert open_image(encode_png(image)).tobytes() == image.tobytes()


def test_rotation_noted_in_exif_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    data = encoded(corners(), "PNG", exif=exif)
    upright = open_image(data)
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 0, 0)
    assert as_png_or_jpeg(data) == (data, 2, 4)


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert open_image(encode_png(clear)).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert open_image(encoded(palette, "PNG", transparency=0)).getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = Image.fromarray(np.array([[0, 32768], [65535, 257]], np.uint16))
    assert np.asarray(open_image(encode_png(grey)))[..., 0].tolist() == [[0, 128], [255, 1]]


@pytest.mark.parametrize(
    ("file_format", "mode", "kept"), [("GIF", "P", False), ("BMP", "RGB", False), ("JPEG", "CMYK", True)]
)
def test_any_format_becomes_png_or_jpeg(file_format: str, mode: str, kept: bool):
    data = encoded(corners(8, 8).convert(mode), file_format)
    result, width, height = as_png_or_jpeg(data)
    assert (width, height) == (8, 8)
    assert (result == data) is kept
    assert Image.open(io.BytesIO(result)).format in ("PNG", "JPEG")


def test_too_many_pixels_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch):
    bomb = encode_png(Image.new("L", (300, 300)))
    monkeypatch.setattr(images, "MAX_PIXELS", 300 * 300 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the image was decoded"))
    with pytest.raises(UserError, match="page 7: 300x300 pixels; at most 89999"):
        open_image(bomb, "page 7")


@pytest.mark.filterwarnings("error")
def test_pillows_own_limit_gives_the_same_kind_of_error():
    header = bytearray(encode_png(Image.new("1", (1, 1))))
    header[16:24] = (60_000).to_bytes(4, "big") * 2  # the size in the header; its checksum no longer fits
    with pytest.raises(UserError, match=r"pixels|cannot be read"):
        open_image(bytes(header))


@pytest.mark.parametrize("data", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_image_is_named(data: bytes):
    with pytest.raises(UserError, match=r"scan\.png: cannot be read \(not a PNG"):
        open_image(data, "scan.png")


def test_truncated_file_is_refused():
    data = encode_png(Image.effect_noise((64, 64), 80))
    with pytest.raises(UserError, match="cannot be read"):
        open_image(data[: len(data) // 2])


NOISE = {
    file_format: encoded(Image.effect_noise((24, 24), 60).convert("RGB"), file_format)
    for file_format in ("PNG", "JPEG")
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG"]), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8))
def test_flipped_bytes_open_or_raise_user_error(file_format: str, flips: list[tuple[float, int]]):
    data = bytearray(NOISE[file_format])
    for place, value in flips:
        data[round(place * (len(data) - 1))] = value
    try:
        assert open_image(bytes(data)).mode == "RGB"
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../up.png", "a/../../up.png", "C:\\up.png", "a\\..\\up.png", "", "\0"]
)
def test_names_that_leave_the_folder_are_refused(name: str):
    with pytest.raises(UserError, match="not a path inside the data folder"):
        safe_relative(name)


@given(st.text(max_size=20))
def test_a_safe_name_stays_below_its_folder(name: str):
    try:
        path = safe_relative(name)
    except UserError:
        return
    assert not path.is_absolute()
    assert ".." not in path.parts


def test_missing_and_huge_files_are_refused(tmp_path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="No such file"):
        read_bytes(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="not a file"):
        read_bytes(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="Is a directory"):
        read_bytes(tmp_path)
    (tmp_path / "big.png").write_bytes(b"123")
    monkeypatch.setattr(images, "MAX_BYTES", 2)
    with pytest.raises(UserError, match="3 bytes; at most 2"):
        read_bytes(tmp_path / "big.png")
