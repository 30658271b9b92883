"""What the outside reader is shown, and how its readings count; the engine itself is an extra and is not needed here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import shirg
from shirg.data.pages import Word


@pytest.fixture(scope="module")
def legibility():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(shirg.__file__).resolve().parents[1] / "benchmarks"))
        import legibility
    return legibility


def test_dropped_patches_take_the_median_colour_and_kept_ones_stay(legibility):
    view = np.full((28, 42, 3), 200, np.uint8)
    view[2:5, 2:5] = view[16:20, 30:40] = 10
    seen = legibility.painted(view, torch.tensor([True, False, False, False, False, False]), (2, 3))
    assert (seen[2:5, 2:5] == 10).all() and (seen[16:20, 30:40] == 200).all()
    assert (seen == view).all(axis=2).sum() == 28 * 42 - 4 * 10


def test_a_line_regains_the_shape_that_it_has_on_the_page(legibility):
    """A page of 1400 x 700 px in a view of 70 x 70: a box of 400 x 80 px is 20 x 8 px there, 24 x 12 with the margin, which is
    480 x 120 px of the page and so 192 x 48."""
    view = np.zeros((70, 70, 3), np.uint8)
    assert legibility.cut_line(view, (200, 200, 600, 280), (1400, 700)).size == (192, 48)


def test_pixels_of_the_tower_are_the_picture_again(legibility):
    picture = torch.randint(0, 256, (6, 5, 3), dtype=torch.uint8)
    pixels = (picture.permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
    assert (legibility.as_image(pixels) == picture.numpy()).all()


def test_words_of_one_row_are_a_line_in_reading_order(legibility):
    """Printed as receipts are: the item, its price, then the count before it; the next row is half a line lower."""
    words = [
        Word(text, box, ())
        for text, box in (
            ("Tea", (20, 10, 40, 18)),
            ("$2", (90, 11, 99, 20)),
            ("3", (5, 10, 9, 18)),
            ("Tax", (5, 17, 20, 25)),
        )
    ]
    assert legibility.printed_lines(words) == [("3 Tea $2", (5, 10, 99, 20)), ("Tax", (5, 17, 20, 25))]


def test_spaces_and_case_do_not_count_and_the_same_line_is_read_once(legibility):
    image = Image.new("RGB", (140, 140), "white")
    page = legibility.BoxedPage("a", image, ((0, 0, 70, 14), (0, 28, 70, 42)), ("Total  RM", "12.50"))
    asked = []

    def read(line: Image.Image) -> str:
        asked.append(line)
        return "TOTAL RM" if np.asarray(line).min() < 255 else "12.5"

    view = np.asarray(image).copy()
    view[0:14:2, 0:70:2] = 0
    reading = legibility.Reading(read, page, (0, 1), view)
    assert reading.scores(view) == [(1.0, 1.0), (0.0, 0.8)]  # one of five characters is missing
    assert reading.scores(view) == [(1.0, 1.0), (0.0, 0.8)] and len(asked) == 2
