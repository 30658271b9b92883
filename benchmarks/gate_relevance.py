"""How a question changes the selection.   python benchmarks/gate_relevance.py [--json FILE]

On held-out rendered pages, 672 x 672 pixels with text of 8 to 16, the answer's box is known. Tokens are selected without a
question, with a question about the page ("asked"), and with one about another page whose label words are not on this one
("unrelated"), by three presets, of which "runs" and "ocr" spread relevance along the row. Reported for every budget, with
paired 95 % intervals over pages:

* answer whole: the share of questions whose answer's patches are all kept (patches of which the answer's boxes cover a third or
  more; answers too small for that are excluded from this column and counted);
* answer area: the share of the answer's boxes in kept patches, over all questions;
* page area: the same for all words of the page.

A second table is about the similarities: where tokens with raised scores are, and how well the cosine separates the
question's label words, and its answer, from other printed words (area under the ROC curve, 50 % is chance); and the share of
the vocabulary that is nearer to a printed word's patches than the word itself (50 % is chance).

The last table is about unaligned embeddings. For every question the word embeddings are rotated at random, so that tokens and
words share no space, and the nano's trained relevance floor is off. Reported is the word recall (`shirg.evaluation.recall`)
of preset "runs": without a question, with six random ids of the vocabulary ("calibrated"), and with their plain cosines
("bare"), without `calibrated_relevance`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import run_facts
from torch import Tensor

from shirg.bootstrap import compare, mean_interval
from shirg.data.pages import Page, Question
from shirg.data.render import KINDS, render_page
from shirg.evaluation.recall import PageWords, word_recall
from shirg.files import write_json
from shirg.gate import GateConfig, ShirgGate
from shirg.gate.terms import relevance_term
from shirg.lavida import Lavida, VisionFeatures
from shirg.lavida.prompt import content_words
from shirg.lavida.relevance import base_projection, word_relevance
from shirg.lavida.settings import NO_FLOOR

SIZE, TEXT_PX, BUDGETS = 672, (8.0, 16.0), (128, 256, 512)
PRESETS = ("runs", "ocr", "shirg-v2")
COVERED = 1 / 3
"""Share of a patch that words must cover for it to be one of theirs."""
SHARES = ("answer whole", "answer area", "page area")
UNALIGNED_BUDGETS, RANDOM_WORDS = (256, 512, 768), 6
PLACES = ("answer", "label", "other words", "no words")
ANSWER, LABEL, OTHER, BLANK = range(4)


@dataclass(frozen=True)
class Case:
    """A question about a page, and one that is unrelated to it."""

    number: int
    page: Page
    question: Question
    unrelated: str


# ---------------------------------------------------------------- pages and questions


def held_out_pages(count: int, seed: int) -> list[Page]:
    """Pages of all kinds in turn."""
    return [
        render_page(KINDS[number % len(KINDS)], 10_000 * seed + number, size=SIZE, text_px=TEXT_PX, split="heldout")
        for number in range(count)
    ]


def cases(pages: Sequence[Page], per_page: int, seed: int) -> Iterator[Case]:
    """Up to `per_page` questions of every page, each with an unrelated one."""
    rng = random.Random(seed)
    pool = [(page, question) for page in pages for question in page.questions if question.key_words]
    for number, page in enumerate(pages):
        printed = {word for text in page.words for word in _plain(text.text)}
        for question in rng.sample(page.questions, min(per_page, len(page.questions))):
            while True:
                other_page, other = rng.choice(pool)
                labels = {word for index in other.key_words for word in _plain(other_page.words[index].text)}
                if labels and not labels & printed:
                    break
            yield Case(number, page, question, other.question)


def _plain(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def cover(page: Page, words: Sequence[int], grid: tuple[int, int]) -> np.ndarray:
    """The share of every patch that some words' boxes cover: [N] of 0 to 1, boxes of a page being disjoint."""
    rows, columns = grid
    covered = np.zeros(grid)
    for index in words:
        left, top, right, bottom = page.words[index].box
        across = _overlap(left / page.image.width * columns, right / page.image.width * columns, columns)
        down = _overlap(top / page.image.height * rows, bottom / page.image.height * rows, rows)
        covered += down[:, None] * across[None]
    return covered.ravel()


def _overlap(start: float, end: float, count: int) -> np.ndarray:
    """The length of [start, end] in each of `count` unit cells."""
    cells = np.arange(count)
    return np.clip(np.minimum(end, cells + 1) - np.maximum(start, cells), 0, 1)


# ---------------------------------------------------------------- measuring


def measure(model: Lavida, pages: Sequence[Page], per_page: int, seed: int) -> tuple[list[dict], ...]:
    """One row per question, setting and budget; one per question about the similarities; one per printed word."""
    rows, similarities, words = [], [], []
    features, of_page = None, -1
    for case in cases(pages, per_page, seed):
        if case.number != of_page:
            features, of_page = model.image_features(case.page.image, "shirg"), case.number
            words += nearer_words(model, features, case)
            print(f"page {case.number + 1} of {len(pages)}", end="\r", flush=True)
        rows += _select_all(model, features, case)
        asked, unrelated = (_ids(model, text) for text in (case.question.question, case.unrelated))
        similarities += [
            similarity_row(model, features, case, asked, "asked"),
            similarity_row(model, features, case, unrelated, "unrelated"),
        ]
    print(" " * 30, end="\r")
    return rows, similarities, words


def _ids(model: Lavida, question: str) -> Tensor:
    return model.question_ids(model.prompt_ids(question))


def _select_all(model: Lavida, features: VisionFeatures, case: Case) -> Iterator[dict]:
    """The shares kept of one case, for every setting and budget."""
    answer = cover(case.page, case.question.answer_words, features.grid)
    page = cover(case.page, range(len(case.page.words)), features.grid)
    texts = {"without": None, "asked": case.question.question, "unrelated": case.unrelated}
    for preset in PRESETS:
        model.vision = dataclasses.replace(model.vision, gate=GateConfig.preset(preset))
        for name, text in texts.items():
            for budget in BUDGETS:
                kept = model.select(features, budget, None if text is None else _ids(model, text))
                bright = (kept.assignment[0] >= 0).numpy()
                whole = answer >= COVERED
                yield {
                    "page": case.number,
                    "kind": case.question.kind,
                    "budget": budget,
                    "preset": preset,
                    "setting": name,
                    "answer whole": float(bright[whole].all()) if whole.any() else None,
                    "answer area": float(answer[bright].sum() / answer.sum()),
                    "page area": float(page[bright].sum() / page.sum()),
                }


def similarity_row(model: Lavida, features: VisionFeatures, case: Case, ids: Tensor, name: str) -> dict:
    """Where the tokens are whose scores a question raises, and how its cosine, without the floor, ranks printed patches."""
    lift = relevance_term(model.relevance(features, ids))[0].numpy()
    words = model.language.embed_tokens(content_words(ids, model.tokenizer))
    cosine = word_relevance(model.mm_projector, features.tokens.flatten(0, 1), words)
    place = places(case, features.grid)
    cosine = cosine.numpy()
    others = cosine[place == OTHER]
    row = {"page": case.number, "question": name, "lifted": int((lift > 0).sum())}
    row |= {f"lift on {PLACES[part]}": float(lift[place == part].sum() / max(lift.sum(), 1e-9)) for part in range(4)}
    row |= {f"tokens on {PLACES[part]}": float((place == part).mean()) for part in range(4)}
    for part in (ANSWER, LABEL):
        row[f"auc {PLACES[part]}"] = area_under_curve(cosine[place == part], others)
    return row


def nearer_words(model: Lavida, features: VisionFeatures, case: Case) -> Iterator[dict]:
    """For every printed word that is one token: the share of the vocabulary that its patches are nearer to."""
    projected = base_projection(model.mm_projector, features.tokens[0]).float()
    projected = projected - projected.mean(dim=0)
    vocabulary = torch.nn.functional.normalize(model.language.embed_tokens.weight.float(), dim=-1)
    for index, word in enumerate(case.page.words):
        ids = model.tokenizer(word.text, add_special_tokens=False).input_ids
        covered = torch.from_numpy(cover(case.page, [index], features.grid) >= COVERED).to(projected.device)
        if len(ids) == 1 and covered.any():
            cosines = vocabulary @ projected[covered].mean(dim=0)
            yield {"page": case.number, "nearer": float((cosines > cosines[ids[0]]).float().mean())}


def measure_unaligned(model: Lavida, pages: Sequence[Page], per_page: int, seed: int) -> Iterator[dict]:
    """One row per printed word, setting and budget: the share of random questions with which it is kept.

    Rotates the model's word embeddings.
    """
    draws, embed = torch.Generator().manual_seed(seed), model.language.embed_tokens
    model.vision = dataclasses.replace(model.vision, relevance_floor=NO_FLOOR)
    gate = ShirgGate(GateConfig.preset("runs"))
    for number, page in enumerate(pages):
        features = model.image_features(page.image, "shirg")
        tokens = features.tokens.flatten(0, 1)
        words = PageWords.of([word.box for word in page.words], page.image.size, features.grid)
        relevances = {"without": [None], "calibrated": [], "bare": []}
        for _ in range(per_page):
            embed.weight.copy_(embed.weight @ random_rotation(embed.embedding_dim, draws))
            ids = torch.randint(0, embed.num_embeddings, (RANDOM_WORDS,), generator=draws)
            relevances["calibrated"].append(model.relevance(features, ids))
            named = embed(content_words(ids, model.tokenizer))
            relevances["bare"].append(word_relevance(model.mm_projector, tokens, named)[None])
        for name, settings in relevances.items():
            for budget in UNALIGNED_BUDGETS:
                kept = [
                    gate(tokens[None], budget, features.grid, relevance=one, pixels=features.pixels) for one in settings
                ]
                found = np.mean([word_recall(one.assignment[0] >= 0, words).found for one in kept], axis=0)
                row = {"page": number, "budget": budget, "preset": "runs", "setting": name}
                yield from (row | {"words": share} for share in found.tolist())


def random_rotation(width: int, draws: torch.Generator) -> Tensor:
    """An orthogonal matrix [width, width]."""
    return torch.linalg.qr(torch.randn(width, width, generator=draws)).Q


def places(case: Case, grid: tuple[int, int]) -> np.ndarray:
    """What is printed on every patch: [N]; the answer has priority over its label, that over other words."""
    rest = cover(case.page, range(len(case.page.words)), grid)
    place = np.where(rest > 0, OTHER, BLANK)
    place[cover(case.page, case.question.key_words, grid) >= COVERED] = LABEL
    place[cover(case.page, case.question.answer_words, grid) >= COVERED] = ANSWER
    return place


def area_under_curve(higher: np.ndarray, lower: np.ndarray) -> float | None:
    """The chance that one of `higher` is above one of `lower`, ties half; None where one of the two is empty."""
    if not len(higher) or not len(lower):
        return None
    difference = higher[:, None] - lower[None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


# ---------------------------------------------------------------- tables


def summarise(rows: Sequence[dict], seed: int, shares: Sequence[str] = SHARES) -> list[dict]:
    """Means with intervals of every setting, and their paired differences to the selection without a question."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["budget"], row["preset"], row["setting"]].append(row)
    table = []
    for (budget, preset, setting), group in groups.items():
        entry = {"budget": budget, "preset": preset, "setting": setting}
        for share in shares:
            pairs = [
                (row[share], plain[share], str(row["page"]))
                for row, plain in zip(group, groups[budget, preset, "without"], strict=True)
                if row[share] is not None
            ]
            ours, theirs, of_page = zip(*pairs, strict=True)
            entry[share] = dataclasses.asdict(mean_interval(ours, of_page, seed=seed))
            if setting != "without":
                compared = compare(ours, theirs, of_page, seed=seed)
                entry[f"{share}, difference"] = dataclasses.asdict(compared.interval) | {"verdict": compared.verdict}
        table.append(entry)
    return sorted(table, key=lambda entry: entry["budget"])


def summarise_similarities(rows: Sequence[dict], seed: int) -> list[dict]:
    """Means with intervals of the similarities, for asked and unrelated questions."""
    table = []
    for name in ("asked", "unrelated"):
        group = [row for row in rows if row["question"] == name]
        entry = {"question": name}
        for key in (key for key in group[0] if key not in ("page", "question")):
            known = [(row[key], str(row["page"])) for row in group if row[key] is not None]
            entry[key] = dataclasses.asdict(mean_interval(*zip(*known, strict=True), seed=seed))
        table.append(entry)
    return table


def _percent(interval: dict, signed: bool = False) -> str:
    mean, low, high = (f"{100 * interval[name]:{'+' if signed else ''}.1f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def print_tables(record: dict) -> None:
    """All tables."""
    print(f"{record['pages']} pages, {record['questions']} questions ({record['small']} cover no patch by a third)")
    _print_kept(record["kept"], SHARES)
    asked, unrelated = record["similarities"]
    print(f"\n{'similarities':26}{'asked':>24}{'unrelated':>24}")
    for key in (key for key in asked if key != "question"):
        shown = [
            f"{entry[key]['mean']:.1f}" if key == "lifted" else f"{_percent(entry[key])} %"
            for entry in (asked, unrelated)
        ]
        print(f"{key:26}{shown[0]:>24}{shown[1]:>24}")
    nearer = record["vocabulary nearer than the printed word"]
    print(f"\nnearer to a printed word's patches than the word: {_percent(nearer)} % of the vocabulary\n")
    _print_kept(record["unaligned"], ("words",))


def _print_kept(entries: Sequence[dict], shares: Sequence[str]) -> None:
    """What is kept by setting, with differences to the selection without a question."""
    heads = (f"{share + ', %':>22}{'against without':>24}" for share in shares)
    print(f"{'K':>4}  {'gate, question':22}" + "".join(heads))
    for entry in entries:
        line = f"{entry['budget']:>4}  {entry['preset'] + ', ' + entry['setting']:22}"
        for share in shares:
            difference = entry.get(f"{share}, difference")
            line += f"{_percent(entry[share]):>22}{_percent(difference, True) if difference else '-':>24}"
        print(line)


def main() -> None:
    """Measure, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="a name or folder that Lavida.from_pretrained takes")
    parser.add_argument("--pages", type=int, default=168)
    parser.add_argument("--questions", type=int, default=4, help="at most so many per page")
    parser.add_argument("--seed", type=int, default=7, help="decides pages, questions and resampling")
    parser.add_argument("--json", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    model = Lavida.from_pretrained(arguments.model)
    pages = held_out_pages(arguments.pages, arguments.seed)
    rows, similarities, words = measure(model, pages, arguments.questions, arguments.seed)
    first = (BUDGETS[0], PRESETS[0], "without")
    rotated = Lavida.from_pretrained(arguments.model)
    unaligned = list(measure_unaligned(rotated, pages, arguments.questions, arguments.seed))
    plain = [row for row in rows if (row["budget"], row["preset"], row["setting"]) == first]
    record = {
        **run_facts(model),
        "load_average": round(os.getloadavg()[0], 2),
        "model": arguments.model,
        "seed": arguments.seed,
        "setting": {
            "size": SIZE,
            "text_px": TEXT_PX,
            "split": "heldout",
            "gates": {preset: dataclasses.asdict(GateConfig.preset(preset)) for preset in PRESETS},
            "relevance_floor": model.vision.relevance_floor,
        },
        "pages": len({row["page"] for row in plain}),
        "questions": len(plain),
        "small": sum(row["answer whole"] is None for row in plain),
        "kept": summarise(rows, arguments.seed),
        "similarities": summarise_similarities(similarities, arguments.seed),
        "vocabulary nearer than the printed word": dataclasses.asdict(
            mean_interval(
                [word["nearer"] for word in words], [str(word["page"]) for word in words], seed=arguments.seed
            )
        ),
        "unaligned": summarise(unaligned, arguments.seed, ("words",)),
    }
    print_tables(record)
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
