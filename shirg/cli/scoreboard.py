"""The table of an evaluation on a terminal: one for each data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shirg.evaluation.bootstrap import UNDECIDED
from shirg.evaluation.markdown import interval, megabytes, milliseconds, percent, points
from shirg.evaluation.tasks import METRIC_TITLES

if TYPE_CHECKING:
    from rich.table import Table

AGAINST = ("lowres", "hd")
"""The paths whose paired differences are shown; all of them are in the report."""
MARKS = {"better": " +", "worse": " -", UNDECIDED: ""}
LEGEND = "95% intervals over pages; paired differences in points, + better, - worse, else undecided"


def scoreboard(results: dict[str, Any]) -> Iterator[Table]:
    """Score, paired differences and cost of every variant, a table for each data set with answers.

    Args:
        results: the content of `evaluation_results.json`.
    """
    from rich import box
    from rich.table import Table

    costs = {row["variant"]: row for row in results["efficiency"]["rows"]} if results["efficiency"] else {}
    for dataset in (dataset for dataset in results["datasets"] if dataset["questions"]):
        title = f"{dataset['name']}: {dataset['questions']} questions on {dataset['pages']} pages"
        shown = Table(title=title, title_justify="left", caption=LEGEND, caption_justify="left", box=box.SIMPLE_HEAD)
        shown.add_column("vision path", no_wrap=True)
        headings = (METRIC_TITLES[dataset["metric"]], *(f"against {name}" for name in AGAINST))
        for heading in ("tokens", *headings, *(("answer ms", "cache MB") if costs else ())):
            shown.add_column(heading, justify="right", no_wrap=True)
        for variant in results["variants"]:
            name = variant["variant"]
            shown.add_row(name, *_cells(results, dataset, name), *_cost(costs, name))
        yield shown


def _cells(results: dict[str, Any], dataset: dict[str, Any], variant: str) -> list[str]:
    tokens = next(entry["mean"] for entry in results["tokens"] if entry["variant"] == variant)
    key = (dataset["name"], variant, dataset["metric"])
    score = next(e for e in results["scores"] if (e["dataset"], e["variant"], e["metric"]) == key)
    cells = [f"{tokens:.0f}", f"{percent(score['score'])} {interval(score, lambda value: f'{100 * value:.0f}')}"]
    differences = {
        entry["against"]: entry
        for entry in results["comparisons"]
        if (entry["dataset"], entry["variant"]) == (dataset["name"], variant)
    }
    return cells + [_difference(differences.get(name)) for name in AGAINST]


def _difference(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "-"
    return f"{points(entry['difference'])} {interval(entry, points)}{MARKS[entry['verdict']]}"


def _cost(costs: dict[str, dict[str, Any]], variant: str) -> list[str]:
    row = costs.get(variant.removesuffix("+adapter"))
    return [milliseconds(row["total_ms"]), megabytes(row["kv_bytes"])] if row else []
