"""Targets of the tower by hand, and the sheets it learns on."""

from __future__ import annotations

import random

import numpy as np

from shirg.data.pages import Word
from shirg.data.render.values import allowed
from shirg.nano.recipe.glyphs import (
    CHARACTERS,
    IGNORE,
    LOOKALIKES,
    draw_sheet,
    glyph_targets,
    mistakable,
    moved,
    print_size,
)


def word(text: str, left: float, top: float, step: float) -> Word:
    edges = tuple(left + step * number for number in range(len(text) + 1))
    return Word(text, (left, top, edges[-1], top + 10), edges)


def test_characters_fall_into_the_patch_of_their_centre():
    # "abc" from x = 8, 6 px a letter: centres 11, 17, 23; patches are 14 px, so "a" is in column 0, "b" and "c" in column 1.
    # y runs from 20 to 30, its middle 25 is in row 1.
    targets = glyph_targets([word("abc", 8, 20, 6)], rows=2, cols=3)
    number = {character: index + 1 for index, character in enumerate(CHARACTERS)}
    assert targets.characters[1, 0].tolist() == [number["a"], 0, 0, 0]
    assert targets.characters[1, 1].tolist() == [number["b"], number["c"], 0, 0]
    assert targets.indices[1, 1].tolist() == [1, 2, IGNORE, IGNORE]
    assert not targets.characters[0].any() and not targets.characters[1, 2].any()


def test_moving_scales_first_and_then_shifts():
    there = moved(word("ab", 10, 20, 8), (0.5, 2.0), (1.0, 3.0))
    assert there.box == (4.0, 37.0, 12.0, 57.0)
    assert there.char_edges == (4.0, 8.0, 12.0)


def test_sheets_hold_words_of_training_pages_alone():
    words = {word.text for seed in range(5) for word in draw_sheet(seed, 384, 384, (9, 14))[1]}
    assert len(words) > 100 and all(allowed(text, "train") for text in words)


def test_sizes_of_print_reach_both_ends_and_lean_to_the_small():
    rng = random.Random(0)
    sizes = np.array([print_size(rng, (8.0, 40.0)) for _ in range(4000)])
    assert sizes.min() < 8.1 and 38 < sizes.max() < 40
    assert (
        0.46 < (sizes < 8 * 5 ** (0.5**1.5)).mean() < 0.54
    )  # half are below the 35th hundredth of the range, by ratio


def test_characters_are_exchanged_for_lookalikes_alone():
    rng, found = random.Random(0), set()
    for _ in range(200):
        changed = mistakable("0w", rng)
        found |= {changed}
        assert changed[0] in "0OoDQ" and changed[1] in "wW"
    assert len(found) == 10
    assert {mistakable("m~", rng) for _ in range(200)} == {"m~", "r~", "n~", "rn~"}
    assert all(character in CHARACTERS for group in LOOKALIKES for character in group)


def test_boxes_follow_a_sheet_that_is_shrunk_or_enlarged():
    """What differs from the colour of its row (of paper or of a band) is ink, and in the box of a word."""
    for seed in range(12):
        image, words = draw_sheet(seed, 224, 224, (12.0, 30.0))
        pixels = np.asarray(image).astype(float)
        ink = np.abs(pixels - np.median(pixels, axis=1, keepdims=True)).max(-1) > 60
        inside = np.zeros(ink.shape, bool)
        for one in words:
            left, top, right, bottom = one.box
            inside[max(0, int(top) - 1) : int(bottom) + 2, max(0, int(left) - 2) : int(right) + 3] = True
        assert ink.mean() > 0.03 and ink[inside].sum() > 0.97 * ink.sum()
