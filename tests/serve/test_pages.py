"""Images and PDF pages of requests."""

from __future__ import annotations

import io

import numpy as np
import pytest

pytest.importorskip("pypdfium2", reason="shirg serve needs the extra `serve`")

from hypothesis import given
from hypothesis import strategies as st

from shirg.errors import UserError
from shirg.serve.pages import PDF_SIDE, ImageFile, data_uri
from tests.serve import running
from tests.tiny import tiny_page


def pdf(pages: int) -> bytes:
    buffer = io.BytesIO()
    tiny_page().save(buffer, "PDF", save_all=True, append_images=[tiny_page()] * (pages - 1))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_formats(kind):
    opened = data_uri(running.data_uri(tiny_page(), kind), "page").open(10**6)
    difference = np.abs(np.asarray(opened).astype(int) - np.asarray(tiny_page()).astype(int)).mean()
    assert opened.size == (300, 200) and difference < (0.01 if kind == "PNG" else 4)


def test_a_page_of_a_pdf_is_rendered():
    opened = ImageFile(pdf(1), "page").open(10**6)
    assert opened.size == (PDF_SIDE, PDF_SIDE * 200 // 300)
    small = np.asarray(opened.resize((300, 200))).astype(int)
    assert np.abs(small - np.asarray(tiny_page()).astype(int)).mean() < 6


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pdf(2), "page: the PDF has 2 pages; send one page"),
        (b"%PDF-1.7 nothing", "page: the PDF cannot be read"),
        (b"GIF89a", "page: is no PNG, JPEG, WebP or PDF file"),
        (running.encoded(tiny_page())[:300], "page: cannot be read"),
        (b"", "page: is no PNG"),
    ],
)
def test_what_cannot_be_opened(data, words):
    with pytest.raises(UserError) as caught:
        ImageFile(data, "page").open(10**6)
    assert str(caught.value).startswith(words) and "0x" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["data:image/png;base64", "data:image/png,AAAA", "data:;base64,A\u00e9", "page.png", ""]
)
def test_what_is_no_data_uri(url):
    with pytest.raises(UserError, match=r"^page: "):
        data_uri(url, "page")


@given(st.binary(max_size=60))
def test_any_bytes_survive_the_uri(data):
    assert data_uri(running.data_uri(data), "page").data == data


@given(st.binary(max_size=200), st.sampled_from([b"", b"%PDF-1.4\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF"]))
def test_damaged_files_are_mistakes_of_the_user(data, start):
    with pytest.raises(UserError, match="^page: "):
        ImageFile(start + data, "page").open(10**6)
