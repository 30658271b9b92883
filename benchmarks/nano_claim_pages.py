"""The held-out pages of `nano_claim.py` and what is asked about them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace

from nano_claim_tables import SMALL
from PIL import Image
from plain_pages import BANDS, page_of_band

from shirg.data import Record
from shirg.data.sources import Records
from shirg.nano.recipe import score
from shirg.nano.recipe.score import PageSet

DRAWINGS = ("rendered", "plain")
"""By `shirg.data.render`, and by `plain_pages.py`."""
SMALL_PRINT = PageSet(SMALL, 672, (8.0, 13.0), -2_000_001)
FIRST_BAND_PAGE = -4_000_001
"""Seed of the first rendered page of the smallest height of print; a million for every band."""


def asked(pages: PageSet, questions: int) -> Records:
    """At least `questions` questions about the pages."""
    found = Records()
    for number in range(-(-questions // score.QUESTIONS_PER_PAGE)):
        page = pages.page(number)
        some = [(one.question, one.answers, one.text_px) for one in pages.questions(page, number)]
        found += records_of(f"{pages.name} {number}", page.image, page.kind, some)
    return found


def heights(pages: int) -> Records:
    """Questions about `pages` pages of every height of print and drawing; these are the records' kind, "plain, 8-13 px"."""
    found = Records()
    for place, (low, high) in enumerate(BANDS):
        rendered, plain = (f"{drawing}, {low}-{high} px" for drawing in DRAWINGS)
        band = PageSet(rendered, SMALL_PRINT.size, (float(low), float(high)), FIRST_BAND_PAGE - 1_000_000 * place)
        found += [replace(one, kind=rendered) for one in asked(band, pages * score.QUESTIONS_PER_PAGE)]
        for number in range(pages):
            page, questions = page_of_band(low, high, number)
            some = [(question, (value,), 0.0) for question, value in questions]
            found += records_of(f"{plain} {number}", page.image, plain, some)
    return found


def records_of(
    name: str, image: Image.Image, kind: str, questions: Iterable[tuple[str, tuple[str, ...], float]]
) -> list[Record]:
    """Records of a page from (question, answers, height of print in pixels, 0 if unknown)."""
    data = io.BytesIO()
    image.save(data, "PNG")
    about = dict(image=data.getvalue(), image_id=name, width=image.width, height=image.height, kind=kind)
    about |= dict(source="rendered", licence="Apache-2.0", split="test")
    return [
        Record(id=f"{name}:{place}", question=question, answers=tuple(answers), text_px=text_px, **about)
        for place, (question, answers, text_px) in enumerate(questions)
    ]
