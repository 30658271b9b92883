"""`shirg sweep`: what each part of the gate is worth."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from shirg import ranges
from shirg.cli.flags import AdaptedModelFlags, BudgetFlags, SeedFlags
from shirg.cli.runner import run_command

if TYPE_CHECKING:
    from rich.table import Table

RESULTS_FILE, TABLE_FILE, PAGE_FILE = "sweep.json", "sweep.md", "sweep.html"
LEGEND = (
    "in %; + better, - worse than the default (95% interval of the paired difference); empty tiles: fewer is better; "
    "gate ms: best of the pages"
)
WIDTH = {False: 80, True: 100}
"""Columns that the table needs on a terminal, without and with answers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(BudgetFlags, SeedFlags, AdaptedModelFlags):
    """Leave parts of the gate out, or weigh them otherwise, and count what is kept of pages whose words are known.

    Measured are: the default; no coverage; no edge term; edges as mean gradient, density, strokes or patch variance;
    relevance lent to its row; no summary; variance only; similarity only; the `ocr` preset; and a grid of alpha and beta.
    The pages are rendered and held out from training, so every word, question and answer has a known place. Each page goes
    through the tower once. A setting that is hopeless is stopped after 14 pages at the earliest, and marked.

    The default takes two minutes on a free CPU core, five on a busy one. Ctrl-C keeps the pages that are done; --resume
    goes on, also to more --pages. Everything but the times is the same for the same --seed.

    shirg sweep --pages 14                                     a first look in half a minute

    shirg sweep --answers --pages 28 --token-budgets 256       what the summary token is worth to the reader
    """

    pages: Annotated[int, ranges.COUNT] = 60
    """Pages to measure, seven kinds in turn. Fewer are faster and leave more differences undecided."""

    questions: Annotated[int, ranges.COUNT] = 4
    """Most questions per page; every setting chooses again for each."""

    token_budgets: Annotated[tuple[int, ...], ranges.BUDGET] = (256, 768)
    """Visual tokens kept per page, one or more numbers; the heat map is drawn for the smallest."""

    answers: bool = False
    """Also let the model answer every question from every selection: exact match and ANLS. Many times slower."""

    early_stop: bool = True
    """Stop measuring settings that are certain to be worse than the default by 5 points or more of the answers' patches."""

    resume: bool = False
    """Go on after the pages that the output folder already has."""

    output_dir: Path = Path("./shirg_sweep")
    """Gets `sweep.html`, `sweep.md`, `sweep.json`, `heatmap.png`, and `pages.jsonl`, which grows page by page."""


def command(flags: Flags) -> None:
    """Measure, write, and show the table."""
    from rich.console import Console

    from shirg.cli.models import load_model
    from shirg.cli.run import command_line
    from shirg.evaluation.sweep import Sweep, SweepConfig
    from shirg.evaluation.sweep_figure import heat_map
    from shirg.evaluation.sweep_page import sweep_page
    from shirg.evaluation.sweep_report import FIGURE_FILE, sweep_report
    from shirg.files import write_json, write_text
    from shirg.locks import owned

    config = SweepConfig(
        pages=flags.pages,
        questions=flags.questions,
        token_budgets=flags.token_budgets,
        answers=flags.answers,
        seed=flags.seed,
        early_stop=flags.early_stop,
        resume=flags.resume,
        output_dir=flags.output_dir,
        model=flags.model,
        adapter=None if flags.adapter is None else str(flags.adapter),
        command=command_line(),
    )
    with owned(flags.output_dir):
        sweep = Sweep(config, load_model(flags, flags.adapter))
        began = time.perf_counter()
        pages = sweep.run()
        record = sweep.record(pages, time.perf_counter() - began)
        write_json(flags.output_dir / RESULTS_FILE, record)
        write_text(flags.output_dir / TABLE_FILE, sweep_report(record))
        write_text(flags.output_dir / PAGE_FILE, sweep_page(record))
        heat_map(flags.output_dir / FIGURE_FILE, record)

    console = Console(highlight=False)
    console.width = max(console.width, WIDTH[flags.answers])
    for budget in sweep.budgets:
        console.print(summary_table(record, budget))
    for line in (
        LEGEND,
        *stopped_lines(record),
        f"report with the grid and all intervals: {flags.output_dir / PAGE_FILE} (and .md)",
        f"heat map: {flags.output_dir / FIGURE_FILE}",
    ):
        console.print(line, markup=False, soft_wrap=True)


def summary_table(record: dict[str, Any], budget: int) -> Table:
    """The ablations at one budget, without the grid, for a terminal."""
    from rich import box
    from rich.table import Table

    from shirg.evaluation.markdown import milliseconds
    from shirg.evaluation.sweep_report import MARKS, share, taken
    from shirg.evaluation.sweep_summary import stopped_after

    measures = [measure for measure in taken(record["results"]) if measure.key != "precision"]
    shown = Table(title=f"K = {budget}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    shown.add_column("setting", no_wrap=True)
    for title in (*(measure.title for measure in measures), "gate ms"):
        shown.add_column(title, justify="right", vertical="bottom")
    for entry in record["results"]:
        if entry["budget"] != budget or entry["setting"].startswith("alpha"):
            continue
        cells = []
        for measure in measures:
            value = entry[measure.key]
            cells.append(
                "-" if value is None else share(value["mean"]) + MARKS.get(value["difference"]["verdict"], "").ljust(2)
            )
        shown.add_row(
            entry["setting"] + ("" if stopped_after(entry) is None else " *"),
            *cells,
            "-" if entry["gate_ms"] is None else milliseconds(entry["gate_ms"]["best"]),
        )
    return shown


def stopped_lines(record: dict[str, Any]) -> list[str]:
    """What the stars in the table mean, none where nothing was stopped."""
    from shirg.evaluation.markdown import count
    from shirg.evaluation.sweep_report import stopped_settings

    parts = []
    for pages, names in stopped_settings(record).items():
        shown = [name for name in names if not name.startswith("alpha")]
        grid = [f"{len(names) - len(shown)} of the grid"] if len(shown) < len(names) else []
        parts.append(f"{', '.join(shown + grid)} after {count(pages, 'page')}")
    return [f"* stopped, and compared on the pages they had: {'; '.join(parts)}"] if parts else []


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
