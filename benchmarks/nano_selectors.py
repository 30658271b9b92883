"""Answers of LaViDa-nano by selector.   python benchmarks/nano_selectors.py [--json FILE]

Every selector, the merging ones too, reduces the same 672 x 672 pages (small print, 8-13 px, those of `nano_claim.py`) to K
tokens; the language model gets them with one summary token, and four questions a page are asked. Selectors that use the
question get it. No adapter is on.

The words of such a page need 177 patches on average, so the budgets are 64 to 512. Intervals are 95 %, by resampling pages;
differences are paired, to the first selector. Answers are written to --output-dir as they come; the same command resumes,
also with more pages. --workers processes share the pages, one thread each.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from common import run_facts
from gate_recall import OURS, whole_rules
from nano_claim import SMALL_PRINT, weights_digest
from rich.progress import track

from shirg.bootstrap import compare, mean_interval
from shirg.data.workers import ordered_map
from shirg.evaluation.answering import Decoding, batched, generated_texts
from shirg.evaluation.journal import Journal
from shirg.evaluation.markdown import table
from shirg.evaluation.metrics import METRICS
from shirg.evaluation.variants import QUESTION_BLIND
from shirg.files import write_json
from shirg.gate import GateConfig
from shirg.lavida import Lavida
from shirg.nano.recipe.score import DECODING, MEASURES

BUDGETS = (64, 128, 256, 512)
BATCH = 16
"""Answers that are denoised together."""

Row = tuple[str, int, int]
"""(selector, budget, number of the question)."""


class Asking:
    """The nano with one gate for every selector."""

    def __init__(self, budgets: Sequence[int], selectors: Sequence[str]) -> None:
        self.budgets, known = tuple(budgets), whole_rules()
        self.model = Lavida.from_pretrained("nano")
        self.settings_of = {name: replace(self.model.vision, gate=known[name]) for name in selectors or known}
        self.neediest = replace(self.model.vision, gate=GateConfig(selector="visionzip"))
        """Makes the tower keep what any selector needs."""

    def settings(self) -> dict:
        """What the answers depend on."""
        return {
            "weights": weights_digest(self.model),
            "selectors": {name: asdict(settings.gate) for name, settings in self.settings_of.items()},
            "budgets": list(self.budgets),
            "decoding": asdict(DECODING),
        }

    @torch.no_grad()
    def page(self, number: int) -> dict:
        """The answers about one page and their scores: measure -> "selector K" -> one value for every question."""
        page = SMALL_PRINT.page(number)
        asked = SMALL_PRINT.questions(page, number)
        prompts = [self.model.prompt_ids(question.question) for question in asked]
        features = self.model.image_features(page.image, "shirg", self.neediest)
        questions = [self.model.question_ids(prompt) for prompt in prompts]

        @functools.cache
        def embedded(name: str, budget: int, i: int | None) -> torch.Tensor:
            question = None if i is None else questions[i]
            return self.model.image_embeds(features, "shirg", budget, question, self.settings_of[name])

        answers: dict[Row, str] = {}
        for rows in batched(
            ((name, budget, i) for budget in self.budgets for name in self.settings_of for i in range(len(asked))),
            BATCH,
        ):
            embeds = [
                embedded(name, budget, None if self.settings_of[name].gate.selector in QUESTION_BLIND else i)
                for name, budget, i in rows
            ]
            decoding = Decoding(DECODING.max_new_tokens, DECODING.block_length, DECODING.step_ratio)
            answers |= zip(
                rows, generated_texts(self.model, [prompts[i] for _, _, i in rows], embeds, decoding), strict=True
            )
        entry: dict = {"page": number, "said": {}, **{measure: {} for measure in MEASURES}}
        for (name, budget, i), text in answers.items():
            entry["said"].setdefault(f"{name} {budget}", []).append(text)
            for measure, metric in MEASURES.items():
                entry[measure].setdefault(f"{name} {budget}", []).append(METRICS[metric](text, asked[i].answers))
        return entry


def measured(asking: Asking, folder: Path, count: int, workers: int) -> list[dict]:
    """The entries of the first `count` pages; missing ones are measured and added to the journal in `folder`."""
    journal = Journal(folder / "pages.jsonl", asking.settings(), lambda one: int(one["page"]), resume=True, noun="page")
    missing = [number for number in range(count) if number not in journal.entries]
    for entry in track(ordered_map(asking.page, missing, workers), total=len(missing), description="pages"):
        journal.add(entry)
    return [journal.entries[number] for number in range(count)]


def summarise(entries: Sequence[dict], seed: int) -> list[dict]:
    """Mean and interval of every measure by selector and budget, and the paired difference from the first selector."""
    results = []
    for key in entries[0]["said"]:
        name, budget = key.rsplit(" ", 1)
        result: dict = {"selector": name, "budget": int(budget)}
        for measure in MEASURES:
            values, pages = _flat(entries, measure, key)
            one = mean_interval(values, pages, seed=seed)
            result |= {"questions": len(values), measure: _rounded(one.mean, one.low, one.high)}
            if name != OURS:
                ours = compare(values, _flat(entries, measure, f"{OURS} {budget}")[0], pages, seed=seed)
                ends = ours.interval
                result[f"{measure} minus first"] = [*_rounded(ends.mean, ends.low, ends.high), ours.verdict]
        results.append(result)
    return results


def _flat(entries: Sequence[dict], measure: str, key: str) -> tuple[np.ndarray, list[str]]:
    values = [value for entry in entries for value in entry[measure][key]]
    return np.array(values, float), [str(entry["page"]) for entry in entries for _ in entry[measure][key]]


def _rounded(*values: float | None) -> list:
    return [None if value is None else round(value, 4) for value in values]


def print_tables(results: Sequence[dict]) -> None:
    """Scores in percent, and differences from the first selector in points, by selector and budget."""
    found = {(result["selector"], result["budget"]): result for result in results}
    names = list(dict.fromkeys(result["selector"] for result in results))
    budgets = list(dict.fromkeys(result["budget"] for result in results))
    for title in [f"{measure}{part}" for measure in MEASURES for part in ("", " minus first")]:
        header = ["selector", *(f"K = {budget}" for budget in budgets)]
        rows = [[name, *(_cell(found[name, budget].get(title)) for budget in budgets)] for name in names]
        print(f"\n{title}, {results[0]['questions']} questions\n\n{table(header, rows)}")


def _cell(value: list | None) -> str:
    return "-" if value is None else "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * end for end in value[:3]))


def main() -> None:
    """Ask, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=250, help="four questions each (default: %(default)s)")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="default: %(default)s")
    names = whole_rules()
    parser.add_argument("--selectors", nargs="+", choices=names, metavar="NAME", help=f"some of {', '.join(names)}")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per processor)")
    parser.add_argument("--output-dir", type=Path, default=Path("nano_work/selectors"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    parser.add_argument("--json", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    asking = Asking(arguments.budgets, arguments.selectors or ())
    entries = measured(asking, arguments.output_dir, arguments.pages, arguments.workers)
    results = summarise(entries, arguments.seed)
    print_tables(results)
    if arguments.json:
        record = {
            **run_facts(asking.model),
            "settings": asking.settings(),
            "pages": len(entries),
            "results": results,
        }
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
