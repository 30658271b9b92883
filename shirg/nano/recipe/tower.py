"""Stage one: the tower learns to read, with the characters on every patch as dense targets.

Crops of text sheets cost a fifth of whole pages and teach as much; each crop takes its positions from a random window of
the 27x27 table. Positions of larger grids are never seen, as in SigLIP's training.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from shirg.data.pages import Word
from shirg.nano.recipe.geometry import POSITIONS, VISION
from shirg.nano.recipe.glyphs import (
    CHARACTERS,
    IGNORE,
    LOOKALIKES,
    MAX_INDEX,
    NUM_CLASSES,
    PATCH,
    SLOTS,
    draw_sheet,
    glyph_targets,
    moved,
)
from shirg.nano.recipe.stage import Curve, Stage, batches, optimizer_step, optimizers

CROP_ROWS, CROP_COLS = 8, 16  # patches: 112 x 224 px holds several whole words
SHEET_CROPS = (4, 2)  # crops down and across one sheet
SHUFFLED_SHEETS = 6  # whose crops are shown in random order
TEXT_PX = (7.5, 46.0)  # a page with print of 8 to 40 px at 672 px, seen as tiles of a canvas of 768 px
BLANK_WEIGHT, LOOKALIKE_WEIGHT = 0.15, 2.0  # three patches of four are blank
POSITION_FREQUENCIES = 8


def new_tower() -> SiglipVisionModel:
    """The tower as LaViDa uses it: the last layer of the configuration is not built."""
    config = SiglipVisionConfig(**(VISION | {"num_hidden_layers": VISION["num_hidden_layers"] - 1}))
    return SiglipVisionModel(config)


class GlyphHeads(nn.Module):
    """Linear read-outs of the tower's raw output, for training only: characters, their indices, the place on the page, and
    (on whole words) which word of the vocabulary is there."""

    weights: Tensor
    """Of every character's class in the loss."""

    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        alike = {character for group in LOOKALIKES for character in group}
        weights = [LOOKALIKE_WEIGHT if character in alike else 1.0 for character in CHARACTERS]
        self.register_buffer("weights", torch.tensor([BLANK_WEIGHT, *weights]), persistent=False)
        self.words = nn.Linear(width, vocabulary)
        self.characters = nn.Linear(width, SLOTS * NUM_CLASSES)
        self.indices = nn.Linear(width, SLOTS * MAX_INDEX)
        self.position = nn.Linear(width, 4 * POSITION_FREQUENCIES)

    def loss(self, hidden: Tensor, characters: Tensor, indices: Tensor, positions: Tensor) -> tuple[Tensor, float]:
        """Loss and share of right characters; hidden [B, N, D], targets [B, N, SLOTS], positions [B, N, 2] in 0..1."""
        logits = self.characters(hidden).unflatten(-1, (SLOTS, NUM_CLASSES))
        weight = self.weights[characters]
        glyph = F.cross_entropy(logits.flatten(0, 2).float(), characters.flatten(), reduction="none")
        glyph = (glyph * weight.flatten()).sum() / weight.sum()
        order = self.indices(hidden).unflatten(-1, (SLOTS, MAX_INDEX)).flatten(0, 2).float()
        index = F.cross_entropy(order, indices.flatten(), ignore_index=IGNORE)
        place = F.mse_loss(self.position(hidden).float(), fourier(positions))
        there = characters > 0
        right = (logits.argmax(-1)[there] == characters[there]).float().mean().item()
        return glyph + 0.5 * index + place, right

    def word_loss(self, hidden: Tensor, words: Tensor) -> Tensor:
        """hidden [B, N, D]; words [B, N], ids of the tokenizer, IGNORE where there is none."""
        return F.cross_entropy(self.words(hidden).flatten(0, 1).float(), words.flatten(), ignore_index=IGNORE)


def fourier(positions: Tensor) -> Tensor:
    """Sines and cosines of [..., 2] coordinates in 0..1, as [..., 4 * POSITION_FREQUENCIES]."""
    angles = positions.unsqueeze(-1) * math.pi * 2.0 ** torch.arange(POSITION_FREQUENCIES, device=positions.device) / 2
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class Crops(torch.utils.data.IterableDataset[tuple[np.ndarray, np.ndarray, np.ndarray]]):
    """Endless crops: uint8 pixels [H, W, 3], character and index targets [rows, cols, SLOTS]."""

    def __init__(self, seed: int):
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in itertools.count(first, step):
            crops = [
                crop for sheet in range(SHUFFLED_SHEETS) for crop in self._of_sheet(number * SHUFFLED_SHEETS + sheet)
            ]
            random.Random(number).shuffle(crops)
            yield from crops

    def _of_sheet(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        rows, cols = SHEET_CROPS[0] * CROP_ROWS, SHEET_CROPS[1] * CROP_COLS
        size = ((cols + 1) * PATCH, (rows + 1) * PATCH)
        image, words = draw_sheet(self.seed * 1_000_003 + number, *size, TEXT_PX)
        for shift in ((0, 0), (PATCH // 2, PATCH // 2)):  # a second cut with other patch borders costs no drawing
            yield from _cut(np.asarray(image)[shift[0] :, shift[1] :], [moved(word, (1, 1), shift) for word in words])


def _cut(pixels: np.ndarray, words: list[Word]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rows, cols = SHEET_CROPS[0] * CROP_ROWS, SHEET_CROPS[1] * CROP_COLS
    targets = glyph_targets(words, rows, cols)
    for top, left in itertools.product(range(0, rows, CROP_ROWS), range(0, cols, CROP_COLS)):
        window = np.s_[top : top + CROP_ROWS, left : left + CROP_COLS]
        view = np.s_[top * PATCH : (top + CROP_ROWS) * PATCH, left * PATCH : (left + CROP_COLS) * PATCH]
        yield pixels[view].copy(), targets.characters[window].copy(), _inside(targets.indices[window].copy())


def _inside(indices: np.ndarray) -> np.ndarray:
    """Indices of words that begin left of the crop cannot be known: ignore them up to the row's first word start."""
    for row in indices:
        for patch in row:
            if (patch == 0).any():
                before = np.cumsum(patch == 0) == 0
                patch[before] = IGNORE
                break
            patch[:] = IGNORE
    return indices


def crop_positions(table: Tensor, count: int, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Position embeddings [count, N, D] from random windows of the table, and their coordinates [count, N, 2] in 0..1."""
    grid = table.view(POSITIONS, POSITIONS, -1)
    y, x = torch.meshgrid(torch.arange(CROP_ROWS), torch.arange(CROP_COLS), indexing="ij")
    inner = torch.stack([y, x], -1).flatten(0, 1)
    windows, places = [], []
    for _ in range(count):
        top, left = rng.randint(0, POSITIONS - CROP_ROWS), rng.randint(0, POSITIONS - CROP_COLS)
        windows.append(grid[top : top + CROP_ROWS, left : left + CROP_COLS].flatten(0, 1))
        places.append((inner + torch.tensor([top, left]) + 0.5) / POSITIONS)
    return torch.stack(windows), torch.stack(places).to(table.device)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to the float32 [B, 3, H, W] in -1..1 that SigLIP takes."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def encode(tower: SiglipVisionModel, embeddings: Tensor) -> Tensor:
    """Raw hidden states [B, N, D] of the last layer for patch embeddings with their positions [B, N, D].

    On a CPU the fused attention kernel is fast forward and slow backward, plain products the other way round.
    """
    tower.config._attn_implementation = "eager" if torch.is_grad_enabled() else "sdpa"
    return tower.encoder(inputs_embeds=embeddings).last_hidden_state


class TowerLesson(nn.Module):
    """The tower and its read-outs, which are trained and saved together."""

    def __init__(self, tower: SiglipVisionModel, glyph_heads: GlyphHeads):
        super().__init__()
        self.tower, self.glyph_heads = tower, glyph_heads


def train_tower(stage: Stage, lesson: TowerLesson, seed: int, batch: int = 16, matrix_lr: float = 0.01) -> None:
    """Teach `lesson` for the length of `stage`."""
    own = stage.own_seed(seed)
    rng = random.Random(own)
    crops = Crops(own)
    loader = iter(torch.utils.data.DataLoader(crops, batch_size=batch, num_workers=1, prefetch_factor=8))
    steppers, curve = optimizers(lesson, matrix_lr, stage.dtype), Curve(stage)
    table = lesson.tower.embeddings.position_embedding.weight

    def loss() -> Tensor:
        pixels, characters, indices = (value.to(table.device) for value in next(loader))
        positions, places = crop_positions(table, batch, rng)
        with torch.autocast(table.device.type, torch.bfloat16, enabled=stage.dtype is torch.bfloat16):
            patches = lesson.tower.embeddings.patch_embedding(normalise(pixels)).flatten(2).transpose(1, 2)
            hidden = encode(lesson.tower, patches + positions)
            found, right = lesson.glyph_heads.loss(hidden, characters.flatten(1, 2), indices.flatten(1, 2), places)
        curve.add({"loss": found.item(), "right": right})
        return found

    for progress in stage.run(lesson, steppers):
        optimizer_step(lesson, steppers, loss, batches(progress))
