"""`shirg run`: prepare, train, evaluate and report."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from shirg.cli import checkup, config_file, evaluate, prepare, train
from shirg.cli.flags import AdaptedModelFlags, DataFlags, EvaluationFlags, GateFlags, OptionalFolder, TrainingFlags
from shirg.cli.runner import command_line, run_command
from shirg.data.config import DataSettings, SHIRGDatasetConfig
from shirg.errors import UserError
from shirg.evaluation.config import BenchmarkSettings, Repeats, SHIRGEvaluationConfig
from shirg.locks import folder_lock
from shirg.settings import settings_of

if TYPE_CHECKING:
    from shirg.evaluation.results import Results
    from shirg.lavida import Lavida
    from shirg.training.config import SHIRGLoRAConfig

MODES_AFTER_TRAINING = ("lowres", "hd", "shirg")
"""Vision paths evaluated after a training: LaViDa's own and SHIRG's. `highres` takes as long as the others together and is left
to `shirg evaluate`."""

STAGES_FILE = "logs/stages.json"
"""Seconds of every stage, in the output folder."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class Flags(EvaluationFlags, TrainingFlags, DataFlags, GateFlags, AdaptedModelFlags):
    """Prepare data, train SHIRG's adapter, evaluate it and write a report.

    The defaults need no files and no GPU: LaViDa-nano, rendered pages, five minutes on two CPU cores.
    """

    adapter: OptionalFolder = None
    """Folder of an adapter. Training starts from it; with --skip-training it is evaluated."""

    skip_training: bool = False
    """Only evaluate: the --adapter, else best_model in the output folder, else the model without an adapter."""

    efficiency_repeats: Repeats = 3
    """Repetitions, of which each stage's time is the median; 0 turns timing off."""

    skip_evaluation: bool = False
    """Stop after training."""

    output_dir: Path = Path("./shirg_lora_output")
    """Gets `data/`, `checkpoints/` with `best_model/`, `logs/`, `evaluation/` and `SHIRG_TRAINING_REPORT.md`."""


def command(flags: Flags) -> None:
    """Run all stages. Flags are checked before the first long stage."""
    stages = Stages()

    # ------------------------------------------------------------- check
    if flags.skip_training and flags.skip_evaluation:
        raise UserError("--skip-training --skip-evaluation: nothing is left to do; leave one of them out")
    changes: dict[str, Any] = {} if flags.skip_training else {"modes": MODES_AFTER_TRAINING}
    changes["efficiency_repeats"] = flags.efficiency_repeats
    evaluation = evaluate.evaluation_config(flags, BenchmarkSettings, flags.output_dir / "evaluation", **changes)
    data = data_config(flags)  # without evaluation images
    training = train.training_config(flags, flags.model, flags.output_dir)
    with contextlib.ExitStack() as locks:
        for folder in _written_folders(flags):
            locks.enter_context(folder_lock(folder))
        _run(flags, data, training, evaluation, stages)


def _written_folders(flags: Flags) -> list[Path]:
    """The folders to lock, since another command might write to them at the same time."""
    parts = {"data": not flags.skip_training, "evaluation": not flags.skip_evaluation}
    return [flags.output_dir, *(flags.output_dir / name for name, is_written in parts.items() if is_written)]


def data_config(flags: Flags) -> SHIRGDatasetConfig:
    """The training data's configuration. A resumed run keeps its image resolution and refuses other data.

    Raises:
        OtherRunError: if --resume is given with other data than the run's.
    """
    from shirg.data.manifest import read_manifest
    from shirg.identity import check_same_run

    folder = flags.output_dir / "data"
    side, before = prepare.Flags.image_resolution, None
    if flags.resume and not flags.skip_training and (folder / "manifest.json").is_file():
        before = read_manifest(folder)["configuration"]
        side = before["image_resolution"]
    data = SHIRGDatasetConfig(
        **settings_of(DataSettings, flags),
        output_dir=folder,
        image_resolution=flags.image_resolution or side,
        exclude_data_dir=flags.eval_data_dir,
    )
    data.check()
    if before is not None:
        check_same_run(folder, before, data.content())
    return data


def _run(
    flags: Flags, data: SHIRGDatasetConfig, training: SHIRGLoRAConfig, evaluation: SHIRGEvaluationConfig, stages: Stages
) -> None:
    from shirg.cli.models import load_model

    # ------------------------------------------------------------- model
    with stages.timed("model"):
        model = load_model(flags, _adapter(flags))
        if not flags.skip_training:
            training.check_grid(model)
            if flags.image_resolution is None and not flags.resume:
                data = dataclasses.replace(data, image_resolution=model.vision.resolution)
                data.check()
        if not flags.skip_evaluation:
            evaluate.check_benchmarks(evaluation, model)

    if flags.skip_training:
        config_file.write(flags, flags.output_dir, resumed=flags.resume)

    # ------------------------------------------------------------- prepare and train
    report: dict[str, Any] = {"command": command_line()}
    if not flags.skip_training:
        report |= _prepare_and_train(flags, data, training, model, stages)

    # ------------------------------------------------------------- evaluate
    if not flags.skip_evaluation:
        with stages.timed("evaluation"):
            report["evaluation"] = _evaluate(flags, evaluation, model)

    # ------------------------------------------------------------- report
    _write_report(flags, report, stages)


def _adapter(flags: Flags) -> Path | None:
    """The adapter to start from, to resume, or to evaluate; with --skip-training, by default the output folder's best_model.

    Raises:
        OtherRunError: if --resume finds a training that started from another --adapter.
    """
    if not flags.skip_training:
        latest = train.resumed_from(flags.output_dir) if flags.resume else None
        if latest is not None and flags.adapter is not None:
            _check_start(latest, flags.adapter)
        return latest or flags.adapter
    best = flags.output_dir / "checkpoints" / "best_model"
    if flags.adapter is None and best.is_dir():
        logger.info("adapter: %s", best)
        return best
    if flags.adapter is None:
        logger.info("adapter: none (no --adapter, and no %s); the model is evaluated as it is", best)
    return flags.adapter


def _check_start(latest: Path, adapter: Path) -> None:
    from shirg.identity import check_same_run, of_tensors
    from shirg.lavida.adapter import stored_weights
    from shirg.training.checkpoints import stored_run

    before = stored_run(latest)
    if "started_from" in before:  # not in what earlier versions stored
        check_same_run(latest, before, {"started_from": of_tensors(stored_weights(adapter).items())})


@dataclasses.dataclass
class Stages:
    """Seconds of each part of the run."""

    began: float = dataclasses.field(default_factory=time.perf_counter)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the block's seconds under a name."""
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 1)

    @property
    def total(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.began


def _prepare_and_train(
    flags: Flags, data: SHIRGDatasetConfig, training: SHIRGLoRAConfig, model: Lavida, stages: Stages
) -> dict[str, Any]:
    """Prepare the data and train; loads the best adapter into the model. Returns the report's entries on both stages."""
    from shirg.cli.models import load_model
    from shirg.data.loader import RecordDataset
    from shirg.data.preparation import SHIRGDatasetProcessor
    from shirg.evaluation.checklist import judged

    with stages.timed("pages"):
        folder = SHIRGDatasetProcessor(data).prepare_full_dataset()
    logger.info("data: %s", prepare.summary(folder))
    named = {"Training data readable": checkup.data(folder), "Free disk space": checkup.disk(flags.output_dir)}
    before = [judged(name, finding.good, finding.found) for name, finding in named.items()]
    if not flags.resume:
        keep_report(flags.output_dir)
    with stages.timed("training"):
        results = train.train(flags, training, model, folder)

    checkpoints = flags.output_dir / "checkpoints"
    page = RecordDataset(folder, "train")[0].open_image()
    last = checkpoints / f"checkpoint-{results['steps']}"
    found = checkup.adapter_reloads(model, lambda: load_model(flags), last, page, flags.token_budgets)
    reload = judged("Adapter saved and reloads with equal outputs", found.good, found.found)
    model.load_adapter(checkpoints / "best_model")
    settings = dataclasses.asdict(training.resolved(model))
    return {"settings": settings, "training": results, "before": before, "reload": reload}


def _evaluate(flags: Flags, config: SHIRGEvaluationConfig, model: Lavida) -> Results:
    """Evaluate; --resume continues the answers of a stopped run, unless its adapter was another one."""
    from shirg.evaluation.results import Results
    from shirg.identity import OtherRunError

    try:
        found = evaluate.evaluator(dataclasses.replace(config, resume=flags.resume), model).evaluate()
    except OtherRunError as error:
        logger.info("the evaluation starts again, since its answers are of another run (%s)", error)
        found = evaluate.evaluator(config, model).evaluate()
    assert isinstance(found, Results), "a run has no shares"
    return found


def _write_report(flags: Flags, report: dict[str, Any], stages: Stages) -> None:
    from rich.console import Console

    from shirg.evaluation.takeaway import takeaway
    from shirg.evaluation.training_report import REPORT_FILE, write_training_report
    from shirg.files import write_json

    path = flags.output_dir / REPORT_FILE
    if flags.skip_training:
        keep_report(flags.output_dir)
    with stages.timed("report"):
        write_training_report(flags.output_dir, seconds=stages.total, **report)
    write_json(flags.output_dir / STAGES_FILE, stages.seconds)
    console = Console(soft_wrap=True, highlight=False)
    for line in takeaway(report.get("evaluation"), report.get("training")):
        console.print(line, markup=False)
    took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.seconds.items())
    console.print(f"took {stages.total:.0f} s: {took}", markup=False)
    console.print(f"report: {path}", markup=False)


def keep_report(folder: Path) -> None:
    """Rename the report of an earlier training to the first free of `NAME.old-1.md`, `NAME.old-2.md`, ..., so that none stands
    beside another adapter than its own."""
    from shirg.evaluation.training_report import REPORT_FILE

    path = folder / REPORT_FILE
    if path.exists():
        numbered = (path.with_name(f"{path.stem}.old-{number}{path.suffix}") for number in itertools.count(1))
        path.rename(next(name for name in numbered if not name.exists()))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
