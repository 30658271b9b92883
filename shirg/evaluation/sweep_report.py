"""`sweep.md`: the table of a sweep, with how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shirg.evaluation.markdown import code_block, count, escape, interval, milliseconds, points, table
from shirg.evaluation.sweep_stop import LEADING, MARGIN, RISK
from shirg.evaluation.sweep_summary import MEASURES, Measure, stopped_after

FIGURE_FILE = "heatmap.png"
"""The heat map, beside the report."""
MARKS = {"better": " +", "worse": " -"}
"""Sign behind a difference by its verdict; none for one that is undecided."""

LEGEND = """\
Shares are in percent. In brackets the paired difference to the default in points, and whether it is better or worse: that
is said where the 95% bootstrap interval of the difference, pages resampled, leaves out zero and at least six pages
differ; without a word it is undecided, and "=" means equal on every page."""

COLUMNS = """\
* words: words of which every patch that their box covers by a third or more is kept; small words: those of them that are
  under 12 px high as the model sees the page
* answer, asked / unasked: of the patches that the answer is read from, those kept with and without the question given
* precision: of the kept patches, those that touch a word; empty tiles: of the 4 x 4 tiles of patches, those of which nothing
  is kept (fewer is better)
* gate ms: best and median time of the gate alone on one page, without a question (what it costs to compare a question is
  not in it); all pages take the same work, so on a busy machine the best says more"""

ALONE = """\
Similarity only cannot choose without a question: its words, precision, empty tiles and time are those with the page's
questions, mean over them, held against the default without one (a dash where the model compares with no question)."""

ANSWERS = """\
* exact match, ANLS: the model's answers, read from what is kept with the question given. The summary token and what the
  question is worth show only here."""

NO_ANSWERS = """\
The summary token changes no choice of patches: what it is worth shows only in the model's answers (`--answers`)."""

STOPPED = f"""\
A setting is stopped early when it is certain to be worse than the default by {100 * MARGIN:g} points or more of the answer's
patches at the smallest budget: the chance that a sweep stops any setting that is not is at most {100 * RISK:g} in 100, however
often one looks. Its rows are of the pages it had, and its differences are to the default on the same pages; since it is
stopped where it looks bad, they are a little too large."""


def sweep_report(record: dict[str, Any]) -> str:
    """The whole report as Markdown, from what `sweep.json` holds."""
    run, counts = record["run"], record["counts"]
    measures = taken(record["results"])
    asked = any(measure.key == "anls" for measure in measures)
    parts = [
        "# What each part of the gate is worth",
        f"{count(counts['pages'], 'held-out rendered page')} (seed {run['seed']}), {count(counts['questions'], 'question')}, "
        f"{count(counts['words'], 'word')}, {counts['small_words']:,} of them under 12 px; model {escape(run['model'])}"
        f"{'' if run['adapter'] is None else ' with adapter ' + escape(run['adapter'])} at {run['resolution']} px, "
        f"relevance {run['relevance']} ({run['relevance_sign']:+d}).",
        f"![{caption(record)}]({FIGURE_FILE})",
        LEGEND,
        COLUMNS + ("\n" + ANSWERS if asked else ""),
        ALONE if asked else f"{ALONE}\n\n{NO_ANSWERS}",
        *(["## Stopped early", _stopped_early(record)] if run.get("early_stop") else []),
    ]
    for budget in run["token_budgets"]:
        entries = [entry for entry in record["results"] if entry["budget"] == budget]
        parts += [f"## K = {budget}", _levels(entries, measures)]
    parts += ["## Differences to the default, with their intervals", _differences(record["results"], measures)]
    parts += ["## How it was measured", _how(record)]
    return "\n\n".join(parts) + "\n"


def caption(record: dict[str, Any]) -> str:
    """What the heat map shows."""
    return (
        f"Patches of the answer that are kept at K = {min(record['run']['token_budgets'])}, in percent, by the weights of "
        "variance and edges; small, the paired difference to the default (outlined) in points"
        + (", and after how many pages a setting was stopped" if stopped_settings(record) else "")
    )


def _how(record: dict[str, Any]) -> str:
    """Command, seed, when, where and with which versions."""
    run, environment, hardware = record["run"], record["environment"], record["hardware"]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    command = record.get("command")  # format 1 knows none, nor does a call from Python
    stopping = "stopped early where hopeless" if run.get("early_stop") else "measured on every page"
    lines = [
        f"- {record['date']}, {record['seconds']:.0f} seconds; settings were {stopping}.",
        f"- Seed {run['seed']} decides pages, questions and the resampling behind the intervals: up to "
        f"{count(run['questions'], 'question')} of each page, {run['page_side']} pixels a side.",
        f"- {escape(hardware['processor'])}, {count(hardware['cores'], 'core')}, load average {hardware['load_average']}; device "
        f"{escape(environment['device'])}, {count(environment['threads'], 'thread')}, {environment['dtype']}; "
        f"{escape(environment['system'])} {escape(environment['machine'])}.",
        f"- shirg {environment['shirg']}, Python {environment['python']}, {packages}; model of {run['parameters']:,} parameters.",
    ]
    return "\n\n".join([*([code_block(command)] if command else []), "\n".join(lines)])


def stopped_settings(record: dict[str, Any]) -> dict[int, list[str]]:
    """Pages -> the settings that were stopped after so many, those of the same gate as another under both names."""
    found: dict[int, list[str]] = {}
    for entry in record["results"]:
        pages = stopped_after(entry)
        if pages is not None and entry["budget"] == min(record["run"]["token_budgets"]):
            found.setdefault(pages, []).append(entry["setting"])
    return dict(sorted(found.items()))


def _stopped_early(record: dict[str, Any]) -> str:
    """Which settings were stopped, when, and what they looked like then."""
    stopped = [name for names in stopped_settings(record).values() for name in names]
    if not stopped:
        return f"{STOPPED}\n\nNo setting was stopped."
    budget = min(record["run"]["token_budgets"])
    entries = {entry["setting"]: entry for entry in record["results"] if entry["budget"] == budget}
    key = next(key for key in LEADING if entries[stopped[0]][key] is not None)
    title = next(measure.title for measure in MEASURES if measure.key == key)
    rows = [
        [_name(entry, marked=False), str(stopped_after(entry)), share(entry[key]["mean"])]
        + [points(entry[key]["difference"]["mean"]), interval(entry[key]["difference"], points)]
        for entry in (entries[name] for name in stopped)
    ]
    header = ["setting", "pages it had", f"{title}, K = {budget}", "difference, points", "95% interval"]
    return f"{STOPPED}\n\n{table(header, rows)}"


def taken(results: Sequence[dict[str, Any]]) -> list[Measure]:
    """The measures that a sweep has values of."""
    return [measure for measure in MEASURES if any(entry.get(measure.key) for entry in results)]


def _levels(entries: Sequence[dict[str, Any]], measures: Sequence[Measure]) -> str:
    header = ["setting", *(measure.title for measure in measures), "gate ms, best / median"]
    rows = [
        [_name(entry), *(_cell(entry[measure.key], entry is entries[0]) for measure in measures)] + [times(entry)]
        for entry in entries
    ]
    return table(header, rows)


def _name(entry: dict[str, Any], *, marked: bool = True) -> str:
    """ "no edge term (stopped after 28 pages)"."""
    pages = stopped_after(entry) if marked else None
    said = [] if entry["same_as"] is None else [f"same as {entry['same_as']}"]
    said += [] if pages is None else [f"stopped after {count(pages, 'page')}"]
    return entry["setting"] + (f" ({'; '.join(said)})" if said else "")


def _cell(value: dict[str, Any] | None, is_default: bool) -> str:
    """ "41.2 (-3.0 worse)"; the default with its own interval."""
    if value is None:
        return "-"
    level = share(value["mean"])
    if is_default:
        return f"**{level}** {interval(value, share)}"
    difference = value["difference"]
    if not difference["differing_pages"]:
        return f"{level} (=)"
    verdict = f" {difference['verdict']}" if difference["verdict"] in MARKS else ""
    return f"{level} ({points(difference['mean'])}{verdict})"


def share(value: float) -> str:
    """A share in percent, "41.2"."""
    return f"{100 * value:.1f}"


def times(entry: dict[str, Any]) -> str:
    """ "4.1 / 5.0", best and median milliseconds of the gate."""
    return "-" if entry["gate_ms"] is None else " / ".join(map(milliseconds, entry["gate_ms"].values()))


def _differences(results: Sequence[dict[str, Any]], measures: Sequence[Measure]) -> str:
    """One row for each setting, budget and measure that differs anywhere."""
    rows = [
        [_name(entry), str(entry["budget"]), measure.title, points(difference["mean"])]
        + [interval(difference, points), str(difference["differing_pages"]), difference["verdict"]]
        for entry in results
        if entry["same_as"] is None
        for measure in measures
        if entry[measure.key] is not None and (difference := entry[measure.key]["difference"])["differing_pages"]
    ]
    header = ["setting", "K", "measure", "difference, points", "95% interval", "pages that differ", "verdict"]
    return table(header, rows)
