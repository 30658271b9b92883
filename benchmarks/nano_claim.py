"""What LaViDa-nano reads and what SHIRG changes: the claim, bar by bar.

    python benchmarks/nano_claim.py --json benchmarks/results/nano_claim.json

1. Large print (384 px pages, 14-22 px): `lowres`, one token a step.
2. LoRA adapters are trained as `shirg run` trains one, but at another learning rate: one on mixed budgets with every seed, and
   one each for `hd`, `highres`, `shirg-512` and `shirg-768` alone. The checkpoint with the lowest validation loss is evaluated.
3. Small print (672 px pages, 8-13 px): every vision path without an adapter, with the mixed one, and with its own.
4. The dial, on the first of these pages: exact match by token budget, without an adapter and with the first mixed one.
5. Heights of print, 8 to 40 px at 672: the paths without and with it, on rendered pages and on those of `plain_pages.py`, whose
   drawing shares nothing with them; one token a step.
6. Selectors: from the record of `nano_selectors.py`, if it is of the same weights.

Pages are held out: other values, and a third of them other typefaces, in known layouts. `nano_claim_targets.py` has the bars and
how they are decided.

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
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common import exit_code, run_facts
from filelock import FileLock, Timeout
from nano_claim_pages import DRAWINGS, SMALL_PRINT, asked, heights
from nano_claim_tables import LARGE, SMALL, draw, print_report
from nano_claim_targets import Rows, dial_of, effects_of, heights_of, judged, row_of

from shirg.data import build_loaders
from shirg.data.preparation import SHIRGDatasetConfig, SHIRGDatasetProcessor
from shirg.data.sources import Records
from shirg.errors import UserError
from shirg.evaluation.answering import Decoding
from shirg.evaluation.config import SHIRGEvaluationConfig
from shirg.evaluation.evaluator import ShareResult, SHIRGEvaluator
from shirg.evaluation.results import Answer, Results, from_json
from shirg.evaluation.variants import Variant
from shirg.files import check_writable, write_json
from shirg.lavida import Lavida
from shirg.lavida.loading import load_model
from shirg.nano.recipe import score
from shirg.training import SHIRGLoRAConfig, SHIRGLoRATrainer
from shirg.training.budgets import POOLED, BudgetSampler

BUDGETS = (512, 768)
DIAL = (32, 64, 128, 256, 512, 768, 1024, "auto")
SEEDS = (0, 1, 2)
LEARNING_RATE = 4e-3
"""Of three learning rates the one with the lowest validation loss: 285 steps lower it from 0.3107 to 0.3049 at `shirg run`'s
1e-4, to 0.2915 at 1e-3 and to 0.2875 at this."""
SAVE_STEPS = 20
"""Optimizer steps between checkpoints."""
TASK = "documents"
"""The task whose metrics score all pages: exact match and ANLS."""
ONE_A_STEP = replace(score.DECODING, step_ratio=1.0)
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Part:
    """One evaluation: its questions, how they are answered, and row of the table -> its variant with each training."""

    name: str
    records: Records
    rows: Mapping[str, Sequence[Variant]]
    decoding: Decoding = score.DECODING


def mixed(seed: int) -> str:
    """The adapter on mixed budgets of one seed."""
    return f"mixed-{seed}"


def only(path: str) -> str:
    """The adapter that is trained for one vision path and budget."""
    return f"only-{path}"


def paths(budgets: Iterable[int] = BUDGETS) -> list[Variant]:
    """LaViDa's vision paths, all tokens of the large view, and selections of them."""
    return [*map(Variant, ("lowres", "hd", "highres")), *(Variant("shirg", budget) for budget in budgets)]


def with_adapter(plain: Sequence[Variant], seeds: Iterable[int]) -> dict[str, list[Variant]]:
    """Rows without an adapter, then with the mixed one of every seed."""
    rows = {one.path: [one] for one in plain}
    return rows | {f"{one.path}+adapter": [replace(one, adapter=mixed(seed)) for seed in seeds] for one in plain}


def small_rows(seeds: Iterable[int]) -> dict[str, list[Variant]]:
    """Rows of the small-print table."""
    lowres, *others = paths(BUDGETS)
    rows = with_adapter([lowres, *others], seeds)
    return rows | {f"{one.path}+own adapter": [replace(one, adapter=only(one.path))] for one in others}


def parts(arguments: argparse.Namespace) -> Iterator[Part]:
    """Everything that is asked; pages are drawn when their part comes."""
    large = asked(score.LARGE_PRINT, arguments.large_questions)
    yield Part(LARGE, large, {"lowres": [Variant("lowres")]}, ONE_A_STEP)
    yield Part(SMALL, asked(SMALL_PRINT, arguments.questions), small_rows(arguments.seeds))
    first = arguments.seeds[:1]
    dial = with_adapter([Variant("shirg", budget) for budget in DIAL], first)
    yield Part("dial", asked(SMALL_PRINT, arguments.dial_questions), dial)
    yield Part("heights", heights(arguments.band_pages), with_adapter(paths(BUDGETS[-1:]), first), ONE_A_STEP)


def weights_digest(model: Lavida) -> str:
    """12 digits of the SHA-256 of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


# ---------------------------------------------------------------- adapters


class PooledAlone(SHIRGLoRAConfig):
    """Settings of a training of LaViDa's pooled path, `hd`, and of nothing else; `token_budgets` are not drawn."""

    def sampler(self, total_steps: int, pooled_tokens: int | None = None) -> BudgetSampler:
        """A sampler with one component."""
        found = super().sampler(total_steps, pooled_tokens)
        found.components = (POOLED,)
        return found


def trainings(arguments: argparse.Namespace, all_tokens: int) -> dict[str, SHIRGLoRAConfig]:
    """Adapter -> how it is trained; the longest first, so that two processes end together."""
    shared = dict(
        num_epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        save_steps=SAVE_STEPS,
        base_model=arguments.model,
        resume=True,
    )

    def config(name: str, budgets: Sequence[int], kind: type[SHIRGLoRAConfig] = SHIRGLoRAConfig, **more: object):
        return kind(token_budgets=list(budgets), output_dir=str(arguments.output_dir / name), **shared, **more)

    own = {only("highres"): [all_tokens]} | {only(f"shirg-{budget}"): [budget] for budget in BUDGETS}
    found = {name: config(name, budgets, include_pooled=False) for name, budgets in own.items()}
    found[only("hd")] = config(only("hd"), BUDGETS, PooledAlone)
    return found | {mixed(seed): config(mixed(seed), arguments.mixed_budgets, seed=seed) for seed in arguments.seeds}


def train_adapters(arguments: argparse.Namespace, configs: Mapping[str, SHIRGLoRAConfig]) -> None:
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
        for name, config in configs.items():
            try:
                with FileLock(folder / f"{name}.lock", timeout=timeout):
                    if not results_file(config).exists():
                        train_adapter(arguments, config, prepared)
            except Timeout:
                continue


def train_adapter(arguments: argparse.Namespace, config: SHIRGLoRAConfig, prepared: Path) -> None:
    """Train one adapter, from its latest checkpoint if it has one."""
    model = load_model(arguments.model)
    views = ("large", "tiles") if config.include_pooled else ("large",)
    loaders = build_loaders(prepared, config.batch_size, seed=config.seed, shapes=model.view_shapes(), views=views)
    SHIRGLoRATrainer(config, model).train(*loaders)


def results_file(config: SHIRGLoRAConfig) -> Path:
    """It is there when the training is complete."""
    return Path(config.output_dir) / "logs" / "training_results.json"


# ---------------------------------------------------------------- answers


def answered(
    arguments: argparse.Namespace, model: Lavida, part: Part, configs: Mapping[str, SHIRGLoRAConfig]
) -> tuple[Results, Rows] | None:
    """The results, and the answers by the rows of the table; None for a share, or without questions."""
    if not part.records:
        return None
    folder = arguments.output_dir / part.name.replace(" ", "-")
    run = list(itertools.chain(*part.rows.values()))
    named = dict.fromkeys(one.adapter for one in run if one.adapter)
    config = SHIRGEvaluationConfig(
        datasets=[TASK],
        token_budgets=list(dict.fromkeys(one.budget for one in run if one.budget)) or list(BUDGETS),
        sample_size=len(part.records),
        modes=list(dict.fromkeys(one.mode for one in run)),
        adapters={name: Path(configs[name].output_dir) / "checkpoints" / "best_model" for name in named},
        prompt_suffix="none",
        **dataclasses.asdict(part.decoding) | {"batch_size": score.QUESTIONS_PER_PAGE},
        output_dir=folder,
        efficiency_repeats=0,
        resume=True,
        num_shards=arguments.num_shards,
        shard_index=arguments.shard_index,
    )
    results = SHIRGEvaluator(config, model, benchmarks={TASK: part.records}, variants=run).evaluate()
    if isinstance(results, ShareResult):
        return None
    details = json.loads((folder / "detailed_results.json").read_text(encoding="utf-8"))
    answers = from_json(list[Answer], details["predictions"])
    by_variant = {variant: [one for one in answers if one.variant == variant] for variant in run}
    return results, {row: [by_variant[one] for one in each] for row, each in part.rows.items()}


def work(arguments: argparse.Namespace) -> None:
    """Measure what is missing, then print all tables."""
    check_writable(arguments.output_dir)
    model = load_model(arguments.model)
    rows, columns = model.tower.grid(model.vision.resolution, model.vision.resolution)
    configs = trainings(arguments, rows * columns)
    found: dict[str, tuple[Results, Rows] | None] = {}
    if arguments.questions or arguments.dial_questions or arguments.band_pages:
        train_adapters(arguments, configs)
    for part in parts(arguments):
        found[part.name] = answered(arguments, model, part, configs)
    if arguments.shard_index is not None:
        return
    record = record_of(arguments, model, found, configs)
    print_report(record)
    if arguments.json:
        write_json(arguments.json, record)
    if arguments.figure:
        if found["dial"] is None:
            raise UserError("--figure: there is nothing to draw without questions at every budget (--dial-questions)")
        draw(arguments.figure, found["dial"][0])


def record_of(
    arguments: argparse.Namespace,
    model: Lavida,
    found: Mapping[str, tuple[Results, Rows] | None],
    configs: Mapping[str, SHIRGLoRAConfig],
) -> dict:
    """Everything that was measured, as JSON values."""
    rows: dict[str, Rows] = {name: of[1] if of else {} for name, of in found.items()}
    digest = weights_digest(model)
    dial, dial_bar = dial_of(rows["dial"], DIAL)
    by_height = {drawing: heights_of(drawing, rows["heights"], f"shirg-{BUDGETS[-1]}") for drawing in DRAWINGS}
    bars = judged(BUDGETS, rows[LARGE], rows[SMALL], selectors(arguments.selectors_json, digest))
    names = ("dataset_size", "ocr_samples", "epochs", "batch_size", "learning_rate", "mixed_budgets", "seeds")
    return {
        **run_facts(model),
        "settings": {name: getattr(arguments, name) for name in names}
        | {"weights": digest, "decoding": dataclasses.asdict(score.DECODING), "device": model.device.type},
        "sets": {name: set_of(found[name]) for name in (LARGE, SMALL)},
        "bars": [*bars, *(bar for _, bar in by_height.values()), dial_bar],
        "effects": effects_of(rows[SMALL]),
        "dial": dial,
        "heights": {drawing: table for drawing, (table, _) in by_height.items()},
        "trainings": {
            name: training_of(results_file(config)) for name, config in configs.items() if results_file(config).exists()
        },
    }


def set_of(found: tuple[Results, Rows] | None) -> dict:
    """Rows of a set with intervals, and how many questions they answer."""
    if found is None:
        return {"pages": 0, "questions": 0, "seconds": 0.0, "rows": {}}
    results, rows = found
    (dataset,) = results.datasets
    counts = {"pages": dataset.pages, "questions": dataset.questions, "seconds": results.seconds}
    return counts | {"rows": {name: row_of(answers) for name, answers in rows.items()}}


def training_of(path: Path) -> dict:
    """What is kept of a training's results."""
    kept = ("steps", "steps_per_ratio", "seconds", "validation_before", "validation_after", "best_step")
    results = json.loads(path.read_text(encoding="utf-8"))
    return {name: results[name] for name in kept}


def selectors(path: Path, digest: str) -> dict | None:
    """The record of `nano_selectors.py`, if there is one of these weights."""
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return record if record["settings"]["weights"] == digest else None


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; the training's defaults are those of `shirg run`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="checkpoint folder (default: the one in the package)")
    parser.add_argument("--output-dir", type=Path, default=Path("nano_work/claim"), help="default: %(default)s")
    parser.add_argument("--questions", type=int, default=3000, help="about small print (default: %(default)s)")
    parser.add_argument("--large-questions", type=int, default=560, help="about large print (default: %(default)s)")
    parser.add_argument("--dial-questions", type=int, default=1000, help="at every budget (default: %(default)s)")
    bands = "of every height of print and drawing (default: %(default)s)"
    parser.add_argument("--band-pages", type=int, default=60, help=bands)
    selected = "record of nano_selectors.py (default: %(default)s)"
    parser.add_argument("--selectors-json", type=Path, default=RESULTS / "nano_selectors.json", help=selected)
    parser.add_argument("--shard-index", type=int, help="the share of this process")
    parser.add_argument("--num-shards", type=int, default=1, help="processes that share the pages")
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--figure", type=Path, help="where to draw the dial: score against visual tokens")
    for name, default in {"dataset-size": 1000, "ocr-samples": 200, "epochs": 1, "batch-size": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="of the trainings (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="default: %(default)s")
    budgets = "of the mixed adapter, beside the pooled path (default: %(default)s)"
    parser.add_argument("--mixed-budgets", type=int, nargs="+", default=[512, 768], help=budgets)
    seeds = "of the mixed adapter's trainings (default: %(default)s)"
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help=seeds)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The exit code, see `exit_code`."""
    arguments = parse(argv)
    return exit_code("nano_claim", lambda: work(arguments))


if __name__ == "__main__":
    sys.exit(main())
