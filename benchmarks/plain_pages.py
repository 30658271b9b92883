"""Exact match by size of print, 8 to 40 px, on plain "Key: value" pages whose drawing shares nothing with `shirg.data.render`.

    python benchmarks/plain_pages.py --model nano --json plain.json

A page is 672 px square, black on white, in one DejaVu face and one size. Every path is asked the same questions,
one token a step; shirg has 768 tokens. Intervals are 95 %, by resampling pages.
"""

from __future__ import annotations

import argparse
import random
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from shirg.bootstrap import mean_interval
from shirg.evaluation.answering import Decoding, generated_texts
from shirg.evaluation.metrics import METRICS
from shirg.files import write_json
from shirg.lavida import Lavida

SIDE, MARGIN = 672, 24
BANDS = ((8, 13), (14, 17), (18, 25), (26, 33), (34, 40))
"""Sizes of the font (its em) in pixels, both ends included."""
PATHS, BUDGET = ("lowres", "hd", "highres", "shirg"), 768
FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono")
KEYS = ("Total", "Date", "Name", "City", "Phone", "Balance", "Discount", "Tax", "Room", "Rent", "Weight", "Status")
QUESTIONS = 3
DECODING = Decoding(max_new_tokens=16, block_length=16, step_ratio=1.0)


@dataclass(frozen=True)
class PlainPage:
    """A page and what it says: `lines` of (key, value)."""

    image: Image.Image
    lines: tuple[tuple[str, str], ...]


def random_value(rng: random.Random) -> str:
    """A number, an amount, a code or a name of four to seven characters."""
    kind = rng.randrange(4)
    if kind == 0:
        return str(rng.randint(1000, 99999))
    if kind == 1:
        return f"{rng.randint(10, 999)}.{rng.randint(0, 99):02d}"
    if kind == 2:
        return f"{rng.choice(string.ascii_uppercase)}{rng.choice(string.ascii_uppercase)}-{rng.randint(100, 9999)}"
    return "".join(rng.choice(letters) for letters in ("BDKLMRST", "aeiou", "lmnrst", "aeiou", "nst"))


def draw_page(seed: int, size: int) -> PlainPage:
    """A page of keys and values in a font of `size` px, as many lines as fit."""
    rng = random.Random(seed)
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{rng.choice(FACES)}.ttf"
    font = ImageFont.truetype(path, size)
    image = Image.new("RGB", (SIDE, SIDE), "white")
    canvas = ImageDraw.Draw(image)
    pitch = size * rng.uniform(1.5, 2.2)
    top, lines = rng.uniform(MARGIN, 2 * MARGIN), []
    for key in rng.sample(KEYS, len(KEYS)):
        if top + 1.3 * size > SIDE - MARGIN:
            break
        value = random_value(rng)
        canvas.text((rng.choice((MARGIN, 2 * MARGIN)), top), f"{key}: {value}", fill="black", font=font)
        lines.append((key, value))
        top += pitch
    return PlainPage(image, tuple(lines))


def asked(page: PlainPage, seed: int) -> list[tuple[str, str]]:
    """Up to QUESTIONS (question, answer) about it."""
    chosen = random.Random(seed).sample(page.lines, min(QUESTIONS, len(page.lines)))
    return [(f"What is the {key}?", value) for key, value in chosen]


def page_of_band(low: int, high: int, number: int) -> tuple[PlainPage, list[tuple[str, str]]]:
    """Page `number` of a band, and what is asked about it; the band's sizes take turns."""
    page = draw_page(1000 * low + number, low + number % (high - low + 1))
    return page, asked(page, number)


def measured(model: Lavida, pages: int) -> dict[str, dict[str, Any]]:
    """Questions, and mean, low and high of exact match on every path, by band ("8-13"), from `pages` pages a band."""
    found: dict[str, dict[str, Any]] = {}
    for low, high in BANDS:
        marks: dict[str, list[float]] = {path: [] for path in PATHS}
        places: list[str] = []
        for number in range(pages):
            page, questions = page_of_band(low, high, number)
            places += [str(number)] * len(questions)
            prompts = [model.prompt_ids(question) for question, _ in questions]
            for path in PATHS:
                features = model.image_features(page.image, path)
                embeds = [model.image_embeds(features, path, BUDGET, model.question_ids(prompt)) for prompt in prompts]
                answers = generated_texts(model, prompts, embeds, DECODING)
                marks[path] += [
                    METRICS["exact_match"](answer, (value,))
                    for answer, (_, value) in zip(answers, questions, strict=True)
                ]
        intervals = {path: mean_interval(marks[path], places, seed=0) for path in PATHS}
        found[f"{low}-{high}"] = {"questions": len(places)} | {
            path: [one.mean, one.low, one.high] for path, one in intervals.items()
        }
    return found


def cell(mean: float, low: float | None, high: float | None) -> str:
    """In per cent, with the interval where there is one."""
    return f"{100 * mean:.0f}" + ("" if low is None or high is None else f" [{100 * low:.0f}, {100 * high:.0f}]")


def main() -> None:
    """Print the table, and write it as JSON when asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano", help="checkpoint folder (default: the one in the package)")
    parser.add_argument("--pages", type=int, default=30, help="pages a band, three questions each (default: 30)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    found = measured(Lavida.from_pretrained(arguments.model), arguments.pages)
    print(f"| px | questions | {' | '.join(PATHS)} |\n| --- | ---: |{' ---: |' * len(PATHS)}")
    for band, row in found.items():
        print(f"| {band} | {row['questions']} | {' | '.join(cell(*row[path]) for path in PATHS)} |")
    if arguments.json:
        write_json(arguments.json, found)


if __name__ == "__main__":
    main()
