"""What to take away from a run, in plain sentences: the same ones in every report and on the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shirg.evaluation.bootstrap import MINIMUM_DIFFERING_PAGES, UNDECIDED
from shirg.evaluation.markdown import count, interval, megabytes, milliseconds, percent, points
from shirg.evaluation.tasks import METRIC_TITLES
from shirg.gate.terms import PATCH

RULE = (
    '"Better" or "worse" is said when the 95% interval over pages of the paired difference leaves out zero and at least '
    f'{MINIMUM_DIFFERING_PAGES} pages differ; otherwise it is "undecided": the run is too small, or the two are too alike, '
    "to tell."
)
BASELINES = ("hd", "lowres")
"""Paths of the model as it ships, the one that it uses first."""
EVERY_TOKEN = {"multiview": "multiview-all"}
"""Selection -> the path that shows every token it chooses from; `highres` for all others."""

DISTURBED = 1.5
"""A whole answer that takes so many times as long as its parts was not timed alone; quiet machines give 1.0 to 1.1."""


def takeaway(results: Mapping[str, Any] | None, training: Mapping[str, Any] | None = None) -> list[str]:
    """Sentences, a line each: the scores of the selection beside LaViDa's own paths, what the adapter changed, what an
    answer costs, and when something is called better.

    Args:
        results: the content of `evaluation_results.json`; None when nothing was evaluated.
        training: what `SHIRGLoRATrainer.train` returned; None when nothing was trained.
    """
    if results is None:
        return [trained(training), "No question was asked, so the run says nothing about accuracy."] if training else []
    if not results["together"]:
        return ["No question was answered."]
    lines = [_score_line(results, group) for group in results["together"]]
    lines += [_adapter_line(results, training), _cost_line(results), RULE]
    return [line for line in lines if line]


def trained(training: Mapping[str, Any]) -> str:
    """How long an adapter was trained, and what became of its validation loss."""
    said = f"The adapter was trained for {count(training['steps'], 'step')}"
    best, before = training["best_step"], training["validation_before"]
    if best is None:
        return f"{said}, without a validation."
    if best == 0:
        return (
            f"{said}, but none lowered the validation loss: the one that was kept is the one that training began with."
        )
    loss = f"The one that was kept, of step {best}, has a validation loss of {training['best_validation_loss']:.4f}"
    return f"{said}. {loss}." if before is None else f"{said}. {loss}; at the start it was {before['mean']:.4f}."


def shown(results: Mapping[str, Any]) -> str:
    """The variant that the sentences are about, without the adapter: the middle budget of `shirg`, else of another
    selection, else LaViDa's own path. It does not depend on the scores."""
    plain = [variant for variant in results["variants"] if not variant["adapter"]]
    selections = [variant for variant in plain if variant["budget"] is not None]
    if not selections:
        names = [variant["variant"] for variant in plain]
        return next((name for name in BASELINES if name in names), names[0])
    modes = [variant["mode"] for variant in selections]
    mode = "shirg" if "shirg" in modes else modes[0]
    own = sorted((variant for variant in selections if variant["mode"] == mode), key=lambda variant: variant["budget"])
    return str(own[len(own) // 2]["variant"])


def compared(group: Mapping[str, Any], variant: str, against: str) -> dict[str, Any] | None:
    """The paired difference of two variants over the data sets of a group of `together`."""
    entries = group["comparisons"]
    return next((entry for entry in entries if (entry["variant"], entry["against"]) == (variant, against)), None)


def verdict(entry: Mapping[str, Any]) -> str:
    """ "better", "worse" or "undecided", with how few pages differ where that alone leaves it undecided."""
    pages = entry["differing_pages"]
    if entry["verdict"] != UNDECIDED or pages >= MINIMUM_DIFFERING_PAGES:
        return str(entry["verdict"])
    return f"{UNDECIDED} ({_differ(pages)})"


def _differ(pages: int) -> str:
    return f"{count(pages, 'page') if pages else 'no page'} {'differ' if pages > 1 else 'differs'}"


# -------------------- scores


def _score_line(results: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    name = shown(results)
    scores = {entry["variant"]: entry for entry in group["scores"]}
    asked = f"{count(scores[name]['questions'], 'question')} about {count(scores[name]['pages'], 'page')}"
    exact = group["metric"] == "exact_match"
    first, again = ("gave the exact answer to", "gave it to") if exact else ("scored", "scored")
    mark = percent(scores[name]["score"]) + ("" if exact else f" ({METRIC_TITLES[group['metric']]})")
    said = f"On {asked} of {_listed(group['datasets'])}, {_named(results, name)} {first} {mark}."
    others = [
        f"{_named(results, other)} {again} {percent(scores[other]['score'])}: {name} has {_judged(entry)}."
        for other in BASELINES
        if (entry := compared(group, name, other))
    ]
    return " ".join([said, *(others or ["No path of LaViDa's own was run to compare it with."])])


def _judged(entry: Mapping[str, Any]) -> str:
    """ "15.3 points more [+8.1, +22.4], which is better"; behind "undecided" stands why."""
    signed = points(entry["difference"])
    size = "the same score" if signed == "+0.0" else f"{signed[1:]} points {'more' if signed[0] == '+' else 'less'}"
    return f"{size} {interval(entry, points)}, which is {_why(entry)}"


def _why(entry: Mapping[str, Any]) -> str:
    said = verdict(entry)
    return f"{said} (this run can show differences from about {_reach(entry)})" if said == UNDECIDED else said


def _reach(entry: Mapping[str, Any]) -> str:
    """Half of the interval, the longer half: what the difference had to be for the interval to leave out zero."""
    reach = 100 * max(entry["difference"] - entry["low"], entry["high"] - entry["difference"])
    said = f"{reach:.0f}" if reach >= 1 else f"{reach:.1f}"
    return f"{said} point{'' if said == '1' else 's'}"


def _named(results: Mapping[str, Any], name: str) -> str:
    """ "shirg with 768 of 2304 visual tokens", "LaViDa's own path (hd, 980 tokens)"."""
    variant = next(variant for variant in results["variants"] if variant["variant"] == name)
    tokens = {entry["variant"]: entry for entry in results["tokens"]}
    if variant["budget"] is not None:
        every = tokens.get(EVERY_TOKEN.get(variant["mode"], "highres"), {}).get("most")
        if every is None and variant["mode"] not in EVERY_TOKEN:  # the grid of the large view
            every = (results["model"]["resolution"] // PATCH) ** 2
        among = f" of {every}" if every else ""
        return f"{variant['mode']} with {variant['budget']}{among} visual tokens"
    average = "" if tokens[name]["fewest"] == tokens[name]["most"] else " on average"
    seen = f"{tokens[name]['mean']:.0f} tokens{average}"
    return f"LaViDa's own path (hd, {seen})" if name == "hd" else f"{name} ({seen})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# -------------------- the adapter, and what an answer costs


def _adapter_line(results: Mapping[str, Any], training: Mapping[str, Any] | None) -> str:
    name, groups = shown(results), results["together"]
    changes = [(group, entry) for group in groups if (entry := compared(group, f"{name}+adapter", name))]
    if not changes:
        return "No adapter took part, so the run says nothing about training."
    lines = [trained(training)] if training else []
    for group, entry in changes:
        where = f"On {_listed(group['datasets'])} the" if len(groups) > 1 else "The"
        lines.append(f"{where} adapter {_changed(name, entry)}.")
    return " ".join(lines)


def _changed(name: str, entry: Mapping[str, Any]) -> str:
    if not entry["differing_pages"]:
        return f"changed the score of {name} on none of the {count(entry['pages'], 'page')}"
    return f"changed {name} by {points(entry['difference'])} points {interval(entry, points)}, which is {_why(entry)}"


def _cost_line(results: Mapping[str, Any]) -> str:
    """What an answer costs beside LaViDa's own path; nothing where one of the two was not timed."""
    costs = {row["variant"]: row for row in results["efficiency"]["rows"]} if results["efficiency"] else {}
    name = shown(results)
    other = next((other for other in BASELINES if other in costs and other != name), None)
    if other is None or name not in costs:
        return ""
    rows = costs[name], costs[other]
    times, caches = ([row[key] for row in rows] for key in ("total_ms", "kv_bytes"))
    cache = f"its KV cache took {megabytes(caches[0])} MB with {name} and {megabytes(caches[1])} MB with {other}."
    if any(_disturbed(row) for row in rows):
        return f"Times of an answer are not compared, because other programs disturbed them; on the page that was timed {cache}"
    return (
        f"On the one page that was timed, an answer took {milliseconds(times[0])} ms with {name} and {milliseconds(times[1])} "
        f"ms with {other}; {cache}"
    )


def _disturbed(row: Mapping[str, Any]) -> bool:
    """Whether a whole answer took far longer than its parts, which were timed at other moments."""
    parts = row["tower_ms"] + row["embedding_ms"] + row["prefill_ms"] + row["steps"] * row["step_ms"]
    return row["total_ms"] > DISTURBED * parts
