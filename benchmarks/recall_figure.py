"""Selectors side by side on one rendered page: kept patches bright, others dim, lost words framed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from noisy_pages import noisy_page
from PIL import Image, ImageDraw

from shirg.data.pages import Box
from shirg.data.render.fonts import Face
from shirg.evaluation.recall import PageWords, word_recall
from shirg.files import atomic_path
from shirg.gate import Kept

KIND, NUMBER, BUDGET = "document", 7, 512
COLUMNS, PANEL, GAP, MARGIN, CAPTION = 5, 528, 28, 40, 84
"""PANEL is 11 pixels for each of 48 patches."""
COLOURS = 96
"""Of the PNG's palette."""

INK, GREY, LOST, FOUND, PAPER = (24, 27, 33), (92, 98, 108), (213, 94, 0), (0, 158, 115), (255, 255, 255)
"""LOST and FOUND differ for colour-blind readers, too (Okabe and Ito)."""
DIMMED, HAZE = 0.30, np.array((38.0, 42.0, 52.0))
"""A dropped patch is drawn in this share of its grey, plus this colour."""
BLANK, GRAIN = 250.0, 24.0
"""Blank paper, and how far its grain reaches. Grain is drawn flat: it is hardly visible, and was two thirds of the file."""
TITLE, NAME, NOTE = Face("DejaVuSans-Bold", 40.0), Face("DejaVuSans-Bold", 27.0), Face("DejaVuSans", 22.0)
NAMES = {
    "shirg (runs)": "SHIRG",
    "shirg (ocr)": "SHIRG, preset ocr",
    "shirg (shirg-v2)": "SHIRG-v2's formula",
    "strokes alone": "Strokes alone",
    "patch contrast": "Patch contrast",
    "random": "Random",
    "uniform": "Uniform grid",
    "divprune": "DivPrune",
    "cdpruner": "CDPruner",
    "vispruner": "VisPruner-like",
    "holov": "HoloV-like",
    "dart": "DART-like",
    "tops": "TOPS-like, stage I",
    "visionzip": "VisionZip",
    "prumerge": "PruMerge+",
    "tome": "ToMe",
    "pool": "Average pool",
    "downsample": "Down-sampling",
}


def draw_selectors(path: Path, selecting, seed: int) -> None:
    """Draw the page and every variant's selection.

    Args:
        selecting: a `Selecting`.
    """
    page = noisy_page(KIND, NUMBER, "heldout", seed)
    words = PageWords.of(page.boxes, page.image.size, selecting.grid)
    whole = np.asarray(page.image.resize((PANEL, PANEL), Image.Resampling.LANCZOS), dtype=np.float64)
    shown = Image.fromarray(_without_grain(whole).round().astype(np.uint8))
    panels = [("The page", f"{len(page.boxes)} words, one photograph", shown)]
    left_out = {name for name in selecting.gates if name not in NAMES}
    for variant, _, kept in selecting.choices(page, [BUDGET], left_out):
        name = NAMES[variant]
        if kept.indices is None:
            panels.append((name, "merges: recall of words is not defined", _draw(page.image, kept, selecting.grid)))
            continue
        result = word_recall(kept.assignment[0] >= 0, words)
        note = f"{result.recall:.0%} of words, {result.empty_tiles:.0%} of tiles empty"
        lost = [box for box, found in zip(page.boxes, result.found, strict=True) if not found]
        panels.append((name, note, _draw(page.image, kept, selecting.grid, lost)))
    title = f"What is left of one page at K = {BUDGET} of {selecting.grid[0] * selecting.grid[1]:,} patches"
    legend = "bright: kept   dim: dropped   orange: a word that lost a patch   merging selectors: means of what shares a token"
    save_sheet(path, panels, title, legend)


def _draw(image: Image.Image, kept: Kept, grid: tuple[int, int], lost=()) -> Image.Image:
    """The page with dropped patches dimmed; merged ones show the mean of their group."""
    page = np.asarray(image.resize((PANEL, PANEL), Image.Resampling.LANCZOS), dtype=np.float64)
    groups = np.kron(
        kept.assignment[0].numpy().reshape(grid), np.ones([PANEL // side for side in grid], dtype=np.int64)
    )
    if kept.indices is None:
        page = _averaged(page, groups)
    grey = page @ np.array([0.299, 0.587, 0.114])
    page = np.where((groups < 0)[..., None], DIMMED * grey[..., None] + HAZE, page)
    drawn = Image.fromarray(_without_grain(page).round().clip(0, 255).astype(np.uint8))
    draw_frames(drawn, lost, (0, 0, *image.size), LOST)
    return drawn


def _without_grain(page: np.ndarray) -> np.ndarray:
    """The page with blank paper, kept and dropped, in one colour each."""
    for colour, reach in (((BLANK,) * 3, GRAIN), (DIMMED * BLANK + HAZE, DIMMED * GRAIN)):
        blank = np.abs(page - colour).max(axis=-1, keepdims=True) <= reach
        page = np.where(blank, colour, page)
    return page


def draw_frames(panel: Image.Image, boxes: Sequence[Box], area: Box, colour: tuple[int, int, int]) -> None:
    """Frame boxes of a page on a panel that shows this area of it."""
    pen, (x, y, right, bottom) = ImageDraw.Draw(panel), area
    across, down = panel.width / (right - x), panel.height / (bottom - y)
    for box in boxes:
        edges = (
            (box[0] - x) * across - 2,
            (box[1] - y) * down - 2,
            (box[2] - x) * across + 1,
            (box[3] - y) * down + 1,
        )
        pen.rectangle(edges, outline=colour, width=2)


def _averaged(page: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Every patch as the pixelwise mean of the patches that share its token."""
    side = PANEL // 48
    patches = page.reshape(48, side, 48, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    labels = groups[::side, ::side].ravel()
    shown = patches.copy()
    for label in np.unique(labels[labels >= 0]):
        shown[labels == label] = patches[labels == label].mean(axis=0)
    return shown.reshape(48, 48, side, side, 3).swapaxes(1, 2).reshape(PANEL, PANEL, 3)


def save_sheet(
    path: Path, panels: Sequence[tuple[str, str, Image.Image]], title: str, legend: str, columns: int = COLUMNS
) -> None:
    """Write panels (name, note, picture; all of one size) as one PNG."""
    rows, (wide, high) = -(-len(panels) // columns), panels[0][2].size
    top = MARGIN + 3 * MARGIN
    width = 2 * MARGIN + columns * wide + (columns - 1) * GAP
    sheet = Image.new("RGB", (width, top + rows * (CAPTION + high + GAP) + MARGIN - GAP), PAPER)
    _write(sheet, TITLE, INK, MARGIN, MARGIN + 34, title)
    _write(sheet, NOTE, GREY, MARGIN, MARGIN + 84, legend)
    for place, (name, note, picture) in enumerate(panels):
        row, column = divmod(place, columns)
        x, y = MARGIN + column * (wide + GAP), top + row * (CAPTION + high + GAP)
        _write(sheet, NAME, INK, x, y + 30, name)
        _write(sheet, NOTE, GREY, x, y + 64, note)
        sheet.paste(picture, (x, y + CAPTION - 6))
    with atomic_path(path) as fresh:
        sheet.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            fresh, "PNG", optimize=True
        )


def _write(sheet: Image.Image, face: Face, colour: tuple[int, int, int], left: int, baseline: int, text: str) -> None:
    ink, across, up = face.mask(text)
    sheet.paste(colour, (left + across, baseline + up), ink)
