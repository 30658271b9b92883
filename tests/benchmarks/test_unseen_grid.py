"""What an adapter adds on an unseen grid: pages on a larger canvas, and the numbers made of their answers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import unseen_grid

MEASURES = tuple(unseen_grid.MEASURES)


def test_the_page_lies_in_the_corner_of_a_white_canvas():
    canvas = np.asarray(unseen_grid.on_canvas(Image.new("RGB", (3, 2), "black"), 5))
    assert canvas.shape == (5, 5, 3)
    assert (canvas[:2, :3] == 0).all() and canvas.sum() == 255 * 3 * (25 - 6)


def test_training_pages_have_names_by_which_the_trainer_shares_a_prefix():
    pages = unseen_grid.Pages("train", 2, 784)
    records = [pages[index] for index in range(len(pages))]
    assert [record.image_id for record in records] == pages.image_ids()
    assert {record.open_image().size for record in records} == {(784, 784)}
    assert max(pages.image_ids().count(name) for name in pages.image_ids()) <= unseen_grid.QUESTIONS_PER_PAGE


def test_what_an_adapter_adds_is_the_mean_over_questions_and_seeds():
    entries = [
        {"page": 0, **{measure: {"none 64": [0, 1], "seed 0 64": [1, 1], "seed 1 64": [1, 1]} for measure in MEASURES}},
        {"page": 1, **{measure: {"none 64": [0], "seed 0 64": [0], "seed 1 64": [1]} for measure in MEASURES}},
    ]
    for one in unseen_grid.summarise(entries, (0, 1), (64,)):
        assert one["questions"] == 3
        assert one["without"][0] == pytest.approx(1 / 3, abs=1e-5)
        assert one["with"][0] == pytest.approx((2 / 3 + 3 / 3) / 2, abs=1e-5)
        assert one["added"][0] == pytest.approx((1 / 3 + 2 / 3) / 2, abs=1e-5)
        assert [seed[0] for seed in one["added by seed"]] == pytest.approx([1 / 3, 2 / 3], abs=1e-5)
        mean, low, high = one["added"]
        assert 0 <= low < mean < high <= 1
