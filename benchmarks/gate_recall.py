"""Word recall of every selector.   python benchmarks/gate_recall.py --data-dir DATA [--json FILE] [--figure FILE]

Every selector keeps K of the 2304 patches of a page at 672 x 672, without a question, from the pixels and the tokens of
LaViDa-nano's tower; counted are the words of which every patch is kept (`shirg.evaluation.recall`), on

* real pages of SROIE (receipts), FUNSD (forms), ICDAR 2015 (street scenes) and OpenCQA (charts), in folders of DATA; lines of
  text are split into words (`boxed_pages.py`);
* rendered pages of the held-out split, with text of 6 to 20 pixels, grain, and a synthetic photograph where there is room.

The presets "ocr" and "runs" were tuned on other pages: in each set's seeded order SROIE's from the 25th and the others' from
the 37th on, 24 of each at most, and 28 rendered ones of the training split. `--tuning` reports on those instead.

Further rows: SHIRG with one part left out; "strokes alone" and "patch contrast", the K patches with most of either, which use
the pixels alone; CDPruner in float64, since its kernel has the rank of the tower's tokens, 128 here, and rounding decides
what it selects beyond that; and an oracle that knows the boxes and repeatedly adds the word that needs the fewest further
patches.

"small" are words under 12 pixels high; precision is the share of kept patches that a word's box touches; "empty" is the share
of 4 x 4 tiles of patches without a kept one. "all" weights words equally, so forms and rendered pages, which have most words,
dominate; "mean of sets" weights sets equally. Intervals are 95 %, by resampling pages; differences are paired, to preset
"runs". Merging selectors keep no patches; they have a dash.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from boxed_pages import LAYOUTS, BoxedPage, boxed_pages
from common import run_facts
from noisy_pages import noisy_pages
from recall_figure import draw_selectors

from shirg.bootstrap import Interval, compare, mean_interval
from shirg.evaluation.markdown import table
from shirg.evaluation.recall import PageWords, WordRecall, word_recall
from shirg.files import write_json
from shirg.gate import SELECTORS, GateConfig, Kept, Request, Selection, ShirgGate, plan_quadtree, register
from shirg.gate.clusters import label_roots
from shirg.gate.ranking import cluster_tops, keep_best, rank_tokens
from shirg.gate.runs import PRINTED, VERTICAL, number_runs, run_means
from shirg.gate.terms import pixel_edges, spread_edges
from shirg.lavida import Lavida

BUDGETS = (256, 512, 768, 1024)
REPORTED = {"sroie": 24, "funsd": 36, "icdar2015": 36, "opencqa": 36, "rendered": 36}
"""Most pages of a set that are reported on; later ones were tuned on."""
TUNED = {"sroie": 12, "funsd": 24, "icdar2015": 24, "opencqa": 24, "rendered": 28}
OURS = "shirg (runs)"
POOLED, MEAN = "all", "mean of sets"
ORACLE = "oracle"


@register("cdpruner, float64")
def select_cdpruner_exactly(request: Request) -> Selection:
    """CDPruner with its kernel in float64."""
    exact = SELECTORS["cdpruner"].choose(replace(request, tokens=request.tokens.double()))
    return replace(exact, scores=exact.scores.float())


@register("runs of strokes")
def select_runs_of_strokes(request: Request) -> Selection:
    """Preset "runs" with the strokes of preset "ocr" for print: one threshold for all pages, whole patches."""
    grid, pixels = request.grid, request.pixels
    assert pixels is not None
    strokes = spread_edges(pixel_edges(pixels, *grid[1:], "strokes"), grid, request.config.edge_spread, VERTICAL)
    runs = number_runs(strokes > PRINTED, grid)
    ranks = rank_tokens(run_means(strokes, runs, grid))
    tree = plan_quadtree(grid, request.config.max_cell)
    roots = label_roots(tree, *ranks.shape[:1], ranks.device)
    tops = cluster_tops(ranks, roots, tree.nodes(0)) & (runs > 0)
    return Selection(keep_best(ranks, request.budget, tops), -ranks.float(), roots)


def variants() -> dict[str, GateConfig]:
    """The presets, preset "runs" with one part left out, pixels alone, and every other selector."""
    runs, v2 = GateConfig.preset("runs"), GateConfig.preset("shirg-v2")
    top = replace(runs, coverage=False, edge_spread=0.0)
    ours = {
        OURS: runs,
        "shirg (runs, not joined)": replace(runs, edge="print"),
        "shirg (runs, no lending)": replace(runs, edge_spread=0.0),
        "shirg (runs, plain strokes)": replace(runs, selector="runs of strokes"),
        "shirg (runs, no coverage)": replace(runs, coverage=False),
        "shirg (runs, a quarter for clusters)": replace(runs, clusters_per_budget=0.25),
        "shirg (ocr)": GateConfig.preset("ocr"),
        "shirg (shirg-v2)": v2,
        "shirg (shirg-v2, no coverage)": replace(v2, coverage=False),
        "strokes alone": replace(top, edge="strokes", edge_spread=0.3),
        "patch contrast": replace(top, edge="variance"),
    }
    others = (name for name in SELECTORS if name not in ("shirg", "runs of strokes"))
    return ours | {name: GateConfig(selector=name) for name in others}


def whole_rules() -> dict[str, GateConfig]:
    """`variants` without the ablations."""
    return {name: config for name, config in variants().items() if ", " not in name}


# ---------------------------------------------------------------- measuring


@dataclass
class Tally:
    """Results of one variant at one budget, page by page."""

    pages: list[str] = field(default_factory=list)
    results: list[WordRecall] = field(default_factory=list)

    def add(self, page: str, result: WordRecall) -> None:
        """Add a page."""
        self.pages.append(page)
        self.results.append(result)

    def words(self, small: bool = False) -> tuple[np.ndarray, list[str]]:
        """Whether each word was found, and its page."""
        found = [result.found[result.small] if small else result.found for result in self.results]
        names = [page for page, part in zip(self.pages, found, strict=True) for _ in part]
        return np.concatenate(found).astype(float), names

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.pages + other.pages, self.results + other.results)


Tallies = dict[tuple[str, int, str], Tally | None]
"""(set, budget, variant) -> results; None for variants that merge."""


def pages_of(data_dir: Path | None, most: int, seed: int, tuning: bool) -> dict[str, list[BoxedPage]]:
    """The pages of every set whose folder exists."""
    sets = {}
    for name, layout in LAYOUTS.items():
        if data_dir is None or not (data_dir / layout.folder).is_dir():
            print(f"{name}: no folder {layout.folder} in the data folder; left out", file=sys.stderr)
        elif tuning:
            sets[name] = boxed_pages(data_dir, name, REPORTED[name] + TUNED[name], seed)[REPORTED[name] :]
        else:
            sets[name] = boxed_pages(data_dir, name, min(REPORTED[name], most), seed)
    split, count = ("train", TUNED["rendered"]) if tuning else ("heldout", min(REPORTED["rendered"], most))
    return sets | {"rendered": noisy_pages(split, count, seed)}


class Selecting:
    """All variants on one page at a time, which is encoded once."""

    def __init__(self, model: Lavida, rules: dict[str, GateConfig] | None = None):
        self.model = model
        self.gates = {name: ShirgGate(config) for name, config in (rules or variants()).items()}
        neediest = GateConfig(selector="visionzip")  # so that features hold what every selector needs
        model.vision = replace(model.vision, gate=neediest)

    @torch.no_grad()
    def choices(self, page: BoxedPage, budgets: Sequence[int], leave_out: set[str]) -> Iterator[tuple[str, int, Kept]]:
        """(variant, budget, selection) of all but those in `leave_out`, to which the caller may add during the iteration."""
        features = self.model.image_features(page.image, "shirg")
        given = self.model.tower.attention_and_keys(features.last_input, ("attention", "keys"))
        for name, gate in self.gates.items():
            for budget in budgets:
                if name not in leave_out:
                    yield name, budget, gate(features.tokens, budget, features.grid, pixels=features.pixels, **given)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.model.large_grid


def cheapest_words(words: PageWords, budgets: Sequence[int]) -> dict[int, torch.Tensor]:
    """Patches of the oracle, [N] bool per budget: it adds the word that needs the fewest further patches while one fits."""
    kept = {}
    for budget in budgets:
        chosen = torch.zeros(words.needed.shape[1], dtype=torch.bool)
        while True:
            costs = (words.needed & ~chosen).sum(dim=1)
            costs[costs == 0] = budget + 1  # kept already
            cost, word = costs.min(dim=0)
            if int(chosen.sum()) + int(cost) > budget:
                break
            chosen |= words.needed[word]
        kept[budget] = chosen
    return kept


def measure(selecting: Selecting, sets: dict[str, list[BoxedPage]]) -> Tallies:
    """Every variant at every budget on every page."""
    tallies: Tallies = {}
    merging: set[str] = set()
    for number, (name, page) in enumerate((name, page) for name, pages in sets.items() for page in pages):
        print(f"page {number + 1} of {sum(map(len, sets.values()))}", end="\r", flush=True, file=sys.stderr)
        words = PageWords.of(page.boxes, page.image.size, selecting.grid)
        for variant, budget, kept in selecting.choices(page, BUDGETS, merging):
            if kept.indices is None:
                merging.add(variant)
                continue
            tallies.setdefault((name, budget, variant), Tally()).add(
                page.name, word_recall(kept.assignment[0] >= 0, words)
            )
        for budget, chosen in cheapest_words(words, BUDGETS).items():
            tallies.setdefault((name, budget, ORACLE), Tally()).add(page.name, word_recall(chosen, words))
    for budget in BUDGETS:
        for variant in (*selecting.gates, ORACLE):
            parts = [tallies.get((name, budget, variant)) for name in sets]
            tallies[POOLED, budget, variant] = None if None in parts else sum(parts[1:], parts[0])
            tallies |= {(name, budget, variant): None for name in sets if variant in merging}
    return tallies


# ---------------------------------------------------------------- reporting


def summarise(tallies: Tallies, seed: int) -> list[dict]:
    """One entry for every set, budget and variant that keeps patches."""
    entries = []
    for (name, budget, variant), tally in tallies.items():
        if tally is None:
            continue
        ours = tallies[name, budget, OURS]
        entry = {"set": name, "budget": budget, "variant": variant}
        for key, small in (("recall", False), ("small", True)):
            found, pages = tally.words(small)
            if not found.size:
                continue
            entry[key] = _rounded(mean_interval(found, pages, seed=seed)) | {"words": found.size}
            if variant != OURS:
                against = compare(found, ours.words(small)[0], pages, seed=seed)
                entry[f"{key}_minus_runs"] = _rounded(against.interval) | {"verdict": against.verdict}
        entry["precision"] = round(float(np.mean([result.precision for result in tally.results])), 4)
        entry["empty_tiles"] = round(float(np.mean([result.empty_tiles for result in tally.results])), 4)
        entries.append(entry)
    return entries + _means_of_sets(entries)


def _means_of_sets(entries: list[dict]) -> list[dict]:
    """The plain mean of every variant's recall over the sets, without an interval."""
    recalls: dict[tuple[int, str], list[float]] = {}
    for entry in entries:
        if entry["set"] != POOLED:
            recalls.setdefault((entry["budget"], entry["variant"]), []).append(entry["recall"]["mean"])
    return [
        {
            "set": MEAN,
            "budget": budget,
            "variant": variant,
            "recall": {"mean": round(float(np.mean(found)), 4), "low": None, "high": None},
        }
        for (budget, variant), found in recalls.items()
    ]


def _rounded(interval: Interval) -> dict:
    ends = (interval.mean, interval.low, interval.high)
    return {key: None if end is None else round(end, 4) for key, end in zip(("mean", "low", "high"), ends, strict=True)}


def print_tables(entries: list[dict], names: Sequence[str]) -> None:
    """Tables of the pooled pages and of each set, and which selectors are better than preset "runs" anywhere."""
    found = {(entry["set"], entry["budget"], entry["variant"]): entry for entry in entries}
    header = [f"K = {budget}" for budget in BUDGETS]

    def rows(name: str, show) -> list[list[str]]:
        shown = (*variants(), ORACLE)
        cells = [[variant, *(found.get((name, budget, variant)) for budget in BUDGETS)] for variant in shown]
        return [[row[0], *("-" if entry is None else show(entry) for entry in row[1:])] for row in cells]

    views = {
        "word recall, %": lambda entry: _share(entry["recall"]),
        "recall of words under 12 px, %": lambda entry: _share(entry.get("small")),
        "word recall minus that of the preset runs, points": lambda entry: _share(
            entry.get("recall_minus_runs"), "+.1f"
        ),
        "precision, %": lambda entry: f"{100 * entry['precision']:.1f}",
        "empty 4 x 4 tiles, %": lambda entry: f"{100 * entry['empty_tiles']:.1f}",
    }
    for title, show in views.items():
        print(f"\n{title}, all pages\n\n{table(['selector', *header], rows(POOLED, show))}")
    for name in (*names, MEAN):
        print(f"\nword recall, %, {name}\n\n{table(['selector', *header], rows(name, views['word recall, %']))}")
    print("\nBetter than preset runs:", "; ".join(better_than_runs(entries)) or "none")


def better_than_runs(entries: list[dict]) -> list[str]:
    """Selector, set, budget and points wherever a verdict on words or small words is "better" than the preset's."""
    return [
        f"{entry['variant']} on {entry['set']} at K = {entry['budget']}, {key}: {_share(entry[difference], '+.1f')}"
        for entry in entries
        for key, difference in (("words", "recall_minus_runs"), ("small words", "small_minus_runs"))
        if entry["variant"] != ORACLE and entry.get(difference, {}).get("verdict") == "better"
    ]


def _share(value: dict | None, form: str = ".1f") -> str:
    """A mean and its interval in hundredths; a dash for None."""
    if value is None:
        return "-"
    ends = "" if value["low"] is None else f" [{100 * value['low']:{form}}, {100 * value['high']:{form}}]"
    return f"{100 * value['mean']:{form}}{ends}"


def main() -> None:
    """Measure, print, and write record and figure if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = os.environ.get("SHIRG_SHARED")
    parser.add_argument("--data-dir", type=Path, default=Path(shared, "data") if shared else None)
    parser.add_argument("--pages", type=int, default=32, help="most pages of a set, up to 36 (SROIE 24)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pages, their noise, and the resampling")
    parser.add_argument("--tuning", action="store_true", help="report on the pages that the preset was tuned on")
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--figure", type=Path, help="where to draw all selectors on one rendered page")
    parser.add_argument("--figure-only", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    model = Lavida.from_pretrained("nano")
    selecting = Selecting(model)
    if not arguments.figure_only:
        start = time.perf_counter()
        sets = pages_of(arguments.data_dir, arguments.pages, arguments.seed, arguments.tuning)
        entries = summarise(measure(selecting, sets), arguments.seed)
        print_tables(entries, list(sets))
        record = {
            **run_facts(model),
            "seed": arguments.seed,
            "pages": {name: [page.name for page in pages] for name, pages in sets.items()},
            "split": "tuning" if arguments.tuning else "reporting",
            "variants": {name: asdict(config) for name, config in variants().items()},
            "minutes": round((time.perf_counter() - start) / 60, 1),
            "results": entries,
        }
        if arguments.json:
            write_json(arguments.json, record)
    if arguments.figure:
        draw_selectors(arguments.figure, selecting, arguments.seed)


if __name__ == "__main__":
    main()
