"""`shirg evaluate`: score and time every vision path and budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from shirg.cli.flags import AdaptedModelFlags, EvaluationFlags
from shirg.cli.runner import run_command
from shirg.errors import UserError

if TYPE_CHECKING:
    from shirg.evaluation.config import SHIRGEvaluationConfig
    from shirg.evaluation.evaluator import SHIRGEvaluator
    from shirg.lavida import Lavida


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(EvaluationFlags, AdaptedModelFlags):
    """Answer the benchmarks' questions through every vision path and budget, with and without an adapter, and time it."""

    output_dir: Path = Path("./shirg_evaluation")
    """Gets the results, the report and its figures."""


def evaluation_config(flags: EvaluationFlags, folder: Path) -> SHIRGEvaluationConfig:
    """The flags as the library's configuration.

    Raises:
        UserError: for a value that cannot be evaluated with.
    """
    from shirg.evaluation.config import SHIRGEvaluationConfig

    if flags.eval_data_dir is not None and not flags.eval_data_dir.is_dir():  # the embedded sets would never miss it
        raise UserError(f"--eval-data-dir: {flags.eval_data_dir} is no folder; give the one that holds the benchmarks")
    return SHIRGEvaluationConfig(
        datasets=list(flags.eval_datasets) or None,
        token_budgets=list(flags.token_budgets),
        sample_size=flags.eval_samples,
        data_dir=flags.eval_data_dir,
        output_dir=folder,
        seed=flags.seed,
    )


def check_benchmarks(config: SHIRGEvaluationConfig, model: Lavida) -> None:
    """Open one record of every benchmark, so that a missing one is known before the long work.

    Raises:
        UserError: if one is neither local nor reachable, or a budget is larger than the grid.
    """
    from shirg.data.sources import load_benchmark

    settings = config.resolved(model)
    for name in settings["datasets"]:
        load_benchmark(name, config.data_dir, limit=1, seed=config.seed)


def evaluator(config: SHIRGEvaluationConfig, model: Lavida) -> SHIRGEvaluator:
    """The evaluator of `model`."""
    from shirg.evaluation.evaluator import SHIRGEvaluator

    return SHIRGEvaluator(config, model, model.tower)


def command(flags: Flags) -> None:
    """Evaluate, and say where the report is."""
    from rich.console import Console

    from shirg.cli.models import check_writable, load_model

    config = evaluation_config(flags, flags.output_dir)
    check_writable(flags.output_dir)
    model = load_model(flags, flags.adapter)
    evaluator(config, model).run_evaluation()
    Console(soft_wrap=True).print(f"report: {flags.output_dir / 'evaluation_report.md'}", highlight=False)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
