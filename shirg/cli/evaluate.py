"""`shirg evaluate`: score and time every vision path and budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from tyro.conf import arg

from shirg.cli import config_file
from shirg.cli.flags import EvaluationFlags, GateFlags
from shirg.cli.processes import Processes
from shirg.cli.runner import command_line, run_command
from shirg.errors import UserError
from shirg.evaluation.config import BenchmarkSettings, EvaluationSettings, SHIRGEvaluationConfig
from shirg.locks import folder_lock
from shirg.settings import settings_of

if TYPE_CHECKING:
    from shirg.evaluation.evaluator import ShareResult, SHIRGEvaluator
    from shirg.evaluation.results import Results
    from shirg.lavida import Lavida


@dataclasses.dataclass(kw_only=True)
class Flags(EvaluationFlags, GateFlags, EvaluationSettings):
    """Evaluate every vision path and budget on benchmarks, without and with each adapter: scores, times and KV cache.

    Every answer is written at once: --resume continues after a crash or Ctrl-C. torchrun's processes divide the pages;
    array jobs divide them by --num-shards and --shard-index, and a last call without --shard-index joins the results.

    shirg evaluate --variants core --eval-samples 100          the core table: nine variants, 200 questions each

    shirg evaluate --full --eval-samples 100                   every path and every baseline, in one table

    shirg evaluate --variants shirg,uniform,divprune           one selector against others at the same budgets

    shirg evaluate --adapter mixed=DIR alone=DIR               several adapters in one table
    """

    adapter: Annotated[tuple[str, ...], arg(metavar="DIR|NAME=DIR [...]", help_behavior_hint="(default: none)")] = ()
    """Adapter folders, `best_model` or `checkpoint-N`: one by its folder, whose rows are called +adapter, or one or more
    with names, whose rows are called +NAME."""

    full: bool = False
    """Compare everything: the same as `--variants all`."""

    output_dir: Path = Path("./shirg_evaluation")
    """Gets the answers, the results, the report and its figures."""


def evaluation_config(
    flags: EvaluationFlags, section: type[BenchmarkSettings], folder: Path, **changes: Any
) -> SHIRGEvaluationConfig:
    """The flags of a section as the library's configuration, with `changes` to its fields.

    Raises:
        UserError: for a value that cannot be evaluated with.
    """
    if flags.eval_data_dir is not None and not flags.eval_data_dir.is_dir():  # the embedded sets do not read it
        raise UserError(f"--eval-data-dir: {flags.eval_data_dir} is no folder; give the folder of the benchmarks")
    where = {"data_dir": flags.eval_data_dir, "output_dir": folder, "command": command_line()}
    return SHIRGEvaluationConfig(**settings_of(section, flags) | where | changes)


def check_benchmarks(config: SHIRGEvaluationConfig, model: Lavida) -> None:
    """Open one record of every benchmark, so that a missing one is found before model and training are run.

    Raises:
        UserError: if one is neither local nor reachable, or a budget is larger than the grid.
    """
    from shirg.data.sources import load_benchmark

    settings = config.resolved(model)
    for name in settings.datasets:
        load_benchmark(name, config.data_dir, limit=1, seed=config.seed)


def evaluator(config: SHIRGEvaluationConfig, model: Lavida) -> SHIRGEvaluator:
    """The evaluator of `model`."""
    from shirg.evaluation.evaluator import SHIRGEvaluator

    return SHIRGEvaluator(config, model, model.tower)


def command(flags: Flags) -> None:
    """Evaluate, and print the table and the path of the report."""
    from rich.console import Console

    from shirg.cli.scoreboard import scoreboard
    from shirg.evaluation.evaluator import ShareResult

    processes = Processes.of_launcher()
    config = flags_config(flags, processes)
    with processes.joined():
        results = _results(flags, config, processes)
    if results is None:
        return
    console = Console(soft_wrap=True)
    if isinstance(results, ShareResult):
        last = (
            f"share {results.shard_index} of {results.num_shards}: {results.answers} answers in {results.file}; when all are "
            f"done, --num-shards {results.num_shards} without --shard-index joins them"
        )
    else:
        for shown in scoreboard(results):
            Console(width=max(console.width, 160)).print(shown)
        last = f"report: {flags.output_dir / 'evaluation_report.html'} (and .md)"
    console.print(last, highlight=False, markup=False)


def _results(flags: Flags, config: SHIRGEvaluationConfig, processes: Processes) -> Results | ShareResult | None:
    """The results to print; None in every process but the first."""
    from shirg.cli.models import load_model

    share = None if config.shard_index is None else (config.shard_index, config.num_shards)
    with folder_lock(flags.output_dir, share):  # before the model is loaded, since a refused run need not load it
        model = load_model(flags, adapters(flags.adapter)[0])
        made = evaluator(config, model)
        config_file.write(flags, flags.output_dir, resumed=flags.resume)
        results = made.evaluate()
    if processes.number == 1:
        return results
    processes.wait()
    if processes.rank > 0:
        return None
    return evaluator(dataclasses.replace(config, shard_index=None, resume=False), model).evaluate()


def adapters(given: Sequence[str]) -> tuple[Path | None, dict[str, Path]]:
    """The adapter given by its folder alone, and those with names.

    Raises:
        UserError: for two adapters without names, or two with the same name.
    """
    alone, named = [], {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or "/" in name or Path(text).exists():
            alone.append(Path(text))
        elif name in named:
            raise UserError(f"--adapter: two are called {name!r}; give each another name")
        else:
            named[name] = Path(folder)
    if len(alone) > 1:
        raise UserError(f"--adapter: got {' and '.join(map(str, alone))} without names; several are given as NAME=DIR")
    return alone[0] if alone else None, named


def flags_config(flags: Flags, processes: Processes) -> SHIRGEvaluationConfig:
    """The whole configuration of this process.

    Raises:
        UserError: for a value that cannot be evaluated with, or --num-shards or --shard-index under torchrun.
    """
    changes: dict[str, Any] = {"adapters": adapters(flags.adapter)[1]}
    if processes.number > 1:
        if flags.num_shards != 1 or flags.shard_index is not None:
            raise UserError("--num-shards, --shard-index: torchrun divides the pages itself; leave these flags out")
        changes |= {"num_shards": processes.number, "shard_index": processes.rank}
    if flags.full:
        if tuple(flags.modes) != Flags.modes:
            raise UserError(f"--full: compares everything; leave out --variants {' '.join(flags.modes)}, or --full")
        changes["modes"] = ["all"]
    return evaluation_config(flags, EvaluationSettings, flags.output_dir, **changes)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
