"""Tokens and word recall of budget "auto".   python benchmarks/page_budget.py --data-dir DIR [--json FILE]

For every page that `gate_recall.py` reports on, and several factors of the number of tokens in its runs of print: the budget
of "auto", and the word recall of preset "runs" with it and with fixed budgets, without a question. `--tuning` uses the pages
on which the factor was chosen.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from boxed_pages import BoxedPage
from common import run_facts
from gate_recall import pages_of
from rich.progress import track

from shirg.bootstrap import mean_interval
from shirg.evaluation.markdown import table
from shirg.evaluation.recall import PageWords, word_recall
from shirg.files import write_json
from shirg.gate import GateConfig, ShirgGate, page_budget
from shirg.gate.page_budget import ROOM
from shirg.lavida import Lavida

ROOMS = (1.0, 1.25, 1.5, ROOM, 2.0)
FIXED = (512, 640, 768, 896, 1024)


def measure(model: Lavida, pages: list[BoxedPage]) -> list[dict]:
    """One row for every page and setting: its set, its tokens, and which of its words are kept whole."""
    gate, rows = ShirgGate(GateConfig()), []
    for page in track(pages, description="pages"):
        features = model.image_features(page.image, "shirg")
        words = PageWords.of(page.boxes, page.image.size, features.grid)
        pixels = features.pixels[None]
        budgets = {f"auto, {room:g}": page_budget(pixels, (1, *features.grid), room) for room in ROOMS}
        for setting, budget in (budgets | {str(budget): budget for budget in FIXED}).items():
            kept = gate(features.tokens, budget, features.grid, pixels=features.pixels)
            found = word_recall(kept.assignment[0] >= 0, words).found
            rows.append({"page": page.name, "setting": setting, "tokens": budget, "found": found})
    return rows


def summarise(rows: list[dict], seed: int) -> list[dict]:
    """Mean, tenth, ninetieth percentile and greatest number of tokens, and word recall with its interval, by setting."""
    entries = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        some = [row for row in rows if row["setting"] == setting]
        tokens = np.array([row["tokens"] for row in some])
        found = np.concatenate([row["found"] for row in some]).astype(float)
        recall = mean_interval(found, [row["page"] for row in some for _ in row["found"]], seed=seed)
        entries.append({
            "setting": setting,
            "tokens": round(float(tokens.mean()), 1),
            "percentiles": [int(one) for one in np.percentile(tokens, (10, 50, 90, 100))],
            "recall": [round(end, 4) for end in (recall.mean, recall.low, recall.high) if end is not None],
        })  # fmt: skip
    return entries


@torch.no_grad()
def main() -> None:
    """Measure, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = os.environ.get("SHIRG_SHARED")
    parser.add_argument("--data-dir", type=Path, default=Path(shared, "data") if shared else None)
    parser.add_argument("--pages", type=int, default=36, help="most pages of a set")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pages, their noise, and the resampling")
    parser.add_argument("--tuning", action="store_true", help="use the pages on which the factor was chosen")
    parser.add_argument("--json", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    model = Lavida.from_pretrained("nano")
    sets = pages_of(arguments.data_dir, arguments.pages, arguments.seed, arguments.tuning)
    rows = measure(model, [page for pages in sets.values() for page in pages])
    names = {page.name: name for name, pages in sets.items() for page in pages}
    results = {"all": summarise(rows, arguments.seed)}
    results |= {name: summarise([row for row in rows if names[row["page"]] == name], arguments.seed) for name in sets}
    for name, entries in results.items():
        cells = [
            [one["setting"], f"{one['tokens']:.0f}", *map(str, one["percentiles"]), f"{100 * one['recall'][0]:.1f}"]
            for one in entries
        ]
        header = ["setting", "tokens", "10 %", "median", "90 %", "most", "word recall, %"]
        print(f"\n{name}\n\n{table(header, cells)}")
    if arguments.json:
        record = {
            **run_facts(model),
            "pages": {name: len(pages) for name, pages in sets.items()},
            "split": "tuning" if arguments.tuning else "reporting",
            "results": results,
        }
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
