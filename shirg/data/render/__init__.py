"""Pages drawn with Pillow: documents, receipts, forms, tables and charts, with questions and their exact answers.

A page is a function of its kind, split and seed. Every word's box and every character's edges are known, so a page can
supervise a vision tower and test a model.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence

from PIL import Image

from shirg.data.pages import Page
from shirg.data.render.bars import compose_bar
from shirg.data.render.documents import compose_document
from shirg.data.render.fonts import HELD_OUT_FONTS
from shirg.data.render.forms import compose_form
from shirg.data.render.lexicon import QUESTION_TEMPLATES, QUESTION_WORDS, label_words
from shirg.data.render.lines import compose_line
from shirg.data.render.looks import choose_look, scan
from shirg.data.render.pies import compose_pie
from shirg.data.render.receipts import compose_receipt
from shirg.data.render.sheet import Sheet
from shirg.data.render.tables import compose_table
from shirg.data.render.values import SPLITS, Values, split_of
from shirg.errors import UserError

__all__ = [
    "HELD_OUT_FONTS", "KINDS", "QUESTION_TEMPLATES", "QUESTION_WORDS", "SPLITS", "contact_sheet", "label_words",
    "render_page", "split_of",
]  # fmt: skip

_COMPOSERS: dict[str, Callable[[Sheet], None]] = {
    "document": compose_document,
    "receipt": compose_receipt,
    "form": compose_form,
    "table": compose_table,
    "bar": compose_bar,
    "line": compose_line,
    "pie": compose_pie,
}
KINDS: tuple[str, ...] = tuple(_COMPOSERS)
_MONOSPACE = {"receipt": 0.5}
_FEWEST_QUESTIONS, _MOST_QUESTIONS, _ATTEMPTS = 4, 12, 12


def render_page(
    kind: str,
    seed: int,
    *,
    size: int = 672,
    text_px: tuple[float, float] = (6.0, 28.0),
    split: str = "train",
    strange: float = 0.0,
) -> Page:
    """Draw one page; the same arguments give the same page, pixel for pixel.

    Args:
        kind: one of `KINDS`.
        seed: any integer; pages of different splits differ even where their seeds are equal.
        size: side of the square page in pixels.
        text_px: smallest and largest font size on the page, in pixels of the page. Sizes above `size / 16` are not
            used; a page holds fewer fields the larger they are.
        split: one of `SPLITS`. Splits share label words and no value of four characters or more; "heldout" also has
            its own typefaces.
        strange: share of the fields' and columns' values that are random strings instead of their type, so that a
            model learns to read what is printed instead of what is likely.

    Returns:
        A page with 4 to 12 questions, in most cases 6 or more.

    Raises:
        UserError: for an unknown kind or split, or text too large or too small for the page.
    """
    _check(kind, size, text_px, split)
    for attempt in range(_ATTEMPTS):
        digest = hashlib.blake2b(f"{kind}/{split}/{seed}/{attempt}".encode(), digest_size=8).digest()
        rng = random.Random(int.from_bytes(digest, "big"))
        look = choose_look(rng, size, text_px, split, _MONOSPACE.get(kind, 0.1))
        sheet = Sheet(size, rng, look, Values(rng, split, strange))
        _COMPOSERS[kind](sheet)
        if len(sheet.questions) >= _FEWEST_QUESTIONS:
            chosen = sorted(rng.sample(range(len(sheet.questions)), min(len(sheet.questions), _MOST_QUESTIONS)))
            questions = [sheet.questions[index] for index in chosen]
            return Page(scan(sheet.image, rng, min(sheet.sizes)), sheet.words, questions, kind, seed)
    raise UserError(f"text_px={text_px} leaves no room for {_FEWEST_QUESTIONS} questions on a {kind} of size={size}")


def _check(kind: str, size: int, text_px: tuple[float, float], split: str) -> None:
    if kind not in KINDS:
        raise UserError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
    if split not in SPLITS:
        raise UserError(f"split={split!r} is not one of {', '.join(SPLITS)}")
    low, high = text_px
    if not 4 <= low <= high or low > size / 16:
        raise UserError(
            f"text_px={text_px} does not suit size={size}: it must be (smallest, largest) "
            f"with 4 <= smallest <= size / 16 = {size / 16:g}"
        )


def contact_sheet(pages: Sequence[Page], columns: int = 4, gap: int = 8) -> Image.Image:
    """The images of `pages` row by row, `gap` pixels apart on grey; each cell is as large as the largest page.

    Raises:
        UserError: if there is no page, or `columns` is below one.
    """
    if not pages or columns < 1:
        raise UserError(
            f"a contact sheet needs at least one page and one column; got {len(pages)} pages, columns={columns}"
        )
    width, height = max(p.image.width for p in pages), max(p.image.height for p in pages)
    rows = -(-len(pages) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), (128, 128, 128))
    for index, page in enumerate(pages):
        row, column = divmod(index, columns)
        sheet.paste(page.image, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet
