"""The result of a run in sentences, for reports and console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from shirg.bootstrap import MINIMUM_DIFFERING_PAGES, UNDECIDED
from shirg.evaluation.markdown import count, interval, megabytes, milliseconds, percent, points
from shirg.evaluation.results import Cost, Difference, MetricGroup, Results
from shirg.evaluation.tasks import METRIC_TITLES
from shirg.evaluation.variants import EVERY_TOKEN, Variant, middle_budget
from shirg.gate.terms import PATCH

RULE = (
    '"Better" or "worse" is printed when the 95% interval over pages of the paired difference leaves out zero and at least '
    f'{MINIMUM_DIFFERING_PAGES} pages differ; otherwise it is "undecided": the run is too small for the difference.'
)
OWN_PATHS = ("hd", "lowres")
"""LaViDa's own vision paths, its default first."""
UNDISTURBED = 0.9, 1.5
"""Time of an answer over the sum of its stages, which are timed separately. On an idle machine it is 1.0 to 1.1; outside of these
limits other programs disturbed one of the two."""


def takeaway(results: Results | None, training: Mapping[str, Any] | None = None) -> list[str]:
    """Sentences: scores of the selection and of LaViDa's own paths, change by the adapter, cost of an answer, meaning of the
    verdicts.

    Args:
        results: None when nothing was evaluated.
        training: what `SHIRGLoRATrainer.train` returned; None when nothing was trained.
    """
    if results is None:
        return (
            [_trained(training), "No question was asked, so the run shows nothing about accuracy."] if training else []
        )
    if not results.together:
        return ["No question was answered."]
    lines = [_trained(training)] if training and training["best_step"] == 0 else []
    lines += [_score_line(results, group) for group in results.together]
    lines += [_adapter_line(results, training), _cost_line(results), RULE]
    return [line for line in lines if line]


def _trained(training: Mapping[str, Any]) -> str:
    """Steps of the training, and its validation loss."""
    steps = count(training["steps"], "step")
    began = f"The adapter was trained for {steps}"
    best, before = training["best_step"], training["validation_before"]
    if best is None:
        return f"{began}, without a validation."
    if best == 0:
        return (
            f"No trained adapter was kept: none of {steps} lowered the validation loss, so the adapter is the one that training "
            "began with."
        )
    kept = f"{began}. The adapter that was kept, of step {best},"
    entry = training.get("best_validation") or {}  # earlier versions have no such entry, or none relative to the start
    if "relative" in entry:
        ends = "" if entry["low"] is None else f" [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"
        return (
            f"{kept} has a loss of answer tokens on {count(entry['records'], 'validation question')} of "
            f"{100 * entry['relative']:.1f}%{ends} of that at the start."
        )
    loss = f"{kept} has a validation loss of {training['best_validation_loss']:.4f}"
    return f"{loss}." if before is None else f"{loss}; at the start it was {before['mean']:.4f}."


def shown(results: Results) -> Variant:
    """The variant that the sentences describe, without an adapter: the middle budget of `shirg`, else of another selection,
    else LaViDa's own path. It does not depend on the scores."""
    plain = [variant for variant in results.variants if variant.adapter is None]
    selections = [variant for variant in plain if variant.budget is not None]
    modes = [variant.mode for variant in selections]
    mode = "shirg" if "shirg" in modes or not modes else modes[0]
    found = middle_budget([variant for variant in selections if variant.mode == mode])
    return found or next((Variant(name) for name in OWN_PATHS if Variant(name) in plain), plain[0])


def verdict(entry: Difference) -> str:
    """ "better", "worse" or "undecided", with the number of differing pages if that is too small for a verdict."""
    if entry.verdict != UNDECIDED or entry.differing_pages >= MINIMUM_DIFFERING_PAGES:
        return entry.verdict
    return f"{UNDECIDED} ({_differ(entry.differing_pages)})"


def _differ(pages: int) -> str:
    return f"{count(pages, 'page') if pages else 'no page'} {'differ' if pages > 1 else 'differs'}"


# -------------------- scores


def _score_line(results: Results, group: MetricGroup) -> str:
    variant = shown(results)
    score = group.score(variant.name)
    asked = f"{count(score.questions, 'question')} about {count(score.pages, 'page')}"
    exact = group.metric == "exact_match"
    first, again = ("gave the exact answer to", "gave it to") if exact else ("scored", "scored")
    mark = percent(score.score) + ("" if exact else f" ({METRIC_TITLES[group.metric]})")
    others = [
        f"{_named(results, Variant(other))} {again} {percent(group.score(other).score)}: {variant.name} has {_judged(entry)}."
        for other in OWN_PATHS
        if (entry := group.compared(variant.name, other))
    ]
    line = f"On {asked} of {_listed(group.datasets)}, {_named(results, variant)} {first} {mark}."
    return " ".join([line, *(others or ["No path of LaViDa's own was run to compare it with."])])


def _judged(entry: Difference) -> str:
    """ "15.3 points more [+8.1, +22.4], which is better"; "undecided" with the reason."""
    signed = points(entry.difference)
    size = "the same score" if signed == "+0.0" else f"{signed[1:]} points {'more' if signed[0] == '+' else 'less'}"
    return f"{size} {interval(entry, points)}, which is {_why(entry)}"


def _why(entry: Difference) -> str:
    """The verdict; if undecided, with the smallest difference that this run can show."""
    given = verdict(entry)
    if given != UNDECIDED or entry.low is None or entry.high is None:
        return given
    reach = 100 * max(entry.difference - entry.low, entry.high - entry.difference)  # the longer half of the interval
    size = f"{reach:.0f}" if reach >= 1 else f"{reach:.1f}"
    return f"{given} (this run can show differences from about {size} point{'' if size == '1' else 's'})"


def _named(results: Results, variant: Variant) -> str:
    """ "shirg with 768 of 2304 visual tokens", "LaViDa's own path (hd, 980 tokens)"."""
    tokens = results.visual_tokens()
    own = tokens[variant.name]
    average = "" if own.fewest == own.most else " on average"
    if variant.budget is not None:
        whole = tokens.get(EVERY_TOKEN.get(variant.mode, "highres"))
        every = whole.most if whole else 0
        if not every and variant.mode not in EVERY_TOKEN:  # the grid of the large view
            every = (results.model.resolution // PATCH) ** 2
        kept = f"{own.mean - 1:.0f}" if variant.budget == "auto" else str(variant.budget)  # without the summary token
        chosen = f"{average}, as many as each page needs" if variant.budget == "auto" else ""
        return f"{variant.mode} with {kept}{f' of {every}' if every else ''} visual tokens{chosen}"
    seen = f"{own.mean:.0f} tokens{average}"
    return f"LaViDa's own path (hd, {seen})" if variant.name == "hd" else f"{variant.name} ({seen})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# -------------------- the adapters, and what an answer costs


def _adapter_line(results: Results, training: Mapping[str, Any] | None) -> str:
    variant, groups = shown(results), results.together
    several = len(results.adapters) > 1
    lines = [_trained(training)] if training and training["best_step"] != 0 and results.adapters else []
    changes = []
    for group in groups:
        for adapter in results.adapters:
            entry = group.compared(replace(variant, adapter=adapter).name, variant.name)
            where = f"On {_listed(group.datasets)} the" if len(groups) > 1 else "The"
            name = f"adapter {adapter}" if several else "adapter"
            changes += [f"{where} {name} {_changed(variant.name, entry)}."] if entry else []
    return " ".join(lines + changes) if changes else "No adapter took part, so the run shows nothing about training."


def _changed(name: str, entry: Difference) -> str:
    if not entry.differing_pages:
        return f"changed the score of {name} on none of the {count(entry.pages, 'page')}"
    return f"changed {name} by {points(entry.difference)} points {interval(entry, points)}, which is {_why(entry)}"


def _cost_line(results: Results) -> str:
    """Cost of an answer and of one by LaViDa's own path; "" if one of the two was not timed."""
    costs, name = results.costs(), shown(results).name
    other = next((other for other in OWN_PATHS if other in costs and other != name), None)
    if other is None or name not in costs:
        return ""
    ours, theirs = costs[name], costs[other]
    cache = (
        f"its KV cache took {megabytes(ours.kv_bytes)} MB with {name} and {megabytes(theirs.kv_bytes)} MB with {other}."
    )
    if _disturbed(ours) or _disturbed(theirs):
        return f"Times of an answer are not compared, because other programs disturbed them; on the page that was timed {cache}"
    return (
        f"On the one page that was timed, an answer took {milliseconds(ours.total_ms)} ms with {name} and "
        f"{milliseconds(theirs.total_ms)} ms with {other}; {cache}"
    )


def _disturbed(row: Cost) -> bool:
    """Whether the time of an answer does not fit the sum of its stages."""
    low, high = UNDISTURBED
    stages = row.tower_ms + row.embedding_ms + row.prefill_ms + row.steps * row.step_ms
    return not low <= row.total_ms / stages <= high
