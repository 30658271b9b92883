"""The table of an evaluation on a terminal: one for each data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shirg.bootstrap import UNDECIDED
from shirg.evaluation.markdown import interval, megabytes, milliseconds, percent, points
from shirg.evaluation.results import Difference, Results
from shirg.evaluation.tasks import METRIC_TITLES
from shirg.evaluation.variants import SHIPPED_PATHS

if TYPE_CHECKING:
    from rich.table import Table

MARKS = {"better": " +", "worse": " -", UNDECIDED: ""}
LEGEND = "95% intervals over pages; paired differences in points, + better, - worse, else undecided"


def scoreboard(results: Results) -> Iterator[Table]:
    """Score, paired differences and cost of every variant, a table for each data set with answers."""
    from rich import box
    from rich.table import Table

    costs = results.costs()
    for dataset in (dataset for dataset in results.datasets if dataset.questions):
        tokens = results.visual_tokens(dataset.name)
        title = f"{dataset.name}: {dataset.questions} questions on {dataset.pages} pages"
        shown = Table(title=title, title_justify="left", caption=LEGEND, caption_justify="left", box=box.SIMPLE_HEAD)
        shown.add_column("vision path", no_wrap=True)
        headings = (METRIC_TITLES[dataset.metric], *(f"against {name}" for name in SHIPPED_PATHS))
        for heading in ("tokens", *headings, *(("answer ms", "cache MB") if costs else ())):
            shown.add_column(heading, justify="right", no_wrap=True)
        for variant in results.variants:
            score = results.score(dataset.name, variant.name, dataset.metric)
            own = {
                entry.against: entry
                for entry in results.comparisons
                if (entry.dataset, entry.variant) == (dataset.name, variant.name)
            }
            cells = [str(tokens[variant.name]), f"{percent(score.score)} {interval(score, _whole)}"]
            cells += [_difference(own.get(name)) for name in SHIPPED_PATHS]
            cost = costs.get(variant.path)
            cells += [milliseconds(cost.total_ms), megabytes(cost.kv_bytes)] if cost else []
            shown.add_row(variant.name, *cells)
        yield shown


def _whole(share: float) -> str:
    return f"{100 * share:.0f}"


def _difference(entry: Difference | None) -> str:
    return "-" if entry is None else f"{points(entry.difference)} {interval(entry, points)}{MARKS[entry.verdict]}"
