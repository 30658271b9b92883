"""What LaViDa-nano reads and what SHIRG does for it, bar by bar: the claim as one table.

    python benchmarks/nano_claim.py --json benchmarks/results/nano_claim.json

1. Large print (384 px pages, 14-22 px): `lowres`, shown the right page, another page of its kind, and a blank one.
2. Four LoRA adapters are trained as the main job trains its one, same records, steps and seed, but at the rate that validates
   best: one on mixed ratios, and one each for 512, 768 and all 2304 tokens alone. The step that validates best is measured.
3. Small print (672 px pages, 8-13 px): every vision path without an adapter and with the mixed one; `highres`, `shirg-512` and
   `shirg-768` also with the one that was trained for that budget alone, their own.

Pages are held out; the small print's are drawn by no other program of ours. Intervals are 95 %, by resampling pages, each for
itself and given one training of every adapter; comparisons are paired. Bars are compared in points of exact match.

Everything is kept in --output-dir: answers page by page, adapters with their checkpoints. The same command goes on where
it was stopped, Ctrl-C and kill -9 included, and may ask for more questions. Several processes share the work:

    OMP_NUM_THREADS=1 python benchmarks/nano_claim.py --num-shards 2 --shard-index 0 &
    OMP_NUM_THREADS=1 python benchmarks/nano_claim.py --num-shards 2 --shard-index 1
    python benchmarks/nano_claim.py --report --json benchmarks/results/nano_claim.json
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nano_claim_figure
from nano_claim_bars import LARGE, SMALL, print_report, record_of

from shirg.data import build_loaders
from shirg.data.pages import Page
from shirg.data.preparation import SHIRGDatasetConfig, SHIRGDatasetProcessor
from shirg.data.render import KINDS
from shirg.errors import UserError
from shirg.evaluation import answering
from shirg.evaluation.environment import describe_environment, processor
from shirg.evaluation.evaluator import progress_bar
from shirg.evaluation.journal import Journal
from shirg.evaluation.metrics import METRICS
from shirg.evaluation.variants import Variant
from shirg.files import check_writable, read_lines, write_json
from shirg.lavida import Lavida
from shirg.lavida.loading import load_model
from shirg.nano.recipe import score
from shirg.nano.recipe.score import PageSet
from shirg.training import SHIRGLoRAConfig, SHIRGLoRATrainer

FORMAT = "shirg-nano-claim-2"
"""Says how the output folder is laid out; a change of layout, pages or paths changes it."""
RUN_FILE, JOURNALS = "run.json", "pages-*.jsonl"
BUDGETS = (512, 768)
MIXED = "mixed"
LEARNING_RATE = 4e-3
"""Of three rates the one that validates best: the main job's 285 steps lower the loss from 0.3107 to 0.3049 at its own 1e-4, to
0.2915 at 1e-3 and to 0.2875 at this."""
SAVE_STEPS = 20
"""Optimizer steps that a killed training loses at most."""


# ---------------------------------------------------------------- what is asked


SMALL_PRINT = PageSet(SMALL, 672, (8.0, 13.0), -2_000_001)
SETS = {pages.name: pages for pages in (score.LARGE_PRINT, SMALL_PRINT)}


@dataclass(frozen=True)
class Reading:
    """A row of the small-print table: a vision path, and the name of the adapter that is on."""

    name: str
    variant: Variant
    adapter: str | None = None


def readings(all_tokens: int) -> list[Reading]:
    """The rows of the small-print table."""
    served = [Variant("highres"), *(Variant("shirg", budget) for budget in BUDGETS)]
    paths = [Variant("lowres"), Variant("hd"), *served]
    plain = [Reading(variant.path, variant) for variant in paths]
    mixed = [Reading(f"{variant.path}+adapter", variant, MIXED) for variant in paths]
    alone = [Reading(f"{one.path}+own adapter", one, only(one.budget or all_tokens)) for one in served]
    return [*plain, *mixed, *alone]


def only(budget: int) -> str:
    """The adapter that is trained for one budget."""
    return f"only-{budget}"


# ---------------------------------------------------------------- a run


@dataclass
class Run:
    """What all stages share."""

    folder: Path
    model: str
    settings: dict
    all_tokens: int
    shard: tuple[int, int]

    @property
    def adapters(self) -> dict[str, tuple[int, ...]]:
        """Adapter -> the budgets that it is trained on; what takes longest first, so that two processes end together."""
        alone = {only(budget): (budget,) for budget in (self.all_tokens, *BUDGETS)}
        return alone | {MIXED: tuple(self.settings["mixed_budgets"])}

    @property
    def journal(self) -> Path:
        """The file that gets the pages that this process reads."""
        index, shards = self.shard
        return self.folder / f"pages-{index}-of-{shards}.jsonl"

    def adapter(self, name: str) -> Path:
        """Where an adapter's training happens."""
        return self.folder / "adapters" / name

    def load(self, adapter: str | None = None) -> Lavida:
        """The model, with an adapter on."""
        best = None if adapter is None else self.adapter(adapter) / "checkpoints" / "best_model"
        return load_model(self.model, best)


def start(arguments: argparse.Namespace) -> Run:
    """The run of the output folder, begun now or going on.

    Raises:
        UserError: if the folder is of a run with other settings, there is no such shard, or a training could not begin.
    """
    if arguments.num_shards < 1:
        raise UserError(f"--num-shards: got {arguments.num_shards}, must be 1 or more")
    if not 0 <= arguments.shard_index < arguments.num_shards:
        raise UserError(
            f"--shard-index: got {arguments.shard_index}, must be from 0 to --num-shards - 1 = {arguments.num_shards - 1}"
        )
    check_writable(arguments.output_dir)
    model = load_model(arguments.model)
    settings = {
        "format": FORMAT,
        "weights": weights_digest(model),
        "pages": pages_digest(),
        "decoding": dataclasses.asdict(score.DECODING),
        **{name: getattr(arguments, name) for name in ("dataset_size", "ocr_samples", "epochs", "batch_size")},
        "learning_rate": arguments.learning_rate,
        "mixed_budgets": list(arguments.mixed_budgets),
        "device": model.device.type,
    }
    rows, columns = model.tower.grid(model.vision.resolution, model.vision.resolution)
    shard = arguments.shard_index, arguments.num_shards
    run = Run(arguments.output_dir, arguments.model, settings, rows * columns, shard)
    check_trainings(run)
    settle(arguments.output_dir, settings, describe_environment(model) | {"processor": processor()})
    return run


def settle(folder: Path, settings: dict, environment: dict) -> None:
    """Write down what the folder is for, or check it against what was written before."""
    with turn(folder / ".run.lock", wait=True):
        if not (folder / RUN_FILE).exists():
            write_json(folder / RUN_FILE, {"settings": settings, "environment": environment})
        before = read_run(folder)["settings"]
    for name, value in settings.items():
        if before.get(name) != value:
            raise UserError(
                f"--output-dir: {folder} holds a run with {name} {before.get(name)!r}, this one has {value!r}; "
                "use another folder"
            )


def read_run(folder: Path) -> dict:
    """Settings and environment of the run in a folder."""
    try:
        run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"--output-dir: {folder} holds no run yet; leave --report out to begin one") from error
    if run["settings"]["format"] != FORMAT:
        raise UserError(
            f"--output-dir: {folder} is of format {run['settings']['format']!r}, this program's is {FORMAT!r}; begin in another"
        )
    return run


def weights_digest(model: Lavida) -> str:
    """The model by its numbers: SHA-256, 12 digits of it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def pages_digest() -> str:
    """Changes with the renderer, its fonts and Pillow, as far as the first page of every kind shows it."""
    digest = hashlib.sha256()
    for pages in SETS.values():
        for number in range(len(KINDS)):
            page = pages.page(number)
            digest.update(page.image.tobytes() + repr(pages.questions(page, number)).encode())
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def turn(lock: Path, wait: bool) -> Iterator[bool]:
    """Whether this process holds `lock`, which one process at a time does until it ends, however it ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


# ---------------------------------------------------------------- adapters


def train_adapters(run: Run) -> None:
    """All adapters that are not there yet. What another process is training is left to it, and waited for at the end."""
    for wait in (False, True):
        for name in run.adapters:
            with turn(run.adapter(name).with_suffix(".lock"), wait) as mine:
                if mine and not trained(run.adapter(name)):
                    train_adapter(run, name)


def trained(folder: Path) -> bool:
    """Whether the training in `folder` came to its end."""
    return (folder / "logs" / "training_results.json").exists()


def train_adapter(run: Run, name: str) -> None:
    """One adapter by the main job's own steps, from its latest checkpoint if it has one."""
    with turn(run.folder / ".data.lock", wait=True):
        folder = SHIRGDatasetProcessor(data_plan(run)).prepare_full_dataset()
    config, model = training_config(run, name), run.load()
    views = ("large", "tiles") if config.include_pooled else ("large",)
    loaders = build_loaders(folder, config.batch_size, shapes=model.view_shapes(), views=views)
    SHIRGLoRATrainer(config, model).train(*loaders)


def training_config(run: Run, name: str) -> SHIRGLoRAConfig:
    """How an adapter is trained.

    Raises:
        UserError: for a setting that cannot be trained with.
    """
    return SHIRGLoRAConfig(
        token_budgets=list(run.adapters[name]),
        include_pooled=name == MIXED,
        num_epochs=run.settings["epochs"],
        batch_size=run.settings["batch_size"],
        learning_rate=run.settings["learning_rate"],
        save_steps=SAVE_STEPS,
        base_model=run.model,
        output_dir=str(run.adapter(name)),
        resume=True,
    )


def data_plan(run: Run) -> SHIRGDatasetConfig:
    """What all adapters are trained on."""
    plan = SHIRGDatasetConfig(
        base_dataset_size=run.settings["dataset_size"],
        ocr_enhancement_size=run.settings["ocr_samples"],
        output_dir=run.folder / "data",
        num_workers=0,  # a share is one process
    )
    plan.check()
    return plan


def check_trainings(run: Run) -> None:
    """Find out now what would end a training after an hour of other work.

    Raises:
        UserError: for a setting that cannot be trained with.
    """
    data_plan(run)
    for name, budgets in run.adapters.items():
        training_config(run, name)
        if max(budgets) > run.all_tokens:
            raise UserError(f"--mixed-budgets: {max(budgets)} exceeds the {run.all_tokens} tokens of a page")


# ---------------------------------------------------------------- pages


def read_pages(run: Run, name: str, count: int) -> None:
    """Ask about this process's share of the pages of a set that no journal has yet."""
    index, shards = run.shard
    share = range(count)[index::shards]
    done = {entry["number"] for entry in measured(run.folder) if entry["set"] == name}
    missing = [number for number in share if number not in done]
    if not missing:
        return
    journal = Journal(run.journal, run.settings, lambda entry: entry["page"], resume=True, noun="page")
    models = {None: run.load()}
    if name == SMALL:
        models |= {adapter: run.load(adapter) for adapter in run.adapters}
    with progress_bar(len(share), len(share) - len(missing), shown=True) as advance:
        for number in missing:
            journal.add(ask(run, models, SETS[name], number))
            advance(f"{name} pages", 1)


def ask(run: Run, models: dict[str | None, Lavida], pages: PageSet, number: int) -> dict:
    """Answers to the questions of one page in every way that its set compares, and their scores."""
    began = time.perf_counter()
    page = pages.page(number)
    asked = pages.questions(page, number)
    entry = {
        "page": f"{pages.name} {number}",
        "set": pages.name,
        "number": number,
        "kind": page.kind,
        "seed": page.seed,
    }
    entry["asked"] = [dataclasses.asdict(question) for question in asked]
    entry |= {"said": {}, "tokens": {}, **{measure: {} for measure in score.MEASURES}}
    for name, view, variant in ways(run, models, pages, number, page):
        answers = view.answers(variant, [question.question for question in asked], score.DECODING)
        said, tokens = zip(*answers, strict=True)
        entry["said"][name], entry["tokens"][name] = list(said), tokens[0]
        for measure, metric in score.MEASURES.items():
            marks = [METRICS[metric](text, one.answers) for text, one in zip(said, asked, strict=True)]
            entry[measure][name] = marks
    return entry | {"seconds": round(time.perf_counter() - began, 3)}


def ways(
    run: Run, models: dict[str | None, Lavida], pages: PageSet, number: int, page: Page
) -> Iterator[tuple[str, answering.Page, Variant]]:
    """(row of the table, page before a model, vision path). Small print is seen by the tower once for every view."""
    if pages.name == LARGE:
        for name, image in score.shown_pages(page, number).items():
            yield name, answering.Page(models[None], image), Variant("lowres")
        return
    seen = answering.Page(models[None], page.image)
    for reading in readings(run.all_tokens):
        # The adapters are on the projector, behind the tower: all models share what it saw.
        yield reading.name, dataclasses.replace(seen, model=models[reading.adapter]), reading.variant


def measured(folder: Path) -> list[dict]:
    """The pages in all journals of a folder, each once; a line that is being written, or never was to its end, is none."""
    found = {}
    for path in sorted(folder.glob(JOURNALS)):
        for entry in read_lines(path)[1:]:  # behind the run's settings
            found.setdefault((entry["set"], entry["number"]), entry)
    return [found[key] for key in sorted(found)]


# ---------------------------------------------------------------- command line


def work(arguments: argparse.Namespace) -> None:
    """Measure what is missing, then print the table of all that is there."""
    asked = {LARGE: arguments.large_questions, SMALL: arguments.questions}
    for flag, questions in zip(("--large-questions", "--questions"), asked.values(), strict=True):
        if questions < 0:
            raise UserError(f"{flag}: got {questions}, must be 0 or more")
    pages = {name: -(-questions // score.QUESTIONS_PER_PAGE) for name, questions in asked.items()}
    folder = arguments.output_dir
    if not arguments.report:
        run = start(arguments)
        with turn(run.journal.with_suffix(".lock"), wait=False) as mine:
            if not mine:
                raise UserError(f"--shard-index: another process is at work on this share of {folder}")
            read_pages(run, LARGE, pages[LARGE])
            train_adapters(run)
            read_pages(run, SMALL, pages[SMALL])
    told = read_run(folder)
    record = record_of(measured(folder), told, trainings(folder), pages)
    print_report(record)
    if arguments.json:
        write_json(arguments.json, record)
    if arguments.figure:
        nano_claim_figure.draw(arguments.figure, record)


def trainings(folder: Path) -> dict[str, dict]:
    """What the finished trainings in a folder say of themselves."""
    names = sorted(path.name for path in (folder / "adapters").glob("*/") if trained(path))
    paths = {name: folder / "adapters" / name / "logs" / "training_results.json" for name in names}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; the training's defaults are those of the main job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="checkpoint folder (default: the one in the package)")
    parser.add_argument("--output-dir", type=Path, default=Path("nano_work/claim"), help="default: %(default)s")
    parser.add_argument("--questions", type=int, default=3000, help="about small print (default: %(default)s)")
    parser.add_argument("--large-questions", type=int, default=560, help="about large print (default: %(default)s)")
    parser.add_argument("--shard-index", type=int, default=0, help="which share of the pages this process reads")
    parser.add_argument("--num-shards", type=int, default=1, help="how many processes share the pages")
    parser.add_argument("--report", action="store_true", help="measure nothing, print what is there")
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--figure", type=Path, help="where to draw small print: score against visual tokens")
    training = parser.add_argument_group("training of the adapters")
    training.add_argument("--dataset-size", type=int, default=1000, help="default: %(default)s")
    training.add_argument("--ocr-samples", type=int, default=200, help="default: %(default)s")
    training.add_argument("--epochs", type=int, default=1, help="default: %(default)s")
    training.add_argument("--batch-size", type=int, default=4, help="default: %(default)s")
    training.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="default: %(default)s")
    training.add_argument(
        "--mixed-budgets",
        type=int,
        nargs="+",
        default=(512, 768),
        help="of the mixed adapter, beside the pooled path (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, 2 for what the user can mend, 130 for Ctrl-C; these two with one line on standard error."""
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
