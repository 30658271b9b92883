"""How well the nano reads large print, and what it would score without reading: python -m shirg.nano.recipe.score

The same questions are asked about the right page, about another page of the same kind, and about a blank one. The last two
are chance: what a model gets that knows how answers look and which are common, and does not see them.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from shirg.bootstrap import mean_interval
from shirg.data.pages import Page, Question
from shirg.data.render import KINDS, render_page
from shirg.data.render.values import heldout_alone
from shirg.evaluation.answering import Decoding, generated_texts
from shirg.evaluation.metrics import METRICS
from shirg.files import write_json
from shirg.lavida import Lavida

QUESTIONS_PER_PAGE = 4
DECODING = Decoding(max_new_tokens=16, block_length=16, step_ratio=0.5)
MEASURES = {"exact match": "exact_match", "ANLS": "anls"}
OTHER_PAGE = 1_000_000
"""From a page's number to that of another one of its kind, which is no page that is asked about."""
UNSEEN = "unseen answers"
"""The group of questions whose answer no training page can print."""
ASKED = "asked: "
"""Before the kind of a question, where that is the group."""


@dataclass(frozen=True)
class PageSet:
    """Held-out pages of one print size. What is page `number` does not depend on how many there are."""

    name: str
    size: int
    text_px: tuple[float, float]
    first_seed: int

    def page(self, number: int, further: int = 0) -> Page:
        """Page `number`, or another one of its kind."""
        kind, seed = KINDS[number % len(KINDS)], self.first_seed - further - number
        return render_page(kind, seed, size=self.size, text_px=self.text_px, split="heldout")

    def questions(self, page: Page, number: int) -> list[Question]:
        """Up to four questions of page `number`, drawn from all over it."""
        most = min(QUESTIONS_PER_PAGE, len(page.questions))
        return random.Random(f"{self.name} {number}").sample(page.questions, most)


LARGE_PRINT = PageSet("large print", 384, (14.0, 22.0), -1)
"""Their seeds are negative: other held-out pages, as evaluations draw them, are counted from zero up."""


def shown_pages(page: Page, number: int) -> dict[str, Image.Image]:
    """What the model is shown when it is asked about a page of `LARGE_PRINT`."""
    other, blank = LARGE_PRINT.page(number, OTHER_PAGE).image, Image.new("RGB", page.image.size, "white")
    return {"right": page.image, "another": other, "blank": blank}


@torch.no_grad()
def score(model: Lavida, count: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Exact match and ANLS with 95% intervals over pages, for `lowres` and each of the three pages shown, by group."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        page = LARGE_PRINT.page(number)
        asked = LARGE_PRINT.questions(page, number)
        for name, image in shown_pages(page, number).items():
            embeds = model.image_embeds(model.image_features(image, "lowres"), "lowres")
            prompts = [model.prompt_ids(question.question) for question in asked]
            answers = generated_texts(model, prompts, [embeds] * len(prompts), DECODING)
            for question, answer in zip(asked, answers, strict=True):
                scores = {label: METRICS[metric](answer, question.answers) for label, metric in MEASURES.items()}
                about = {"kind": page.kind, "asked": question.kind, "unseen": all(map(heldout_alone, question.answers))}
                rows.append({"shown": name, "page": str(number), **about, **scores})
    groups = {"all": rows, UNSEEN: [row for row in rows if row["unseen"]]}
    groups |= {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    for wanted in sorted({row["asked"] for row in rows}):
        groups[f"{ASKED}{wanted}"] = [row for row in rows if row["asked"] == wanted]
    return {
        group: {
            name: summarised([row for row in chosen if row["shown"] == name]) for name in ("right", "another", "blank")
        }
        for group, chosen in groups.items()
        if chosen
    }


def summarised(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Number of questions, and mean, low and high of every measure: 95% intervals over pages, None where there is one."""
    places = [row["page"] for row in rows]
    found = {label: mean_interval([row[label] for row in rows], places, seed=0) for label in MEASURES}
    return {"questions": len(rows)} | {
        label: [None if value is None else round(value, 4) for value in (one.mean, one.low, one.high)]
        for label, one in found.items()
    }


def print_table(titles: str, results: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print `summarised` results, group by group and by what was shown, as a Markdown table whose first columns are `titles`."""
    print(f"| {titles} | questions | {' | '.join(MEASURES)} |\n| --- | --- | ---: | ---: | ---: |")
    for group, by_shown in results.items():
        for shown, row in by_shown.items():
            cells = [_cell(*row[label]) for label in MEASURES]
            print(f"| {group} | {shown} | {row['questions']} | {' | '.join(cells)} |")


def _cell(mean: float, low: float | None, high: float | None) -> str:
    return f"{100 * mean:.1f}%" + ("" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]")


def main() -> None:
    """Print the table, and write it as JSON when asked to."""
    parser = argparse.ArgumentParser(prog="python -m shirg.nano.recipe.score", description=__doc__)
    parser.add_argument("--model", default="nano", help="checkpoint folder (default: the one in the package)")
    parser.add_argument("--pages", type=int, default=140, help="held-out pages, four questions each (default: 140)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    result = score(Lavida.from_pretrained(arguments.model), arguments.pages)
    low, high = LARGE_PRINT.text_px
    print(f"lowres, text of {low:g}-{high:g} px at {LARGE_PRINT.size} px, held-out pages; 95% intervals over pages")
    print_table("pages | shown", result)
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
