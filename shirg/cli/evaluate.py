"""`shirg evaluate`: score and time every vision path and budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from tyro.conf import arg

from shirg import ranges
from shirg.cli import config_file
from shirg.cli.flags import AdaptedModelFlags, EvaluationFlags, GateFlags
from shirg.cli.processes import Processes
from shirg.cli.runner import command_line, run_command
from shirg.errors import UserError
from shirg.locks import owned

if TYPE_CHECKING:
    from shirg.evaluation.config import SHIRGEvaluationConfig
    from shirg.evaluation.evaluator import SHIRGEvaluator
    from shirg.lavida import Lavida

DEFAULT_VARIANTS = "(default: lowres hd highres shirg)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(EvaluationFlags, GateFlags, AdaptedModelFlags):
    """Answer the benchmarks' questions through every vision path and budget, with and without an adapter, and time it.

    Answers are written as they come: --resume goes on after a crash or Ctrl-C. Under torchrun the pages are shared out to
    the processes; array jobs share them with --num-shards and --shard-index, and a last call without --shard-index
    joins what they left.

    shirg evaluate --variants core --eval-samples 100          the core table: nine variants, 200 questions each

    shirg evaluate --full --eval-samples 100                   every path and every other rule, in one table

    shirg evaluate --variants shirg,uniform,divprune           one rule against others at the same budgets
    """

    variants: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]", help_behavior_hint=DEFAULT_VARIANTS)] = ()
    """What to compare: `core`, `all`, or some of lowres hd hd-flat highres multiview-all, and, once per budget, shirg multiview
    and other rules (uniform random pool divprune cdpruner ...); separated by blanks or commas."""

    full: bool = False
    """Compare everything: what `--variants all` says."""

    timing_repeats: Annotated[int, ranges.REPEATS, arg(metavar="INT")] = 5
    """Runs of which each stage's time is the median; 0 leaves timing out."""

    resume: bool = False
    """Go on after the answers in the output folder. Without it, an earlier run's files move into a folder `old-N` there."""

    num_shards: Annotated[
        int | None, ranges.PARTS, arg(metavar="INT", help_behavior_hint="(default: torchrun's processes, else 1)")
    ] = None
    """Parts that the pages are dealt out to; all share the output folder."""

    shard_index: Annotated[
        int | None, ranges.PART, arg(metavar="INT", help_behavior_hint="(default: torchrun's, else none)")
    ] = None
    """Answer this part only, counted from 0."""

    output_dir: Path = Path("./shirg_evaluation")
    """Gets the answers, the results, the report and its figures."""


def evaluation_config(flags: EvaluationFlags, folder: Path, **changes: Any) -> SHIRGEvaluationConfig:
    """The flags as the library's configuration, with `changes` to its fields.

    Raises:
        UserError: for a value that cannot be evaluated with.
    """
    from shirg.evaluation.config import SHIRGEvaluationConfig

    numbers = [budget for budget in flags.token_budgets if budget != "auto"]
    if len(numbers) < len(flags.token_budgets):
        raise UserError("--token-budgets: auto can be trained, not evaluated; give numbers")

    if flags.eval_data_dir is not None and not flags.eval_data_dir.is_dir():  # the embedded sets would never miss it
        raise UserError(f"--eval-data-dir: {flags.eval_data_dir} is no folder; give the one that holds the benchmarks")
    return SHIRGEvaluationConfig(
        datasets=list(flags.eval_datasets) or None,
        token_budgets=numbers,
        sample_size=flags.eval_samples,
        data_dir=flags.eval_data_dir,
        output_dir=folder,
        seed=flags.seed,
        **changes,
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
    """Evaluate, show the table, and say where the report is."""
    from rich.console import Console

    from shirg.cli.scoreboard import scoreboard

    processes = Processes.of_launcher()
    config = flags_config(flags, processes)
    with processes.joined():
        results = _results(flags, config, processes)
    if results is None:
        return
    console = Console(soft_wrap=True)
    for shown in scoreboard(results) if "scores" in results else ():
        Console(width=max(console.width, 160)).print(shown)
    console.print(said(flags, results), highlight=False, markup=False)


def _results(flags: Flags, config: SHIRGEvaluationConfig, processes: Processes) -> dict[str, Any] | None:
    """What there is to show, None for all but the first of several processes."""
    from shirg.cli.models import load_model

    share = None if config.shard_index is None else (config.shard_index, config.num_shards)
    with owned(flags.output_dir, share):  # from here on, so that nobody loads a model in vain
        model = load_model(flags, flags.adapter)
        asked = evaluator(config, model)
        config_file.write(flags, flags.output_dir, resumed=flags.resume)
        results = asked.run_evaluation()
    if processes.number == 1:
        return results
    processes.wait()
    if processes.rank > 0:
        return None
    return evaluator(dataclasses.replace(config, shard_index=None, resume=False), model).run_evaluation()


def flags_config(flags: Flags, processes: Processes) -> SHIRGEvaluationConfig:
    """The whole configuration of this process.

    Raises:
        UserError: for a value that cannot be evaluated with, or shards given by hand under torchrun.
    """
    by_hand = flags.num_shards is not None or flags.shard_index is not None
    if processes.number > 1 and by_hand:
        raise UserError("--num-shards, --shard-index: torchrun shares the pages out itself; leave them out")
    shards = {"num_shards": 1 if flags.num_shards is None else flags.num_shards, "shard_index": flags.shard_index}
    if processes.number > 1:
        shards = {"num_shards": processes.number, "shard_index": processes.rank}
    names = [name for words in flags.variants for name in words.split(",") if name]
    if flags.variants and not names:
        raise UserError(f"--variants: got {' '.join(flags.variants)!r}, must be at least one name")
    if flags.full and names:
        raise UserError(f"--full: compares everything; leave out --variants {' '.join(flags.variants)}, or --full")
    names = ["all"] if flags.full else names
    chosen: dict[str, Any] = {"modes": names} if names else {}
    chosen["efficiency_repeats"] = flags.timing_repeats
    return evaluation_config(flags, flags.output_dir, **chosen, **shards, resume=flags.resume, command=command_line())


def said(flags: Flags, results: dict[str, Any]) -> str:
    """What is left to say: where the report is, or what a shard has done."""
    if "shard_index" not in results:
        return f"report: {flags.output_dir / 'evaluation_report.html'} (and .md)"
    number = results["num_shards"]
    return (
        f"shard {results['shard_index']} of {number}: {results['answers']} answers in {results['file']}; when all are done, "
        f"--num-shards {number} without --shard-index joins them"
    )


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
