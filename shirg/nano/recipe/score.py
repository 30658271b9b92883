"""How well the nano reads large print, and what it would score without reading: python -m shirg.nano.recipe.score

The same questions are asked about the right page, about another page of the same kind, and about a blank one. The last two
are chance: what a model gets that knows how answers look and which are common, and does not see them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from shirg.data.pages import Page
from shirg.data.render import KINDS, render_page
from shirg.evaluation.answering import Decoding, generated_text
from shirg.evaluation.bootstrap import mean_interval
from shirg.evaluation.metrics import METRICS
from shirg.files import write_json
from shirg.lavida import Lavida

SIZE = 384
TEXT_PX = (14.0, 22.0)
QUESTIONS_PER_PAGE = 4
DECODING = Decoding(max_new_tokens=16, block_length=16, step_ratio=0.5)
MEASURES = {"exact match": "exact_match", "ANLS": "anls"}


def pages(count: int) -> Iterator[tuple[Page, Page]]:
    """Held-out pages with large print, every kind in turn, each with another page of its kind."""
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        page, other = (
            render_page(kind, seed, size=SIZE, text_px=TEXT_PX, split="heldout") for seed in (number, number + count)
        )
        yield page, other


@torch.no_grad()
def score(model: Lavida, count: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Exact match and ANLS with 95% intervals over pages, for `lowres` and each of the three pages shown, and by kind."""
    rows = []
    for number, (page, other) in enumerate(pages(count)):
        shown = {"right": page.image, "another": other.image, "blank": Image.new("RGB", page.image.size, "white")}
        for name, image in shown.items():
            features = model.image_features(image, "lowres")
            embeds = model.image_embeds(features, "lowres")
            for question in page.questions[:QUESTIONS_PER_PAGE]:
                answer = generated_text(model, model.prompt_ids(question.question), embeds, DECODING)
                scores = {label: METRICS[metric](answer, question.answers) for label, metric in MEASURES.items()}
                rows.append({"shown": name, "kind": page.kind, "asked": question.kind, "page": str(number), **scores})
    groups = {"all": rows} | {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    return {
        group: {
            name: summarised([row for row in chosen if row["shown"] == name]) for name in ("right", "another", "blank")
        }
        for group, chosen in groups.items()
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
    print(f"lowres, text of {TEXT_PX[0]:g}-{TEXT_PX[1]:g} px at {SIZE} px, held-out pages; 95% intervals")
    print_table("pages | shown", result)
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
