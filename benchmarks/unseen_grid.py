"""What SHIRG's adapter is worth on a grid that the model has never seen.   python benchmarks/unseen_grid.py [--json FILE]

The shipped LaViDa-nano was trained on 672 px pages, so a LoRA has nothing to repair there. It has never seen another large grid.
(For a model that has not seen that one either, --sides 672 asks the question itself.) Here the small-print pages of
`nano_claim.py` (8-13 px) lie in the corner of a larger white canvas: print of the same size, 64 x 64 patches at 896 px, 56 x 56
at 784. The distribution shift is the one that SHIRG asks of LaViDa: enlarged position embeddings and rows of another length.

1. For every canvas and seed one LoRA is trained by `SHIRGLoRATrainer` with mixed budgets, on pages of the training split.
   Validation gives its answer loss before and after.
2. Without an adapter and with each of them, four questions a page are asked about held-out pages at each budget.

--trained projector and language are bounds of what a larger adapter could do: one of full rank, which is the whole projector,
and one of projector and language model.

Intervals are 95 %. They resample pages, and for the adapter's effect pages and seeds of the training. --output-dir keeps adapters
with their checkpoints, and answers as they come; the same command resumes and may ask for more pages. --workers processes share
the work, one thread each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from common import run_facts
from nano_claim import LEARNING_RATE, SMALL_PRINT, weights_digest
from PIL import Image
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from shirg import identity
from shirg.bootstrap import resample
from shirg.data.images import encode_png
from shirg.data.records import Record
from shirg.data.render import KINDS, render_page
from shirg.data.sources.rendered import records_of_page
from shirg.data.workers import ordered_map
from shirg.evaluation.answering import Decoding, batched, generated_texts
from shirg.evaluation.journal import Journal
from shirg.evaluation.markdown import table
from shirg.evaluation.metrics import METRICS
from shirg.files import write_json
from shirg.lavida import Lavida
from shirg.nano.recipe.score import DECODING, MEASURES
from shirg.training import SHIRGLoRAConfig, SHIRGLoRATrainer

SIDES = (896, 784)
BUDGETS = (128, 256, 512, 768)
SEEDS = (0, 1, 2)
PAGE_SIDE = 672
QUESTIONS_PER_PAGE = 6
TRAINING_PAGES, VALIDATION_PAGES = 200, 84
FIRST_PAGE = 7_000_000
"""Seed of the first training page; no other program draws these."""
RECORDS_PER_STEP = 16
EPOCHS = 3
VALIDATIONS = 3
"""In a run, beside the one before it."""
SAVE_STEPS = 20
BATCH = 16
"""Answers that are denoised together."""
NONE = "none"
"""The row without an adapter."""
LORA = "lora"
RATES = {LORA: LEARNING_RATE, "projector": 1e-3, "language": 1e-3}
"""What is trained -> its learning rate."""


def on_canvas(image: Image.Image, side: int) -> Image.Image:
    """The page in the upper left corner of a white square of `side` px."""
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(image)
    return canvas


class Pages(Dataset[Record]):
    """Questions about small-print pages of a split on a canvas of `side` px, six a page at most; rendered when read."""

    def __init__(self, split: str, count: int, side: int) -> None:
        self.split, self.side = split, side
        self.places = [(number, place) for number in range(count) for place in range(len(self._records(number)))]

    def _records(self, number: int) -> list[Record]:
        return _records(self.split, number, self.side)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Record:
        number, place = self.places[index]
        return self._records(number)[place]

    def image_ids(self) -> list[str]:
        """The page's number, for every record."""
        return [f"{self.split} {number}" for number, _ in self.places]

    def fingerprint(self) -> str:
        """Of what is trained on; 16 hexadecimal digits."""
        return identity.of_values(
            [[self.split, self.side, FIRST_PAGE, *SMALL_PRINT.text_px, *place] for place in self.places]
        )


@lru_cache(maxsize=8)
def _records(split: str, number: int, side: int) -> list[Record]:
    kind = KINDS[number % len(KINDS)]
    page = render_page(kind, FIRST_PAGE + number, size=PAGE_SIDE, text_px=SMALL_PRINT.text_px, split=split)
    data = encode_png(on_canvas(page.image, side))
    about = {"image": data, "image_id": f"{split} {number}", "width": side, "height": side}
    return [replace(record, **about) for record in records_of_page(page, "rendered", split)][:QUESTIONS_PER_PAGE]


# ---------------------------------------------------------------- adapters


def train(arguments: argparse.Namespace, side: int, seed: int) -> None:
    """One mixed adapter, from its latest checkpoint if it has one."""
    folder = adapter_folder(arguments, side, seed)
    if (folder / "logs" / "training_results.json").exists():
        return
    torch.set_num_threads(1)
    model = at_side(arguments.model, side)
    config = SHIRGLoRAConfig(
        token_budgets=list(arguments.budgets),
        include_pooled=False,
        num_epochs=EPOCHS,
        learning_rate=arguments.learning_rate or RATES[arguments.trained],
        padding_weight=arguments.padding_weight,
        **trained_layers(model, arguments.trained),
        save_steps=SAVE_STEPS,
        validation_interval=1 / VALIDATIONS,
        feature_cache_mb=4096,
        base_model=arguments.model,
        seed=seed,
        output_dir=str(folder),
        resume=True,
    )
    datasets = (Pages("train", arguments.training_pages, side), Pages("validation", arguments.validation_pages, side))
    loaders = (DataLoader(one, RECORDS_PER_STEP, shuffle=one.split == "train", collate_fn=list) for one in datasets)
    SHIRGLoRATrainer(config, model).train(*loaders)


def at_side(name: str, side: int) -> Lavida:
    """A model with a large view of `side` px."""
    model = Lavida.from_pretrained(name)
    model.vision = replace(model.vision, resolution=side)
    return model


def trained_layers(model: Lavida, trained: str) -> dict:
    """Settings of the adapter: SHIRG's own, one of the projector's full rank, or one of projector and language model."""
    if trained == LORA:
        return {}
    if trained == "projector":
        width = model.config.hidden_size
        return {"lora_rank": width, "lora_alpha": width}
    linear = [name for name, layer in model.language.named_modules() if isinstance(layer, torch.nn.Linear)]
    inner = [f"language.{name}" for name in linear if name.startswith("layers.")]
    return {"target_modules": ["mm_projector.0", "mm_projector.2", *inner]}


def adapter_folder(arguments: argparse.Namespace, side: int, seed: int) -> Path:
    """Where an adapter is trained."""
    return arguments.output_dir / f"{side}px-seed{seed}"


# ---------------------------------------------------------------- answers


class Answering:
    """The nano at one resolution, alone and with each of its adapters."""

    def __init__(self, arguments: argparse.Namespace, side: int) -> None:
        self.side, self.budgets = side, tuple(arguments.budgets)
        self.models = {NONE: at_side(arguments.model, side)}
        for seed in arguments.seeds:
            model = at_side(arguments.model, side)
            model.load_adapter(adapter_folder(arguments, side, seed) / "checkpoints" / "best_model")
            self.models[f"seed {seed}"] = model

    def settings(self) -> dict:
        """What the answers depend on."""
        return {
            "weights": weights_digest(self.models[NONE]),
            "adapters": {name: identity.of_adapter(model)["adapter_weights"] for name, model in self.models.items()},
            "side": self.side,
            "budgets": list(self.budgets),
            "decoding": asdict(DECODING),
        }

    @torch.no_grad()
    def page(self, number: int) -> dict:
        """Scores of the answers about one page: measure -> "adapter K" -> one value for every question."""
        page = SMALL_PRINT.page(number)
        questions = SMALL_PRINT.questions(page, number)
        features = self.models[NONE].image_features(on_canvas(page.image, self.side), "shirg")
        prompts = [self.models[NONE].prompt_ids(question.question) for question in questions]
        entry: dict = {"page": number, **{measure: {} for measure in MEASURES}}
        for name, model in self.models.items():
            pairs = list(itertools.product(self.budgets, range(len(questions))))
            texts: list[str] = []
            for some in batched(pairs, BATCH):
                embeds = [
                    model.image_embeds(features, "shirg", budget, model.question_ids(prompts[i])) for budget, i in some
                ]
                decoding = Decoding(DECODING.max_new_tokens, DECODING.block_length, DECODING.step_ratio)
                texts += generated_texts(model, [prompts[i] for _, i in some], embeds, decoding)
            for (budget, i), text in zip(pairs, texts, strict=True):
                for measure, metric in MEASURES.items():
                    scores = entry[measure].setdefault(row(name, budget), [])
                    scores.append(METRICS[metric](text, questions[i].answers))
        return entry


def row(adapter: str, budget: int) -> str:
    """The key of an adapter's answers at one budget."""
    return f"{adapter} {budget}"


def answered(arguments: argparse.Namespace, side: int) -> list[dict]:
    """The entries of all pages; missing ones are measured and added to the journal."""
    answering = Answering(arguments, side)
    path = arguments.output_dir / f"answers-{side}px.jsonl"
    journal = Journal(path, answering.settings(), lambda one: int(one["page"]), resume=True, noun="page")
    missing = [number for number in range(arguments.pages) if number not in journal.entries]
    answers = ordered_map(answering.page, missing, arguments.workers)
    for entry in track(answers, total=len(missing), description=f"pages at {side} px"):
        journal.add(entry)
    return [journal.entries[number] for number in range(arguments.pages)]


# ---------------------------------------------------------------- numbers


def summarise(entries: Sequence[dict], seeds: Sequence[int], budgets: Sequence[int]) -> list[dict]:
    """For every budget: scores without and with the adapters, and what they add, for each seed and over all of them."""
    results = []
    pages = [entry["page"] for entry in entries for _ in entry[next(iter(MEASURES))][row(NONE, budgets[0])]]
    for budget, measure in itertools.product(budgets, MEASURES):

        def values(*names: str, budget: int = budget, measure: str = measure) -> np.ndarray:
            """[names, questions]."""
            return np.array([[one for entry in entries for one in entry[measure][row(name, budget)]] for name in names])

        none, trained = values(NONE), values(*(f"seed {seed}" for seed in seeds))
        results.append(
            {
                "budget": budget,
                "measure": measure,
                "questions": len(pages),
                "without": _interval(none, pages),
                "with": _interval(trained, pages),
                "added": _interval(trained - none, pages, least=-1.0),
                "added by seed": [_interval(one - none, pages, least=-1.0) for one in trained],
            }
        )
    return results


def _interval(values: np.ndarray, pages: Sequence[int], least: float = 0.0) -> list[float | None]:
    """Mean over questions, and its 95 % interval over pages and trainings, of values [trainings, questions]."""
    found = resample(values, pages, least=least).interval
    return [None if end is None else round(end, 5) for end in (found.mean, found.low, found.high)]


def print_tables(record: dict) -> None:
    """Scores in percent and differences in points, and the answer loss in validation."""
    for found in record["grids"]:
        grid = found["side"] // 14
        print(f"\n{found['side']} px, {grid}x{grid} patches: {found['pages']} pages")
        header = ["measure", "K", "without adapter", "with adapter", "added", "each seed"]
        rows = [
            [one["measure"], str(one["budget"]), *(_cell(one[name]) for name in ("without", "with", "added"))]
            + [", ".join(f"{100 * seed[0]:+.1f}" for seed in one["added by seed"])]
            for one in sorted(found["answers"], key=lambda one: list(MEASURES).index(one["measure"]))
        ]
        print(f"\n{table(header, rows)}")
        header = ["seed", "steps", "best step", "answer loss, % of step 0", "before -> after, by K"]
        rows = [
            [
                *(str(value) for value in (seed, one["steps"], one["best_step"])),
                _cell(one["answer loss relative to step 0"]),
                ", ".join(
                    f"{name}: {loss:.3f} -> {one['answer loss']['after'][name]:.3f}"
                    for name, loss in one["answer loss"]["before"].items()
                ),
            ]
            for seed, one in zip(record["settings"]["seeds"], found["trainings"], strict=True)
        ]
        print(f"\n{table(header, rows)}")


def _cell(value: Sequence[float]) -> str:
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(100 * end for end in value))


def training_of(folder: Path) -> dict:
    """What is kept of a training's results."""
    results = json.loads((folder / "logs" / "training_results.json").read_text(encoding="utf-8"))
    best = results["best_validation"]
    return {name: results[name] for name in ("steps", "seconds", "best_step")} | {
        "answer loss relative to step 0": [best[name] for name in ("relative", "low", "high")],
        "answer loss": {"before": results["validation_before"]["answers"], "after": best["answers"]},
        "padding loss": {"before": results["validation_before"]["padding"], "after": best["padding"]},
        "validation questions": best["records"],
    }


def grid(arguments: argparse.Namespace, side: int) -> dict:
    """What is measured on canvases of one size; adapters and answers that are missing are made."""
    with multiprocessing.get_context("spawn").Pool(arguments.workers, maxtasksperchild=1) as pool:
        pool.starmap(train, [(arguments, side, seed) for seed in arguments.seeds], chunksize=1)
    entries = answered(arguments, side)
    folders = [adapter_folder(arguments, side, seed) for seed in arguments.seeds]
    return {
        "side": side,
        "pages": len(entries),
        "trainings": [training_of(folder) for folder in folders],
        "answers": summarise(entries, arguments.seeds, arguments.budgets),
    }


def main() -> None:
    """Train, ask, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="checkpoint folder (default: the one in the package)")
    parser.add_argument("--trained", choices=RATES, default=LORA, help="what is trained (default: %(default)s)")
    parser.add_argument("--pages", type=int, default=750, help="four questions each (default: %(default)s)")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="canvases, px (default: %(default)s)")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of the trainings (default: %(default)s)")
    parser.add_argument("--training-pages", type=int, default=TRAINING_PAGES, help="default: %(default)s")
    parser.add_argument("--validation-pages", type=int, default=VALIDATION_PAGES, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, help=f"default: {RATES}, by what is trained")
    parser.add_argument("--padding-weight", type=float, default=0.1, help="of end-of-text (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per processor)")
    parser.add_argument("--output-dir", type=Path, default=Path("nano_work/unseen_grid"), help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    grids = [grid(arguments, side) for side in arguments.sides]
    model = Lavida.from_pretrained(arguments.model)
    names = ("budgets", "seeds", "training_pages", "validation_pages", "trained", "padding_weight")
    settings = {name: getattr(arguments, name) for name in names}
    settings["learning_rate"] = arguments.learning_rate or RATES[arguments.trained]
    record = {
        **run_facts(model),
        "settings": settings | {"weights": weights_digest(model), "decoding": asdict(DECODING), "epochs": EPOCHS},
        "grids": grids,
    }
    print_tables(record)
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
