"""From answers to scores, comparisons, breakdowns, causes of failures and examples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

from shirg.bootstrap import compare, mean_interval
from shirg.evaluation.metrics import anls
from shirg.evaluation.results import (
    Answer,
    Bootstrap,
    Difference,
    Example,
    Examples,
    FailureCount,
    MetricGroup,
    Score,
    Summary,
    TokenCount,
)
from shirg.evaluation.variants import BUDGETED_MODES, SHIPPED_PATHS, Variant, middle_budget, references

TEXT_HEIGHTS = (8.0, 10.0, 14.0, 20.0)
"""Edges, in pixels at the model's resolution, of the groups in which scores are broken down by height of text."""
RIGHT = 0.5
"""Score from which an answer counts as right in `failures`, for metrics with partial credit."""
EXAMPLES = 10
"""Number of losses, and of wins, in the report."""
LOWRES, HIGHRES = Variant("lowres"), Variant("highres")
CAUSES = {
    "nothing answered": "the answer is empty",
    "lost by selecting": "`highres`, which keeps every token of the same view, reads it",
    "lost by the view": "`lowres` or `hd` reads it, `highres` does not",
    "nearly right": "no path reads it, and the answer is at least half right by edit distance",
    "not read by any path": "no path reads it",
}
"""Cause of a wrong answer -> its condition, in the order in which they are tried; each wrong answer has one."""

Key = TypeVar("Key", bound=Hashable)


def summarise(rows: Sequence[Answer], variants: Sequence[Variant], bootstrap: Bootstrap) -> Summary:
    """Everything that is computed from the answers alone."""
    return Summary(
        tokens=token_counts(rows),
        dataset_tokens=[
            one for name, group in _grouped(rows, lambda row: row.dataset).items() for one in token_counts(group, name)
        ],
        together=together(rows, variants, bootstrap),
        scores=scores(rows, bootstrap),
        parts=part_scores(rows, bootstrap),
        comparisons=comparisons(rows, variants, bootstrap),
        breakdown=breakdown(rows, bootstrap),
        group_comparisons=group_comparisons(rows, variants, bootstrap),
        failures=failures(rows, variants),
        examples=examples(rows, variants),
    )


# ------------------------------------------------------------------ scores


def token_counts(rows: Sequence[Answer], dataset: str = "") -> list[TokenCount]:
    """Visual tokens of every variant over the questions that could be asked."""
    found = []
    for name, group in _by_variant(rows).items():
        tokens = [row.tokens for row in group if row.tokens is not None] or [0]
        mean = sum(tokens) / len(tokens)
        found.append(TokenCount(dataset=dataset, variant=name, mean=mean, fewest=min(tokens), most=max(tokens)))
    return found


def together(rows: Sequence[Answer], variants: Sequence[Variant], bootstrap: Bootstrap) -> list[MetricGroup]:
    """The pooled questions of all data sets with the same primary metric.

    A page of one data set is another page than one of the same name in another. Beside its usual references each variant
    is compared with LaViDa's own paths.
    """
    found = []
    for metric, group in _grouped(rows, lambda row: row.metric).items():
        apart = [replace(row, image_id=f"{row.dataset}/{row.image_id}") for row in group]
        by_variant = _by_variant(apart)
        run = [variant for variant in variants if variant.name in by_variant]
        shipped = [variant for variant in run if variant in map(Variant, SHIPPED_PATHS)]
        pairs = [
            (variant, other)
            for variant in run
            for other in dict.fromkeys([*shipped, *references(variant, run)])
            if other != variant
        ]
        found.append(
            MetricGroup(
                metric=metric,
                datasets=list(_grouped(group, lambda row: row.dataset)),
                scores=[_score(of, bootstrap, variant=name) for name, of in by_variant.items()],
                comparisons=_differences(by_variant, pairs, bootstrap),
            )
        )
    return found


def scores(rows: Sequence[Answer], bootstrap: Bootstrap) -> list[Score]:
    """One for each data set, variant and metric."""
    return [
        _score(group, bootstrap, metric, dataset=dataset, variant=variant, metric=metric)
        for (dataset, variant), group in _grouped(rows, lambda row: (row.dataset, row.variant.name)).items()
        for metric in group[0].scores
    ]


def part_scores(rows: Sequence[Answer], bootstrap: Bootstrap) -> list[Score]:
    """Scores of the parts that a benchmark reports separately (ChartQA: human, augmented), by its primary metric."""
    known = [row for row in rows if row.part is not None]
    groups = _grouped(known, lambda row: (row.dataset, row.part or "", row.variant.name))
    return [_score(of, bootstrap, dataset=name, part=part, variant=one) for (name, part, one), of in groups.items()]


def comparisons(rows: Sequence[Answer], variants: Sequence[Variant], bootstrap: Bootstrap) -> list[Difference]:
    """Paired differences of every variant and its references, by each data set's primary metric."""
    found = []
    for name, of_dataset in _grouped(rows, lambda row: row.dataset).items():
        by_variant = _by_variant(of_dataset)
        run = [variant for variant in variants if variant.name in by_variant]
        pairs = [(variant, reference) for variant in run for reference in references(variant, run)]
        found += _differences(by_variant, pairs, bootstrap, dataset=name)
    return found


def breakdown(rows: Sequence[Answer], bootstrap: Bootstrap) -> list[Score]:
    """Scores by height of the answer's text and by kind of question, where the data have them."""
    found = []
    for by, group_of in GROUPINGS.items():
        named = [(row.dataset, group_of(row), row.variant.name) for row in rows]
        for (dataset, group, variant), of in _gathered(named, rows).items():
            found += [_score(of, bootstrap, dataset=dataset, by=by, group=group, variant=variant)] if group else []
    return found


def group_comparisons(rows: Sequence[Answer], variants: Sequence[Variant], bootstrap: Bootstrap) -> list[Difference]:
    """Paired differences in the same groups: `highres` and the selection against `lowres`, the selection against `highres`."""
    shown = headline(variants)
    pairs = [(HIGHRES, LOWRES)]
    pairs += [(shown, LOWRES), (shown, replace(HIGHRES, adapter=shown.adapter))] if shown else []
    found = []
    for by, group_of in GROUPINGS.items():
        for (dataset, group), members in _gathered([(row.dataset, group_of(row)) for row in rows], rows).items():
            by_variant = _by_variant(members)
            asked = [pair for pair in pairs if group and by_variant.keys() >= {one.name for one in pair}]
            found += _differences(by_variant, asked, bootstrap, dataset=dataset, by=by, group=group)
    return found


def text_height_group(height: float) -> str:
    """The group of an answer whose text is `height` pixels high, "8 to 10 px"; "" where that is not known."""
    if height <= 0:
        return ""
    below = [edge for edge in TEXT_HEIGHTS if edge <= height]
    above = [edge for edge in TEXT_HEIGHTS if edge > height]
    if not below:
        return f"under {above[0]:g} px"
    return f"{below[-1]:g} to {above[0]:g} px" if above else f"{below[-1]:g} px and more"


def text_height_groups() -> list[str]:
    """All groups of `text_height_group`, from small to large."""
    return [text_height_group(height) for height in (TEXT_HEIGHTS[0] / 2, *TEXT_HEIGHTS)]


GROUPINGS: dict[str, Callable[[Answer], str]] = {
    "text_px": lambda row: text_height_group(row.text_px),
    "kind": lambda row: row.kind,
}
"""Name of a grouping -> group of an answer, "" for none."""


# ------------------------------------------------------------------ failures and examples


def failures(rows: Sequence[Answer], variants: Sequence[Variant]) -> list[FailureCount]:
    """How many answers of each selection, under the first adapter if there is one, are wrong, by cause."""
    by_question = _by_question(rows)
    asked = Counter(dataset for dataset, _ in by_question)
    found = []
    for variant in _selections(variants):
        counted = Counter((dataset, _cause(answers, variant)) for (dataset, _), answers in by_question.items())
        found += [
            FailureCount(dataset=name, variant=variant.name, cause=cause, questions=counted[name, cause], asked=number)
            for name, number in asked.items()
            for cause in CAUSES
        ]
    return found


def _cause(answers: Mapping[str, Answer], variant: Variant) -> str | None:
    """Cause of a wrong answer; None if it is right or missing."""
    row = answers.get(variant.name)
    if row is None or row.score >= RIGHT:
        return None
    if not row.prediction:
        return "nothing answered"

    def reads(mode: str) -> bool:
        other = answers.get(Variant(mode, None, variant.adapter).name)
        return other is not None and other.score >= RIGHT

    if reads("highres"):
        return "lost by selecting"
    if reads("lowres") or reads("hd"):
        return "lost by the view"
    return "nearly right" if anls(row.prediction, row.answers) >= RIGHT else "not read by any path"


def headline(variants: Sequence[Variant]) -> Variant | None:
    """The selection that is shown: `shirg` at the middle budget, under the first adapter if there is one; None if it was
    not run."""
    return middle_budget([variant for variant in _selections(variants) if variant.mode == "shirg"])


def examples(rows: Sequence[Answer], variants: Sequence[Variant]) -> Examples | None:
    """The questions on which `headline` scores furthest below and above `lowres` without an adapter; None if one of the two was
    not run. Ties are in the order of the questions."""
    shown = headline(variants)
    if shown is None or LOWRES not in variants:
        return None
    pairs = [
        _example(answers[shown.name], answers[LOWRES.name])
        for answers in _by_question(rows).values()
        if answers.keys() >= {shown.name, LOWRES.name}
    ]

    def furthest(gain: Callable[[Example], float]) -> list[Example]:
        return sorted((pair for pair in pairs if gain(pair) > 0), key=gain, reverse=True)[:EXAMPLES]

    return Examples(
        variant=shown.name,
        against=LOWRES.name,
        losses=furthest(lambda pair: pair.their_score - pair.score),
        wins=furthest(lambda pair: pair.score - pair.their_score),
    )


def _example(ours: Answer, theirs: Answer) -> Example:
    known = ("dataset", "id", "image_id", "question", "answers", "kind", "text_px", "prediction", "score")
    return Example(**{name: getattr(ours, name) for name in known}, theirs=theirs.prediction, their_score=theirs.score)


def _selections(variants: Sequence[Variant]) -> list[Variant]:
    """Our selections under the first adapter, or without one where there is none."""
    adapter = next((variant.adapter for variant in variants if variant.adapter is not None), None)
    return [variant for variant in variants if variant.mode in BUDGETED_MODES and variant.adapter == adapter]


# ------------------------------------------------------------------ means


def _score(rows: Sequence[Answer], bootstrap: Bootstrap, scored_by: str | None = None, **names: Any) -> Score:
    """The mean by a metric, or by the primary one."""
    values = [row.score if scored_by is None else row.scores[scored_by] for row in rows]
    pages = [row.image_id for row in rows]
    found = asdict(mean_interval(values, pages, seed=bootstrap.seed, resamples=bootstrap.resamples))
    return Score(score=found.pop("mean"), **found, **names)


def _differences(
    by_variant: Mapping[str, Sequence[Answer]],
    pairs: Iterable[tuple[Variant, Variant]],
    bootstrap: Bootstrap,
    **names: Any,
) -> list[Difference]:
    found = []
    for pair in pairs:
        ours, theirs = (by_variant[one.name] for one in pair)
        values = [[row.score for row in rows] for rows in (ours, theirs)]
        pages = [row.image_id for row in ours]
        compared = compare(values[0], values[1], pages, seed=bootstrap.seed, resamples=bootstrap.resamples)
        interval = asdict(compared.interval)
        found.append(
            Difference(
                variant=pair[0].name,
                against=pair[1].name,
                difference=interval.pop("mean"),
                differing_pages=compared.differing_pages,
                verdict=compared.verdict,
                **interval,
                **names,
            )
        )
    return found


def _gathered(keys: Iterable[Key], rows: Iterable[Answer]) -> dict[Key, list[Answer]]:
    """Rows by their keys, groups in order of first appearance."""
    groups: dict[Key, list[Answer]] = defaultdict(list)
    for key, row in zip(keys, rows, strict=True):
        groups[key].append(row)
    return dict(groups)


def _grouped(rows: Sequence[Answer], key: Callable[[Answer], Key]) -> dict[Key, list[Answer]]:
    return _gathered(map(key, rows), rows)


def _by_variant(rows: Sequence[Answer]) -> dict[str, list[Answer]]:
    return _grouped(rows, lambda row: row.variant.name)


def _by_question(rows: Sequence[Answer]) -> dict[tuple[str, str], dict[str, Answer]]:
    groups = _grouped(rows, lambda row: (row.dataset, row.id))
    return {question: {row.variant.name: row for row in of} for question, of in groups.items()}
