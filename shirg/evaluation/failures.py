"""Where a selection fails and where it helps: wrong answers by cause, and the questions on which it differs most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shirg.evaluation.metrics import anls
from shirg.evaluation.variants import BUDGETED_MODES, Variant

RIGHT = 0.5
"""Score from which an answer counts as right here, for metrics that give part marks."""
EXAMPLES = 10
"""Losses, and wins, that are shown."""
AGAINST = "lowres"

CAUSES = {
    "nothing answered": "the answer is empty",
    "lost by selecting": "`highres`, which sees every token of the same view, reads it",
    "lost by the view": "`lowres` or `hd` reads it, `highres` does not",
    "nearly right": "no path reads it, and the answer is at least half right by edit distance",
    "not read by any path": "no path reads it",
}
"""Cause -> what makes it, in the order in which they are tried; each wrong answer has one."""


def failures(rows: Sequence[dict[str, Any]], variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """How many answers of each selection in its most trained state are wrong, by cause.

    Returns:
        Entries with `dataset`, `variant`, `cause`, `questions` (that failed for it) and `asked` (all of the data set).
    """
    by_question = _by_question(rows)
    entries = []
    for variant in _most_trained(variants):
        counts: dict[str, dict[str, int]] = {}
        for (dataset, _), answers in by_question.items():
            of_dataset = counts.setdefault(dataset, dict.fromkeys((*CAUSES, "asked"), 0))
            of_dataset["asked"] += 1
            cause = _cause(answers, variant)
            if cause is not None:
                of_dataset[cause] += 1
        for dataset, counted in counts.items():
            for cause in CAUSES:
                entry = {"dataset": dataset, "variant": variant.name, "cause": cause}
                entries.append(entry | {"questions": counted[cause], "asked": counted["asked"]})
    return entries


def headline(variants: Sequence[Variant]) -> Variant | None:
    """The selection that is shown: `shirg` at the middle budget, in its most trained state; None if it was not run."""
    run = [variant for variant in _most_trained(variants) if variant.mode == "shirg"]
    return sorted(run, key=lambda variant: variant.budget or 0)[len(run) // 2] if run else None


def examples(rows: Sequence[dict[str, Any]], variants: Sequence[Variant]) -> dict[str, Any] | None:
    """The questions on which `headline` scores furthest below and above `lowres` without an adapter.

    Where more differ as much, the first asked are taken.

    Returns:
        `variant`, `against`, `losses` and `wins`, each with what is known of the question, `prediction` and `score`, and
        `theirs` and `their_score`; None where one of the two was not run.
    """
    shown = headline(variants)
    if shown is None or Variant(AGAINST) not in variants:
        return None
    pairs = [
        _example(answers[shown.name], answers[AGAINST])
        for answers in _by_question(rows).values()
        if shown.name in answers and AGAINST in answers
    ]
    return {
        "variant": shown.name,
        "against": AGAINST,
        "losses": _furthest(pairs, lambda pair: pair["their_score"] - pair["score"]),
        "wins": _furthest(pairs, lambda pair: pair["score"] - pair["their_score"]),
    }


def _furthest(pairs: Sequence[dict[str, Any]], gain: Callable[[dict[str, Any]], float]) -> list[dict[str, Any]]:
    return sorted((pair for pair in pairs if gain(pair) > 0), key=gain, reverse=True)[:EXAMPLES]


def _example(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    known = ("dataset", "id", "image_id", "question", "answers", "kind", "text_px", "prediction", "score")
    return {name: ours[name] for name in known} | {"theirs": theirs["prediction"], "their_score": theirs["score"]}


def _most_trained(variants: Sequence[Variant]) -> list[Variant]:
    adapter = any(variant.adapter for variant in variants)
    return [variant for variant in variants if variant.mode in BUDGETED_MODES and variant.adapter == adapter]


def _by_question(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["dataset"], row["id"]), {})[row["variant"]] = row
    return found


def _cause(answers: Mapping[str, dict[str, Any]], variant: Variant) -> str | None:
    """Why `variant` is wrong; None if it is not, or was not asked."""
    row = answers.get(variant.name)
    if row is None or row["score"] >= RIGHT:
        return None
    if not row["prediction"]:
        return "nothing answered"

    def reads(mode: str) -> bool:
        other = answers.get(Variant(mode, None, variant.adapter).name)
        return other is not None and other["score"] >= RIGHT

    if reads("highres"):
        return "lost by selecting"
    if reads("lowres") or reads("hd"):
        return "lost by the view"
    near = anls(row["prediction"], row["answers"]) >= RIGHT
    return "nearly right" if near else "not read by any path"
