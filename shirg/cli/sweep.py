"""`shirg sweep`: ablation of the gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

from shirg import ranges
from shirg.cli.flags import AdaptedModelFlags, BudgetFlags, SeedFlags
from shirg.cli.runner import command_line, run_command


@dataclasses.dataclass(kw_only=True)
class Flags(BudgetFlags, SeedFlags, AdaptedModelFlags):
    """Ablation: change one setting of the gate at a time, and measure the words and answers that are kept.

    Preset `runs`, the default, is compared with other edges, similarity only, variance only, no spread to neighbours or rows, no
    coverage, other clusters, other weights, no summary, and the presets `ocr` and `shirg-v2`.
    The pages are rendered from the held-out split, so the position of every word and answer is known.

    The default takes a few minutes on a CPU core. Ctrl-C keeps the pages that are done; --resume continues, also to more
    --pages. Everything but the date is the same for the same --seed.

    shirg sweep --pages 14                                     a minute

    shirg sweep --answers --pages 28 --token-budgets 256       effect of the summary token on answers
    """

    pages: Annotated[int, ranges.COUNT] = 60
    """Pages to measure, of seven kinds. Fewer are faster and leave more differences undecided."""

    questions: Annotated[int, ranges.COUNT] = 4
    """Largest number of questions per page; every setting selects again for each."""

    token_budgets: Annotated[tuple[int, ...], ranges.BUDGET] = (256, 512)
    """Visual tokens kept per page, one or more numbers."""

    answers: bool = False
    """Also answer every question with every selection (exact match, ANLS). Many times slower."""

    resume: bool = False
    """Keep the pages that the output folder already has."""

    output_dir: Path = Path("./shirg_sweep")
    """Gets `sweep.md`, `sweep.json`, `sweep.png`, and `pages.jsonl`, which grows page by page."""


def command(flags: Flags) -> None:
    """Measure, write, and print the tables."""
    from rich.console import Console
    from rich.markdown import Markdown

    from shirg.cli.models import load_model
    from shirg.evaluation.sweep import REPORT_FILE, SHOWN, run_sweep, sweep_table
    from shirg.locks import folder_lock

    with folder_lock(flags.output_dir):  # before the model is loaded, since a refused run need not load it
        record = run_sweep(
            load_model(flags, flags.adapter),
            flags.output_dir,
            pages=flags.pages,
            questions=flags.questions,
            token_budgets=flags.token_budgets,
            answers=flags.answers,
            seed=flags.seed,
            resume=flags.resume,
            command=command_line(),
        )
    console = Console(highlight=False)
    console.width = max(console.width, 160)
    for budget in record["run"]["token_budgets"]:
        console.print(Markdown(sweep_table(record, budget, SHOWN)))
    console.print(f"all measures: {flags.output_dir / REPORT_FILE}", markup=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
