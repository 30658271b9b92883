"""What LaViDa-nano reads and what SHIRG changes, target by target: the claim as one table.

    python benchmarks/nano_claim.py --json benchmarks/results/nano_claim.json

1. Large print (384 px pages, 14-22 px): `lowres`, shown the right page, another page of its kind, and a blank one.
2. Four LoRA adapters are trained as `shirg run` trains one, with the same records, steps and seed, but at the learning rate with
   the lowest validation loss: one on mixed budgets, and one each on 512, 768 and all 2304 tokens alone. The checkpoint with the
   lowest validation loss is evaluated.
3. Small print (672 px pages, 8-13 px): every vision path without an adapter and with the mixed one; `highres`, `shirg-512` and
   `shirg-768` also with their own, the one trained on that budget alone.

Pages are held out; those of the small print are used by no other program of ours. Intervals are 95 %, by resampling pages, given
one training of every adapter; comparisons are paired. Targets are about exact match.

--output-dir gets the adapters with their checkpoints, and an evaluation for each set. The same command resumes where it was
stopped. Several processes share the work, and a last call joins it:

    OMP_NUM_THREADS=1 python benchmarks/nano_claim.py --num-shards 2 --shard-index 0 &
    OMP_NUM_THREADS=1 python benchmarks/nano_claim.py --num-shards 2 --shard-index 1
    python benchmarks/nano_claim.py --num-shards 2 --json benchmarks/results/nano_claim.json
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from nano_claim_targets import LARGE, SMALL, print_report, record_of
from PIL import Image

from shirg.data import Record, build_loaders
from shirg.data.pages import Page
from shirg.data.preparation import SHIRGDatasetConfig, SHIRGDatasetProcessor
from shirg.data.sources import Records
from shirg.errors import UserError
from shirg.evaluation.config import SHIRGEvaluationConfig
from shirg.evaluation.environment import describe_environment, processor
from shirg.evaluation.evaluator import ShareResult, SHIRGEvaluator
from shirg.evaluation.figures import accuracy_chart, save_figure
from shirg.evaluation.results import Answer, Results, from_json
from shirg.evaluation.variants import Variant
from shirg.files import check_writable, write_json
from shirg.lavida import Lavida
from shirg.lavida.loading import load_model
from shirg.nano.recipe import score
from shirg.nano.recipe.score import PageSet
from shirg.training import SHIRGLoRAConfig, SHIRGLoRATrainer

BUDGETS = (512, 768)
MIXED = "mixed"
LEARNING_RATE = 4e-3
"""Of three learning rates the one with the lowest validation loss: 285 steps lower it from 0.3107 to 0.3049 at `shirg run`'s
1e-4, to 0.2915 at 1e-3 and to 0.2875 at this."""
SAVE_STEPS = 20
"""Optimizer steps between checkpoints."""
TASK = "documents"
"""The task whose metrics score all pages: exact match and ANLS."""
SMALL_PRINT = PageSet(SMALL, 672, (8.0, 13.0), -2_000_001)
SHOWN = ("right", "another", "blank")
"""Images about which the questions on large print are asked, see `score.shown_pages`."""


def variants(all_tokens: int) -> dict[str, Variant]:
    """Rows of the small-print table by their names."""
    served = [Variant("highres"), *(Variant("shirg", budget) for budget in BUDGETS)]
    paths = [Variant("lowres"), Variant("hd"), *served]
    rows = {variant.path: variant for variant in paths}
    rows |= {f"{variant.path}+adapter": dataclasses.replace(variant, adapter=MIXED) for variant in paths}
    own = {one: only(one.budget or all_tokens) for one in served}
    return rows | {f"{one.path}+own adapter": dataclasses.replace(one, adapter=name) for one, name in own.items()}


def only(budget: int | str) -> str:
    """The adapter that is trained for one budget."""
    return f"only-{budget}"


def asked(pages: PageSet, questions: int, image: Callable[[Page, int], Image.Image]) -> Records:
    """At least `questions` questions about the pages; `image` makes what is shown of a page from it and its number."""
    found = Records()
    for number in range(-(-questions // score.QUESTIONS_PER_PAGE)):
        page, data = pages.page(number), io.BytesIO()
        shown = image(page, number)
        shown.save(data, "PNG")
        about = dict(image=data.getvalue(), image_id=f"{pages.name} {number}", width=shown.width, height=shown.height)
        about |= dict(kind=page.kind, source="rendered", licence="Apache-2.0", split="test")
        for place, one in enumerate(pages.questions(page, number)):
            record = Record(id=f"{number}:{place}", question=one.question, answers=tuple(one.answers), **about)
            found.append(dataclasses.replace(record, text_px=one.text_px))
    return found


def weights_digest(model: Lavida) -> str:
    """12 digits of the SHA-256 of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


# ---------------------------------------------------------------- adapters


def train_adapters(arguments: argparse.Namespace, all_tokens: int) -> None:
    """Train the adapters that are missing; wait at the end for those that another process trains."""
    folder: Path = arguments.output_dir
    plan = SHIRGDatasetConfig(
        base_dataset_size=arguments.dataset_size,
        ocr_enhancement_size=arguments.ocr_samples,
        output_dir=folder / "data",
        num_workers=0,  # a share is one process
    )
    with FileLock(folder / "data.lock"):
        prepared = SHIRGDatasetProcessor(plan).prepare_full_dataset()
    for timeout in (0, -1):
        for name, budgets in adapters(arguments, all_tokens).items():
            try:
                with FileLock(folder / f"{name}.lock", timeout=timeout):
                    if not trained(folder / name):
                        train_adapter(arguments, name, budgets, prepared)
            except Timeout:
                continue


def train_adapter(arguments: argparse.Namespace, name: str, budgets: Sequence[int], prepared: Path) -> None:
    """Train one adapter, from its latest checkpoint if it has one."""
    config = SHIRGLoRAConfig(
        token_budgets=list(budgets),
        include_pooled=name == MIXED,
        num_epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        save_steps=SAVE_STEPS,
        base_model=arguments.model,
        output_dir=str(arguments.output_dir / name),
        resume=True,
    )
    model = load_model(arguments.model)
    views = ("large", "tiles") if config.include_pooled else ("large",)
    loaders = build_loaders(prepared, config.batch_size, shapes=model.view_shapes(), views=views)
    SHIRGLoRATrainer(config, model).train(*loaders)


def adapters(arguments: argparse.Namespace, all_tokens: int) -> dict[str, list[int]]:
    """Adapter -> the budgets that it is trained on; the longest training first, so that two processes end together."""
    return {only(budget): [budget] for budget in (all_tokens, *BUDGETS)} | {MIXED: arguments.mixed_budgets}


def trained(folder: Path) -> bool:
    """Whether the training in `folder` is complete."""
    return (folder / "logs" / "training_results.json").exists()


# ---------------------------------------------------------------- answers


def evaluated(
    arguments: argparse.Namespace,
    model: Lavida,
    name: str,
    records: Records,
    run: Mapping[str, Variant],
    folders: Mapping[str, Path],
) -> tuple[Results, dict[str, list[Answer]]] | None:
    """The results, and the answers by the rows of the table; None for a share, or without questions."""
    if not records:
        return None
    folder = arguments.output_dir / name
    config = SHIRGEvaluationConfig(
        datasets=[TASK],
        token_budgets=list(BUDGETS),
        sample_size=len(records),
        modes=list(dict.fromkeys(variant.mode for variant in run.values())),
        adapters=folders,
        prompt_suffix="none",
        **dataclasses.asdict(score.DECODING) | {"batch_size": score.QUESTIONS_PER_PAGE},
        output_dir=folder,
        efficiency_repeats=0,
        resume=True,
        num_shards=arguments.num_shards,
        shard_index=arguments.shard_index,
    )
    results = SHIRGEvaluator(config, model, benchmarks={TASK: records}, variants=list(run.values())).evaluate()
    if isinstance(results, ShareResult):
        return None
    details = json.loads((folder / "detailed_results.json").read_text(encoding="utf-8"))
    answers = from_json(list[Answer], details["predictions"])
    return results, {row: [one for one in answers if one.variant == variant] for row, variant in run.items()}


def draw(path: Path, results: Results) -> None:
    """Small print: score against visual tokens by both metrics, with the mixed adapter and without one."""
    (dataset,) = results.datasets
    kept = [variant for variant in results.variants if variant.adapter in (None, MIXED)]
    panels = [dataclasses.replace(dataset, metric=metric) for metric in score.MEASURES.values()]
    save_figure(accuracy_chart(dataclasses.replace(results, datasets=panels, variants=kept)), path)


def work(arguments: argparse.Namespace) -> None:
    """Measure what is missing, then print all tables."""
    check_writable(arguments.output_dir)
    model = load_model(arguments.model)
    rows, columns = model.tower.grid(model.vision.resolution, model.vision.resolution)
    about = {
        name: asked(
            score.LARGE_PRINT, arguments.large_questions, lambda page, number, name=name: shown_page(page, number, name)
        )
        for name in SHOWN
    }
    found = {
        name: evaluated(arguments, model, f"large-{name}", records, {name: Variant("lowres")}, {})
        for name, records in about.items()
    }
    small = asked(SMALL_PRINT, arguments.questions, lambda page, number: page.image)
    names = adapters(arguments, rows * columns)
    folders = {name: arguments.output_dir / name / "checkpoints" / "best_model" for name in names}
    if small:
        train_adapters(arguments, rows * columns)
    results = evaluated(arguments, model, "small", small, variants(rows * columns), folders)
    if arguments.shard_index is not None:
        return
    settings = {
        "weights": weights_digest(model),
        "decoding": dataclasses.asdict(score.DECODING),
        **{name: getattr(arguments, name) for name in ("dataset_size", "ocr_samples", "epochs", "batch_size")},
        "learning_rate": arguments.learning_rate,
        "mixed_budgets": list(arguments.mixed_budgets),
        "device": model.device.type,
    }
    sets = {
        LARGE: [(one[0].seconds, one[1]) for one in found.values() if one],
        SMALL: [(results[0].seconds, results[1])] if results else [],
    }
    run = {"settings": settings, "environment": describe_environment(model) | {"processor": processor()}}
    done = {name: arguments.output_dir / name / "logs" / "training_results.json" for name in sorted(names)}
    trainings = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in done.items() if path.exists()}
    record = record_of(sets, run, trainings)
    print_report(record)
    if arguments.json:
        write_json(arguments.json, record)
    if arguments.figure:
        if results is None:
            raise UserError("--figure: there is nothing to draw without questions about small print")
        draw(arguments.figure, results[0])


def shown_page(page: Page, number: int, name: str) -> Image.Image:
    """The image that is shown for a page of large print."""
    return score.shown_pages(page, number)[name]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; the training's defaults are those of `shirg run`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="checkpoint folder (default: the one in the package)")
    parser.add_argument("--output-dir", type=Path, default=Path("nano_work/claim"), help="default: %(default)s")
    parser.add_argument("--questions", type=int, default=3000, help="about small print (default: %(default)s)")
    parser.add_argument("--large-questions", type=int, default=560, help="about large print (default: %(default)s)")
    parser.add_argument("--shard-index", type=int, help="the share of this process")
    parser.add_argument("--num-shards", type=int, default=1, help="processes that share the pages")
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--figure", type=Path, help="where to draw small print: score against visual tokens")
    for name, default in {"dataset-size": 1000, "ocr-samples": 200, "epochs": 1, "batch-size": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="of the trainings (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="default: %(default)s")
    budgets = "of the mixed adapter, beside the pooled path (default: %(default)s)"
    parser.add_argument("--mixed-budgets", type=int, nargs="+", default=[512, 768], help=budgets)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, 2 for a mistake of the user, 130 for Ctrl-C; these two with one line on standard error."""
    arguments = parse(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("shirg").setLevel(logging.INFO)
    try:
        work(arguments)
    except UserError as error:
        print(f"nano_claim: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nano_claim: stopped by Ctrl-C; what was finished before is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
