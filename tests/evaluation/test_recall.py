"""Word recall, worked by hand on small grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.evaluation.recall import PageWords, empty_tiles, patch_cover, patches_of_box, word_recall

GRID, SIZE = (4, 5), (50, 40)  # patches of 10 x 10 pixels


def places(box, size=SIZE, grid=GRID) -> list[int]:
    return patches_of_box(box, size, grid).nonzero().flatten().tolist()


def test_cover_is_a_share_of_the_patch():
    # columns 1 to 3: 4, 10 and 1 of 10; rows 0 and 1: 5 and 2 of 10
    cover = patch_cover([(16, 5, 31, 12)], SIZE, GRID)[0].view(GRID)
    wanted = torch.zeros(GRID, dtype=torch.float64)
    wanted[0, 1:4] = torch.tensor([0.20, 0.50, 0.05])
    wanted[1, 1:4] = torch.tensor([0.08, 0.20, 0.02])
    torch.testing.assert_close(cover, wanted)


def test_a_word_needs_the_patches_it_covers_by_a_third():
    # row 1: all of column 1, 4 of 10 of column 2 (a third), 3 of 10 of column 0 (not)
    assert places((7, 10, 24, 20)) == [6, 7]


def test_a_third_to_the_bit_is_a_third():
    assert places((0, 0, 10, 10 / 3)) == [0]
    assert places((0, 0, 30, 10), (90, 40), (4, 3)) == [0]  # a patch of 30 and a box of 30


def test_a_thin_word_needs_its_row():
    # 3 px high: 0.3 of columns 0 to 2, 0.12 of column 3, less than half of that
    assert places((0, 4, 34, 7)) == [0, 1, 2]
    # 6 of 10 px of column 3 is 0.18: more than half of 0.3
    assert places((0, 4, 36, 7)) == [0, 1, 2, 3]


def test_a_thin_word_that_straddles_two_rows_needs_both():
    assert places((0, 8, 20, 12)) == [0, 1, 5, 6]  # 0.2 of each
    assert places((0, 9.5, 20, 12)) == [5, 6]  # 0.05 above, 0.2 below


def test_boxes_are_cut_off_at_the_page_and_empty_ones_need_nothing():
    assert places((-20, -20, 5, 10)) == [0]
    assert places((60, 0, 80, 10)) == [] and places((5, 5, 5, 9)) == []


def test_the_page_is_stretched_over_the_grid():
    assert places((0, 0, 100, 50), (400, 50), (1, 4)) == [0]


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.floats(0, 49), st.floats(0, 39), st.floats(0.5, 30), st.floats(0.5, 30)))
def test_a_box_on_the_page_needs_a_patch_and_only_such_as_it_touches(box):
    left, top, width, height = box
    edges = (left, top, left + width, top + height)
    needed = patches_of_box(edges, SIZE, GRID)
    cover = patch_cover([edges], SIZE, GRID)[0]
    assert needed.any() and cover[needed].min() > 0
    assert needed[cover >= 0.34].all() and needed[cover.argmax()]


def test_recall_by_hand():
    # Patches of 14 px: three words in a view of 56 x 56, the last one 7 px high
    boxes = [(0, 0, 28, 14), (28, 14, 56, 28), (0, 42, 14, 49)]
    words = PageWords.of(boxes, (56, 56), (4, 4))
    assert words.heights.tolist() == [14, 14, 7] and words.small.tolist() == [False, False, True]
    kept = torch.zeros(16, dtype=torch.bool)
    kept[[0, 1, 6, 12, 15]] = True  # all of word 0, half of word 1, all of word 2, and a blank patch
    result = word_recall(kept, words)
    assert result.found.tolist() == [True, False, True]
    assert result.recall == pytest.approx(2 / 3) and result.small_recall == 1
    assert result.precision == pytest.approx(4 / 5) and result.empty_tiles == 0


def test_heights_are_measured_in_the_view():
    # A page of 100 x 100 in a view of 4 x 4 patches, 56 px: 20 px are 11.2
    words = PageWords.of([(0, 0, 50, 20), (0, 50, 50, 72)], (100, 100), (4, 4))
    torch.testing.assert_close(words.heights, torch.tensor([11.2, 12.32], dtype=torch.float64))
    assert words.small.tolist() == [True, False]


def test_words_without_a_patch_are_left_out():
    words = PageWords.of([(0, 0, 10, 10), (60, 0, 70, 10)], SIZE, GRID)
    assert words.needed.shape == (1, 20) and words.small.shape == (1,)
    assert PageWords.of([], SIZE, GRID).needed.shape == (0, 20)


def test_a_page_without_words_has_no_recall():
    result = word_recall(torch.ones(20, dtype=torch.bool), PageWords.of([], SIZE, GRID))
    assert result.recall is None and result.small_recall is None and result.precision == 0


def test_tiles_are_four_by_four_and_cut_off_at_the_edge():
    # 5 x 9 patches: tiles of 4 and 1 rows by 4, 4 and 1 columns
    kept = torch.zeros(5, 9, dtype=torch.bool)
    kept[0, 0] = kept[3, 3] = kept[4, 8] = True
    assert empty_tiles(kept.flatten(), (5, 9)) == pytest.approx(4 / 6)


@pytest.mark.parametrize("kept", [torch.ones(19, dtype=torch.bool), torch.ones(20), torch.zeros(20, dtype=torch.bool)])
def test_what_is_no_selection_is_refused(kept):
    with pytest.raises(ValueError, match=r"kept must be \[20\] bool with a patch kept"):
        word_recall(kept, PageWords.of([(0, 0, 10, 10)], SIZE, GRID))


def test_recall_never_falls_when_more_is_kept():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 40, (30, 2))
    boxes = [(x, y, x + 8, y + 3) for x, y in corners]
    words = PageWords.of(boxes, SIZE, GRID)
    order = torch.from_numpy(rng.permutation(20))
    shares = []
    for number in range(1, 21):
        kept = torch.zeros(20, dtype=torch.bool)
        kept[order[:number]] = True
        shares.append(word_recall(kept, words).recall)
    assert shares == sorted(shares) and shares[-1] == 1 and shares[0] < 1
