"""Augmented pictures: repeatable, never flipped, nothing lost, and boxes that go where their pixels go."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from shirg.data.augmentation import MAX_SIDE, Augmentation, augment_record
from shirg.data.images import encode_png
from shirg.data.records import Record, image_id
from shirg.data.render import render_page
from shirg.images import open_image

SEEDS = range(24)


def page(image: Image.Image, name: str = "s:1:0") -> Record:
    data = encode_png(image)
    return Record(name, data, image_id(data), "q", ("a",), "s", "l", *image.size)


def augmented(image: Image.Image, seed: int) -> tuple[Augmentation, np.ndarray]:
    """The choices and the picture, [H, W, 3] float."""
    chosen = Augmentation.draw(image.size, random.Random(seed))
    return chosen, np.asarray(open_image(chosen.image(image)), dtype=float)


def test_choices_follow_from_seed_epoch_and_record():
    one = page(Image.new("RGB", (30, 20), (200, 40, 0)))
    first = augment_record(one, seed=0, epoch=1)
    assert first == augment_record(one, seed=0, epoch=1)
    others = [augment_record(one, seed=1, epoch=1), augment_record(one, seed=0, epoch=2)]
    others.append(augment_record(page(one.open_image(), "s:2:0"), seed=0, epoch=1))
    assert len({first.image_id, one.image_id, *(other.image_id for other in others)}) == 5
    assert first.image_id == image_id(first.image)
    assert (first.question, first.answers, first.id, first.width, first.height) == ("q", ("a",), "s:1:0", 30, 20)


def test_never_a_flip():
    image = Image.new("RGB", (120, 90), "white")
    ImageDraw.Draw(image).rectangle((10, 10, 40, 25), fill="black")  # dark at the top left only
    for seed in SEEDS:
        _, pixels = augmented(image, seed)
        assert pixels.shape == (90, 120, 3)
        grey = pixels.mean(axis=2)
        dark = np.median(grey) - grey  # against the paper, whose brightness changes too
        assert dark[:45].sum() / dark.sum() > 0.6
        assert dark[:, :60].sum() / dark.sum() > 0.6


def test_boxes_go_where_their_pixels_go():
    """Coloured dots are found again at the middle of their moved boxes, near the corners too."""
    image = Image.new("RGB", (260, 200), "white")
    dots = [(22, 24), (232, 20), (240, 182), (22, 176), (130, 100)]
    colours = [(230, 0, 0), (0, 200, 0), (0, 0, 230), (200, 0, 200), (0, 190, 190)]
    for (x, y), colour in zip(dots, colours, strict=True):
        ImageDraw.Draw(image).ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour)
    boxes = [(x - 5.0, y - 5.0, x + 6.0, y + 6.0) for x, y in dots]
    moves = 0.0
    for seed in SEEDS:
        chosen, pixels = augmented(image, seed)
        for box, moved, colour in zip(boxes, chosen.boxes(boxes), colours, strict=True):
            near = _likeness(pixels, np.array(colour, dtype=float))
            rows, columns = np.indices(near.shape)
            found = (near * columns).sum() / near.sum() + 0.5, (near * rows).sum() / near.sum() + 0.5
            expected = (moved[0] + moved[2]) / 2, (moved[1] + moved[3]) / 2
            assert np.abs(np.subtract(found, expected)).max() < 0.7
            moves = max(moves, np.abs(np.subtract(box, moved)).max())
    assert moves > 4  # a test that would pass with boxes left where they are shows nothing


def _likeness(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """How much a pixel's colour is this one's, whatever its brightness; [H, W], 0 for paper."""
    ink = pixels.max(axis=2, keepdims=True) - pixels  # what is missing of white
    wanted = colour.max() - colour
    size = np.linalg.norm(ink, axis=2)
    angle = (ink @ wanted) / np.maximum(size * np.linalg.norm(wanted), 1e-9)
    return np.where((angle > 0.97) & (size > 90), 1.0, 0.0)


def test_words_of_a_page_stay_inside_their_boxes():
    drawn = render_page("form", 3, size=448, text_px=(9.0, 14.0), split="train")
    boxes = [word.box for word in drawn.words]
    covered = Image.new("L", (448, 448), 0)
    for box in boxes:
        ImageDraw.Draw(covered).rectangle(box, fill=255)
    only_words = Image.composite(drawn.image, Image.new("RGB", (448, 448), "white"), covered)
    for seed in range(6):
        chosen, pixels = augmented(only_words, seed)
        outside = np.ones(pixels.shape[:2], dtype=bool)
        for left, top, right, bottom in chosen.boxes(boxes):
            outside[max(int(top) - 2, 0) : int(bottom) + 3, max(int(left) - 2, 0) : int(right) + 3] = False
        paper = np.median(pixels.mean(axis=2))
        assert np.abs(pixels.mean(axis=2) - paper)[outside].max() < 60  # what JPEG leaves beside a word, no ink


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 10**6))
def test_nothing_leaves_the_picture(width: int, height: int, seed: int):
    chosen = Augmentation.draw((width, height), random.Random(seed))
    ((left, top, right, bottom),) = chosen.boxes([(0.0, 0.0, float(width), float(height))])
    assert max(chosen.size) <= MAX_SIDE and min(chosen.size) >= 1
    assert left >= -1e-6 and top >= -1e-6
    assert right <= chosen.size[0] + 1e-6 and bottom <= chosen.size[1] + 1e-6
    assert right - left >= 0.85 * chosen.size[0] and bottom - top >= 0.85 * chosen.size[1]


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([(1, 1), (1, 400), (3000, 2), (17, 5)]), st.integers(0, 100))
def test_odd_pictures(size: tuple[int, int], seed: int):
    chosen, pixels = augmented(Image.new("RGB", size, (90, 160, 30)), seed)
    assert pixels.shape == (chosen.size[1], chosen.size[0], 3)


@pytest.mark.parametrize("size", [(3000, 2000), (1600, 4000)])
def test_scans_become_as_large_as_views_can_show(size: tuple[int, int]):
    record = augment_record(page(Image.new("RGB", size, "white")), seed=0, epoch=0)
    assert max(record.width, record.height) == MAX_SIDE
    assert record.open_image().size == (record.width, record.height)
    assert record.width / record.height == pytest.approx(size[0] / size[1], rel=2e-3)
