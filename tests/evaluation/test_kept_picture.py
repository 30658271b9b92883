"""The picture of a selection: what it shows is in its pixels, what it says in its words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from shirg.evaluation import kept_picture
from shirg.evaluation.kept_picture import MARGIN, Tally, draw_kept, save_picture
from shirg.gate import Kept

WHITE = Image.new("RGB", (100, 100), "white")


def kept_of(indices: list[int], clusters: list[int], summary: bool = True) -> Kept:
    assignment = torch.full((1, len(clusters)), -1)
    assignment[0, indices] = torch.arange(len(indices))
    return Kept(
        tokens=torch.zeros(1, len(indices) + summary, 4),
        indices=torch.tensor([indices]),
        scores=torch.zeros(1, len(clusters)),
        clusters=torch.tensor([clusters]),
        assignment=assignment,
    )


def merged_of(assignment: list[int]) -> Kept:
    count = len(assignment)
    return Kept(
        tokens=torch.zeros(1, max(assignment) + 2, 4),
        indices=None,
        scores=torch.zeros(1, count),
        clusters=torch.zeros(1, count, dtype=torch.long),
        assignment=torch.tensor([assignment]),
    )


def page_part(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """The pixels of the page, [H, W, 3], without frame and caption; `size` is that of the enlarged page."""
    left = (picture.width - size[0]) // 2
    return np.asarray(picture.crop((left, MARGIN, left + size[0], MARGIN + size[1]))).astype(int)


def middles(page: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The mean colour of the middle of every patch, [rows, columns, 3]."""
    height, width = page.shape[0] // rows, page.shape[1] // columns
    inner = page.reshape(rows, height, columns, width, 3)[:, height // 3 : -height // 3, :, width // 3 : -width // 3]
    return inner.mean(axis=(1, 3))


def test_kept_patches_are_as_they_were_and_dropped_ones_dim():
    shown = middles(page_part(draw_kept(WHITE, kept_of([1, 2], [0] * 4), (2, 2)), (1344, 1344)), 2, 2)
    assert (shown[0, 1] == 255).all() and (shown[1, 0] == 255).all()
    assert (shown[0, 0] < 160).all() and (shown[1, 1] < 160).all()


@pytest.mark.parametrize("grey", [60, 128, 255])
def test_dimming_is_darker_on_any_ground(grey):
    page = Image.new("RGB", (100, 100), (grey,) * 3)
    shown = middles(page_part(draw_kept(page, kept_of([0], [0] * 4), (2, 2)), (1344, 1344)), 2, 2)
    assert (shown[0, 0] == grey).all() and (shown[1, 1] < 0.7 * grey).all()


def test_dropped_colours_fade_towards_grey_while_kept_ones_stay():
    page = Image.new("RGB", (100, 100), (200, 40, 40))
    shown = middles(page_part(draw_kept(page, kept_of([0], [0] * 4), (2, 2)), (1344, 1344)), 2, 2)
    assert shown[0, 0].tolist() == [200, 40, 40]
    assert np.ptp(shown[1, 1]) < 25


def test_on_black_a_light_line_tells_kept_from_dropped():
    black = Image.new("RGB", (100, 100), "black")
    page = page_part(draw_kept(black, kept_of([0], [0] * 4), (2, 2)), (1344, 1344))
    assert (page[300, 672] > 120).all() and (page[672, 300] > 120).all()
    assert (page[300, 600] == 0).all() and (page[1000, 1000] == 0).all()


@pytest.mark.parametrize(("size", "drawn"), [((300, 600), (672, 1344)), ((600, 300), (1344, 672))])
def test_page_keeps_its_shape_and_patches_are_mapped_back(size, drawn):
    """Four columns and two rows of a page that was stretched to a square: patch 6 is in row 1, column 2."""
    picture = draw_kept(Image.new("RGB", size, "white"), kept_of([6], [0] * 8), (2, 4))
    bright = middles(page_part(picture, drawn), 2, 4).mean(axis=2) == 255
    assert np.argwhere(bright).tolist() == [[1, 2]]


def test_padding_is_shown_where_the_model_saw_it():
    """A page twice as wide as high, padded: of 4 x 4 patches the first and last rows are padding."""
    picture = draw_kept(Image.new("RGB", (200, 100), "white"), kept_of([0, 5], [0] * 16), (4, 4), fit="pad")
    shown = middles(page_part(picture, (1344, 1344)), 4, 4)
    assert (shown[0, 0] == 127).all() and (shown[1, 1] == 255).all()


def test_a_till_receipt_is_enlarged_until_it_is_legible():
    picture = draw_kept(Image.new("RGB", (100, 500), "white"), kept_of([0], [0] * 4), (2, 2))
    assert picture.width == kept_picture.LEAST_WIDTH + 2 * MARGIN and picture.height > 3360
    longest = draw_kept(Image.new("RGB", (10, 2000), "white"), kept_of([0], [0] * 4), (2, 2))
    assert longest.height < kept_picture.LONGEST_SIDE + 400


def test_borders_run_between_clusters_only():
    one = page_part(draw_kept(WHITE, kept_of([0, 1, 2, 3], [0] * 4), (2, 2)), (1344, 1344))
    two = page_part(draw_kept(WHITE, kept_of([0, 1, 2, 3], [0, 0, 1, 1]), (2, 2)), (1344, 1344))
    changed = (one != two).any(axis=2)
    assert changed[671].all() and changed.sum() == 1344


def test_merged_neighbours_have_different_tints_and_single_patches_none():
    kept = merged_of([0, 0, 1, 2, 3, 2, 4, 4, -1])
    shown = middles(page_part(draw_kept(WHITE, kept, (3, 3)), (1344, 1344)), 3, 3).round().astype(int)
    assert shown[0, 0].tolist() == shown[0, 1].tolist() and shown[1, 0].tolist() == shown[1, 2].tolist()
    assert len({tuple(shown[place]) for place in ((0, 0), (1, 0), (2, 0))}) == 3
    assert (shown[0, 2] == 255).all() and (shown[1, 1] == 255).all()
    assert (shown[2, 2] < 160).all()


def test_many_groups_never_touch_one_of_their_tint():
    groups = np.arange(20 * 20).reshape(20, 20) // 2
    tints = kept_picture._tints(groups)
    across = (groups[:, :-1] != groups[:, 1:]) & (tints[:, :-1] == tints[:, 1:])
    assert tints.min() >= 0 and not across.any() and not (tints[:-1] == tints[1:]).any()


@pytest.mark.parametrize(
    ("kept", "headline", "details"),
    [
        (kept_of([0], [0, 0, 1, 1]), "1 of 4 patches kept (25%)", "2 clusters, the other 3 in one summary token"),
        (kept_of([0], [0] * 4, summary=False), "1 of 4 patches kept (25%)", "The other 3 dropped"),
        (kept_of([0, 1, 2, 3], [0] * 4), "All 4 patches kept", "One more for the mean of all"),
        (
            kept_of(list(range(768)), [0] * 2304),
            "768 of 2,304 patches kept (33%)",
            "The other 1,536 in one summary token",
        ),
        (
            merged_of([0, 0, 1, -1]),
            "4 patches merged into 2 tokens (50%)",
            "1 tokens are single patches, 1 are means of several patches, the other 1 in one summary token",
        ),
        (
            merged_of([0, 0, 1, 1]),
            "4 patches merged into 2 tokens (50%)",
            "2 means of several patches, one more for the mean of all",
        ),
    ],
)
def test_caption_counts(kept, headline, details):
    tally = Tally.of(kept)
    assert (tally.headline(), tally.details()) == (headline, details)


def test_notes_are_wrapped_cut_and_take_any_script():
    strip = Image.new("RGB", (2000, 4), "white")  # whose picture is little more than its caption
    plain = draw_kept(strip, kept_of([0], [0] * 4), (2, 2))
    noted = [
        draw_kept(strip, kept_of([0], [0] * 4), (2, 2), notes=[text]).height - plain.height
        for text in ("short", "many words " * 200, "x" * 2000, "\u4e2d\u6587 \u0645\n$x_1^$", "")
    ]
    line = noted[0]
    assert line > 20 and noted == [line, 3 * line, 3 * line, line, 0]


def test_same_choice_same_bytes(tmp_path):
    page = Image.effect_noise((10, 900), 60).convert("RGB")
    files = [tmp_path / name for name in ("one.png", "two.png")]
    for file in files:
        save_picture(file, draw_kept(page, kept_of([0, 7], [0] * 6 + [1] * 6), (4, 3), notes=["Question: what?"]))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == files
