"""`python -m shirg.integrations.lmms_task`: benchmarks as local tasks of lmms-eval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn

from shirg.cli.flags import EvaluationFlags
from shirg.cli.runner import run_command
from shirg.errors import UserError


@dataclasses.dataclass(kw_only=True)
class Flags(EvaluationFlags):
    """Write benchmarks as local tasks of lmms-eval."""

    prompt_suffix: Literal["official", "none"] = "none"
    """`official` adds what the benchmark's usual harness adds to a question; the nano was trained without."""

    output_dir: Path = Path("./lmms_tasks")
    """Gets a YAML and a Parquet file for each benchmark; give it to lmms-eval as --include_path."""


def command(flags: Flags) -> None:
    """Write, and print the names of the tasks."""
    from shirg.data import load_benchmark
    from shirg.integrations.lmms_task import write_task

    if not flags.datasets:
        raise UserError("--eval-datasets: none given, must be at least one name")
    for name in flags.datasets:
        records = load_benchmark(name, flags.eval_data_dir, flags.sample_size, flags.seed)
        print(f"task: {write_task(flags.output_dir, name, records, flags.prompt_suffix).stem}")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
