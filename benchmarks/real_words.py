"""How LaViDa-nano, trained on rendered pages only, reads words of real pages: SROIE, FUNSD, ICDAR 2015.

    python benchmarks/real_words.py --data-dir DIR --json benchmarks/results/real_words.json

Words are cut out of their pages, scaled to the height of large print, and pasted after labels, six on a white page of 384 px,
so that only the words are new; the value of each label is asked, on the `lowres` path. Two controls ask the same questions:
the words rendered in a font that no training page has, and labels without words. Words have 2 to 12 printable ASCII
characters in boxes at least 8 px high; boxes of SROIE and ICDAR are approximate, since they annotate lines or slanted words.
Case is ignored. Intervals are 95 %, by resampling these pages.
"""

from __future__ import annotations

import argparse
import random
import string
from collections.abc import Iterator
from pathlib import Path

import torch
from boxed_pages import LAYOUTS, BoxedPage, boxed_pages
from PIL import Image, ImageDraw
from rich.progress import track

from shirg.data.render.fonts import HELD_OUT_FONTS, TRAINING_FONTS, Face
from shirg.evaluation.answering import generated_texts
from shirg.evaluation.environment import describe_environment, processor
from shirg.evaluation.metrics import METRICS
from shirg.files import write_json
from shirg.lavida import Lavida
from shirg.nano.recipe.score import DECODING, MEASURES, print_table, summarised

SETS = ("sroie", "funsd", "icdar2015")
LABELS = ("Owner", "Badge", "Permit", "Serial", "Agent", "Model")
SIZE, PRINT_PX, LEFT, INDENT, LINE = 384, 18.0, 24, 140, 56
HEIGHT, WIDEST = 22, SIZE - INDENT - 8  # px of a pasted word's box
SHORTEST, LONGEST, LOWEST = 2, 12, 8
PER_PAGE = 12  # words of one real page at most
SHOWN = ("cut out", "drawn", "nothing")

Cut = tuple[str, Image.Image]


def cuttings(pages: list[BoxedPage], seed: int) -> Iterator[Cut]:
    """Words and their images, scaled to HEIGHT, at most PER_PAGE of each page."""
    rng = random.Random(seed)
    for page in pages:
        words = [pair for pair in zip(page.texts, page.boxes, strict=True) if _usable(*pair, page.image.size)]
        for text, box in rng.sample(words, min(PER_PAGE, len(words))):
            left, top, right, bottom = box
            margin = (bottom - top) / 6  # boxes split from lines are off by part of a character
            cut = page.image.crop(tuple(round(edge) for edge in (left - margin, top, right + margin, bottom)))
            width = min(WIDEST, max(1, round(cut.width * HEIGHT / cut.height)))
            yield text, cut.resize((width, HEIGHT), Image.Resampling.BICUBIC)


def _usable(text: str, box: tuple[float, ...], size: tuple[int, int]) -> bool:
    left, top, right, bottom = box
    inside = min(left, top) >= 0 and right <= size[0] and bottom <= size[1]
    plain = SHORTEST <= len(text) <= LONGEST and all(character in string.printable[:94] for character in text)
    return inside and plain and bottom - top >= LOWEST and right - left >= LOWEST


def form(cuts: list[Cut], shown: str) -> Image.Image:
    """A page of labels, each with its word cut out, rendered, or absent."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(image)
    label, own = Face(TRAINING_FONTS["sans"][0], PRINT_PX), Face(HELD_OUT_FONTS["cmss"][0], PRINT_PX)
    for row, (name, (text, cut)) in enumerate(zip(LABELS, cuts, strict=True)):
        baseline = LINE * (row + 1)
        _print(draw, name + ":", LEFT, baseline, label)
        if shown == "drawn":
            _print(draw, text, INDENT, baseline, own)
        elif shown == "cut out":
            image.paste(cut, (INDENT, baseline - round(0.8 * HEIGHT)))
    return image


def _print(draw: ImageDraw.ImageDraw, text: str, left: int, baseline: int, face: Face) -> None:
    mask, right_by, down_by = face.mask(text)
    draw.bitmap((left + right_by, baseline + down_by), mask, fill="black")


@torch.no_grad()
def read(model: Lavida, cuts: list[Cut], name: str) -> list[dict]:
    """One row for every word and condition of `SHOWN`."""
    rows = []
    groups = [cuts[start : start + len(LABELS)] for start in range(0, len(cuts) - len(LABELS) + 1, len(LABELS))]
    for number, group in enumerate(track(groups, description=name)):
        for shown in SHOWN:
            features = model.image_features(form(group, shown), "lowres")
            embeds = model.image_embeds(features, "lowres")
            for label, (text, _) in zip(LABELS, group, strict=True):
                said = generated_texts(model, [model.prompt_ids(f"What is the {label}?")], [embeds], DECODING)[0]
                scores = {measure: METRICS[metric](said, [text]) for measure, metric in MEASURES.items()}
                rows.append({"shown": shown, "page": str(number), "text": text, "said": said, **scores})
    return rows


def main() -> None:
    """Print the table, and write it with every answer as JSON when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with one folder per set")
    parser.add_argument("--model", default="nano", help="checkpoint folder (default: the one in the package)")
    parser.add_argument("--words", type=int, default=150, help="of each set (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which words (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the numbers and every answer here")
    arguments = parser.parse_args()
    for name in SETS:
        if not (arguments.data_dir / LAYOUTS[name].folder).is_dir():
            parser.error(f"--data-dir: {arguments.data_dir} has no folder {LAYOUTS[name].folder}")
    model = Lavida.from_pretrained(arguments.model)
    record = {"environment": describe_environment(model) | {"processor": processor()}, "sets": {}, "answers": {}}
    record |= {"words": arguments.words, "seed": arguments.seed}
    for name in SETS:
        pages = boxed_pages(arguments.data_dir, name, 2 * arguments.words // PER_PAGE + 20, arguments.seed)
        rows = read(model, list(cuttings(pages, arguments.seed))[: arguments.words], name)
        record["sets"][name] = {shown: summarised([row for row in rows if row["shown"] == shown]) for shown in SHOWN}
        record["answers"][name] = rows
    print_table("words of | shown", record["sets"])
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
