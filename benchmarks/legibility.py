"""What an OCR engine reads from kept patches.   python benchmarks/legibility.py --data-dir DIR [--json FILE]

An independent check of word recall. Every selector keeps K of the 2304 patches of a real page at 672 x 672, dropped ones are
filled with the page's median colour, and RapidOCR (PP-OCRv6, small recogniser; `pip install -e .[legibility]`) reads lines of
text: receipts of SROIE and forms of FUNSD, in folders of DIR. Lines are cropped by the set's boxes with 2 px more on every
side, and resized to the aspect ratio that they have on the page, 48 px high, the recogniser's input.

A line is exact if its characters equal the transcript's, spaces and case ignored (SROIE's transcripts are in capitals);
similarity is one minus the normalised edit distance. "all 2304" is the whole view, an upper bound; "384 px" is the view of
`lowres`. Pages are those that `gate_recall.py` reports on; lines are random, up to `--lines` of a page. Intervals are 95 %,
by resampling pages; differences are paired, to the first selector.

`--figure FILE` measures nothing, needs no data, and draws one rendered receipt under every selector, with the lines that are
read exactly. The page is the first of the held-out split, by seed, with 15 lines or more, chosen before any selector was run.
K is 256, chosen afterwards: at 512 seven of the thirteen selectors leave 27 of its 31 lines or more.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from boxed_pages import BoxedPage, boxed_pages
from common import run_facts
from gate_recall import BUDGETS, OURS, REPORTED, Selecting, whole_rules
from PIL import Image
from rapidfuzz.distance import Levenshtein
from recall_figure import FOUND, LOST, NAMES, draw_frames, save_sheet
from rich.progress import track

from shirg.bootstrap import compare, mean_interval
from shirg.data.pages import Box, Word
from shirg.data.render import render_page
from shirg.evaluation.markdown import table
from shirg.files import write_json
from shirg.gate.terms import PATCH
from shirg.lavida import Lavida

SETS = ("sroie", "funsd")
WHOLE, BASE = "all 2304", "384 px"
READ_PX = 48
"""Height of a line in the recogniser's input."""
MARGIN = 2
"""Pixels of the view around a line's box."""
FIGURE_BUDGET, LEAST_LINES, COLUMNS, ENLARGED = 256, 15, 7, 1.5

Reader = Callable[[Image.Image], str]


def recogniser() -> Reader:
    """RapidOCR's recogniser on one line of text at a time."""
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": 2})

    def read(line: Image.Image) -> str:
        found = engine(np.asarray(line)[:, :, ::-1], use_det=False, use_cls=False, use_rec=True)
        return found.txts[0] if found.txts else ""

    return read


def painted(view: np.ndarray, kept: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
    """The view, uint8 [H, W, 3], with the patches that are not `kept` ([N] bool) in its median colour."""
    dropped = np.kron(~kept.view(grid).numpy(), np.ones((PATCH, PATCH), bool))
    return np.where(dropped[:, :, None], np.median(view, axis=(0, 1)).astype(np.uint8), view)


def cut_line(view: np.ndarray, box: Box, page: tuple[int, int]) -> Image.Image:
    """A line of a page of size `page`, (width, height), cropped from its stretched view at the page's aspect ratio."""
    height, width = view.shape[:2]
    left, right = (x * width / page[0] + by for x, by in zip(box[::2], (-MARGIN, MARGIN), strict=True))
    top, bottom = (y * height / page[1] + by for y, by in zip(box[1::2], (-MARGIN, MARGIN), strict=True))
    edges = (max(0, left), max(0, top), min(width, right), min(height, bottom))
    shape = (edges[2] - edges[0]) * page[0] / width / ((edges[3] - edges[1]) * page[1] / height)
    size = (max(READ_PX // 2, round(READ_PX * shape)), READ_PX)
    return Image.fromarray(view).resize(size, Image.Resampling.BICUBIC, box=edges)


def as_image(pixels: torch.Tensor) -> np.ndarray:
    """Pixels [1, 3, H, W] as the tower takes them, -1 to 1, as uint8 [H, W, 3]."""
    return ((pixels[0].float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


class Reading:
    """Reads lines of one page; equal crops are read once."""

    def __init__(self, read: Reader, page: BoxedPage, chosen: Sequence[int], view: np.ndarray):
        self.read, self.page, self.chosen = read, page, chosen
        self.known: dict[bytes, str] = {}
        self.view = view

    def scores(self, view: np.ndarray) -> list[tuple[float, float]]:
        """Whether every chosen line is exact in `view`, and its similarity."""
        return [
            self._score(cut_line(view, self.page.boxes[i], self.page.image.size), self.page.texts[i])
            for i in self.chosen
        ]

    def _score(self, line: Image.Image, text: str) -> tuple[float, float]:
        key = line.tobytes()
        if key not in self.known:
            self.known[key] = self.read(line)
        said, wanted = ("".join(one.split()).casefold() for one in (self.known[key], text))
        return float(said == wanted), Levenshtein.normalized_similarity(said, wanted)


Row = dict[str, object]


def rows_of(selecting: Selecting, read: Reader, page: BoxedPage, chosen: Sequence[int]) -> Iterator[Row]:
    """One row for every line, selector and budget, and for the whole views."""
    model = selecting.model

    def rows(variant: str, budget: int | None, view: np.ndarray) -> Iterator[Row]:
        for line, (exact, similarity) in zip(chosen, reading.scores(view), strict=True):
            yield {
                "page": page.name,
                "line": line,
                "variant": variant,
                "budget": budget,
                "exact": exact,
                "similarity": similarity,
            }

    view = as_image(model.image_features(page.image, "shirg").pixels)
    reading = Reading(read, page, chosen, view)
    yield from rows(WHOLE, None, view)
    yield from rows(BASE, None, as_image(model.image_features(page.image, "lowres").pixels))
    merging: set[str] = set()
    for variant, budget, kept in selecting.choices(page, BUDGETS, merging):
        if kept.indices is None:
            merging.add(variant)
            continue
        yield from rows(variant, budget, painted(view, kept.assignment[0] >= 0, selecting.grid))


# ---------------------------------------------------------------- figure


def printed_lines(words: Sequence[Word]) -> list[tuple[str, Box]]:
    """Rows of print from top to bottom, each with its box: a word belongs to the row in whose first word its middle lies."""
    rows: list[list[Word]] = []
    for word in sorted(words, key=lambda word: word.box[1] + word.box[3]):
        middle = (word.box[1] + word.box[3]) / 2
        if rows and rows[-1][0].box[1] <= middle < rows[-1][0].box[3]:
            rows[-1].append(word)
        else:
            rows.append([word])
    lines = []
    for row in rows:
        row.sort(key=lambda word: word.box[0])
        lefts, tops, rights, bottoms = zip(*(word.box for word in row), strict=True)
        lines.append((" ".join(word.text for word in row), (min(lefts), min(tops), max(rights), max(bottoms))))
    return lines


def receipt() -> BoxedPage:
    """The first rendered receipt of the held-out split, by seed, that has `LEAST_LINES` lines or more."""
    lines, seed = [], -1
    while len(lines) < LEAST_LINES:
        seed += 1
        page = render_page("receipt", seed, size=672, text_px=(8.0, 16.0), split="heldout")
        lines = printed_lines(page.words)
    texts, boxes = zip(*lines, strict=True)
    return BoxedPage(f"rendered/receipt-{seed}", page.image, boxes, texts)


def draw_reading(path: Path, selecting: Selecting, read: Reader) -> None:
    """Draw `receipt` under each selector; lines that are read exactly are framed green, others orange."""
    page = receipt()
    view = as_image(selecting.model.image_features(page.image, "shirg").pixels)
    reading = Reading(read, page, range(len(page.texts)), view)
    lefts, tops, rights, bottoms = zip(*page.boxes, strict=True)
    area = (min(lefts) - PATCH, min(tops) - PATCH, max(rights) + PATCH, max(bottoms) + PATCH)
    size = [round(ENLARGED * (area[side + 2] - area[side])) for side in (0, 1)]

    def panel(name: str, seen: np.ndarray) -> tuple[str, str, Image.Image]:
        exact = [score == 1 for score, _ in reading.scores(seen)]
        picture = Image.fromarray(seen).resize(size, Image.Resampling.BICUBIC, box=area)
        for colour, kind in ((LOST, False), (FOUND, True)):
            boxes = [box for box, found in zip(page.boxes, exact, strict=True) if found is kind]
            draw_frames(picture, boxes, area, colour)
        return name, f"{sum(exact)} of {len(exact)} lines read", picture

    panels = [panel("All patches", view)]
    for variant, _, kept in selecting.choices(page, [FIGURE_BUDGET], set()):
        if kept.indices is not None:
            panels.append(panel(NAMES[variant], painted(view, kept.assignment[0] >= 0, selecting.grid)))
    patches = selecting.grid[0] * selecting.grid[1]
    title = f"What an OCR engine reads of one receipt at K = {FIGURE_BUDGET} of {patches:,} patches"
    legend = "green: the line is read exactly   orange: it is not   dropped patches are painted over   cut to the print"
    save_sheet(path, panels, title, legend, COLUMNS)


# ---------------------------------------------------------------- reporting


def summarise(rows: Sequence[Row], seed: int) -> list[Row]:
    """Shares of exact lines and mean similarity by variant and budget, and paired differences from the first selector."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["budget"]), []).append(row)
    entries = []
    for (variant, budget), found in groups.items():
        ours = groups.get((OURS, budget))
        entry: Row = {"variant": variant, "budget": budget, "lines": len(found)}
        pages = [row["page"] for row in found]
        for measure in ("exact", "similarity"):
            values = np.array([row[measure] for row in found])
            one = mean_interval(values, pages, seed=seed)
            entry[measure] = _ends(one.mean, one.low, one.high)
            if ours is not None and ours is not found:
                against = compare(values, np.array([row[measure] for row in ours]), pages, seed=seed)
                ends = against.interval
                entry[f"{measure}_minus_first"] = _ends(ends.mean, ends.low, ends.high) + [against.verdict]
        entries.append(entry)
    return entries


def _ends(*values: float | None) -> list:
    return [None if value is None else round(value, 4) for value in values]


def print_table(name: str, entries: Sequence[Row]) -> None:
    """Exact lines of one set, %: a row for every selector, a column for every budget."""
    variants = list(dict.fromkeys(entry["variant"] for entry in entries))
    found = {(entry["variant"], entry["budget"]): entry for entry in entries}

    def cell(variant: str, budget: int) -> str:
        entry = found.get((variant, budget)) or found.get((variant, None))
        return "-" if entry is None else "{:.1f} ({:.1f})".format(*(100 * entry[m][0] for m in ("exact", "similarity")))

    rows = [[variant, *(cell(variant, budget) for budget in BUDGETS)] for variant in variants]
    header = ["selector", *(f"K = {budget}" for budget in BUDGETS)]
    print(f"\n{name}: {entries[0]['lines']} lines, exact % (similarity %)\n\n{table(header, rows)}")


def main() -> None:
    """Measure, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = os.environ.get("SHIRG_SHARED")
    parser.add_argument("--data-dir", type=Path, default=Path(shared, "data") if shared else None)
    parser.add_argument("--pages", type=int, default=36, help="most pages of a set, up to 36 (SROIE 24)")
    parser.add_argument("--lines", type=int, default=20, help="most lines of a page")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pages and lines, and the resampling")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", type=Path, help="where to write the record")
    output.add_argument("--figure", type=Path, help="draw one rendered receipt here, and measure nothing")
    arguments = parser.parse_args()
    if arguments.figure:
        draw_reading(arguments.figure, Selecting(Lavida.from_pretrained("nano"), whole_rules()), recogniser())
        return
    if arguments.data_dir is None:
        parser.error("--data-dir: needed, the folder that holds sroie/ and funsd/")
    start, model, read = time.perf_counter(), Lavida.from_pretrained("nano"), recogniser()
    selecting = Selecting(model, whole_rules())
    results: dict[str, list[Row]] = {}
    names: dict[str, list[str]] = {}
    for name in SETS:
        most = min(REPORTED[name], arguments.pages)
        pages = boxed_pages(arguments.data_dir, name, most, arguments.seed, lines=True)
        names[name] = [page.name for page in pages]
        rows: list[Row] = []
        for page in track(pages, description=name):
            lines = range(len(page.texts))
            chosen = random.Random(f"{page.name}:{arguments.seed}").sample(lines, min(arguments.lines, len(lines)))
            rows += rows_of(selecting, read, page, chosen)
        results[name] = summarise(rows, arguments.seed)
        print_table(name, results[name])
    if arguments.json:
        record = {
            **run_facts(model),
            "reader": {name: version(name) for name in ("rapidocr", "onnxruntime")},
            "seed": arguments.seed,
            "pages": names,
            "minutes": round((time.perf_counter() - start) / 60, 1),
            "results": results,
        }
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
