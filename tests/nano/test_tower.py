"""What the tower is shown: crops and the positions they take."""

from __future__ import annotations

import itertools
import random

import torch

from shirg.nano.recipe.glyphs import CHARACTERS
from shirg.nano.recipe.tower import BLANK_WEIGHT, CROP_COLS, CROP_ROWS, POSITIONS, Crops, GlyphHeads, crop_positions


def test_crops_take_windows_of_the_table_that_is_trained():
    table = torch.arange(POSITIONS**2).float()[:, None]  # every patch's position is its number
    positions, places = crop_positions(table, 400, random.Random(0))
    rows, cols = positions[..., 0] // POSITIONS, positions[..., 0] % POSITIONS
    assert torch.allclose(places, torch.stack([rows + 0.5, cols + 0.5], -1) / POSITIONS)
    assert set(rows[:, 0].int().tolist()) == set(range(POSITIONS - CROP_ROWS + 1))
    assert (rows[:, -1] - rows[:, 0] == CROP_ROWS - 1).all() and (cols[:, -1] - cols[:, 0] == CROP_COLS - 1).all()


def test_crops_repeat_by_seed_and_fit_their_targets():
    first, again, other = (list(itertools.islice(Crops(seed), 4)) for seed in (3, 3, 4))
    assert all((one[0] == two[0]).all() for one, two in zip(first, again, strict=True))
    assert any((one[0] != two[0]).any() for one, two in zip(first, other, strict=True))
    pixels, characters, indices = first[0]
    assert pixels.shape == (CROP_ROWS * 14, CROP_COLS * 14, 3) and characters.shape == indices.shape == (8, 16, 4)


def test_mistaken_lookalikes_cost_more_than_others_and_blanks_least():
    heads = GlyphHeads(8, 10)
    weight = {character: heads.weights[number + 1].item() for number, character in enumerate(CHARACTERS)}
    assert weight["0"] == weight["O"] == weight["l"] == 2.0 and weight["A"] == weight["h"] == 1.0
    assert heads.weights[0].item() == torch.tensor(BLANK_WEIGHT).item()
