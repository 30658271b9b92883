"""Image files of data sets: names that stay in their folder, bounded reading, what is stored."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shirg.data import images
from shirg.data.images import as_png_or_jpeg, read_bytes, safe_relative
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


@pytest.mark.parametrize(
    ("file_format", "mode", "kept"), [("GIF", "P", False), ("BMP", "RGB", False), ("JPEG", "CMYK", True)]
)
def test_any_format_becomes_png_or_jpeg(file_format: str, mode: str, kept: bool):
    data = encoded(corners(8, 8).convert(mode), file_format)
    result, width, height = as_png_or_jpeg(data)
    assert (width, height) == (8, 8)
    assert (result == data) is kept
    assert Image.open(io.BytesIO(result)).format in ("PNG", "JPEG")


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
