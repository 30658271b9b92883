"""From one row per answer to scores, comparisons and breakdowns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shirg.evaluation.bootstrap import RESAMPLES, Interval, compare, mean_interval
from shirg.evaluation.failures import examples, failures, headline
from shirg.evaluation.variants import Variant, references

TEXT_HEIGHTS = (8.0, 10.0, 14.0, 20.0)
"""Edges, in pixels at the model's resolution, of the groups in which scores are broken down by height of text."""


@dataclass(frozen=True)
class Draws:
    """How intervals are drawn: by which seed, and how often the pages."""

    seed: int
    resamples: int = RESAMPLES


def summarise(
    rows: Sequence[dict[str, Any]], variants: Sequence[Variant], seed: int, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Everything that follows from the answers alone, as `evaluation_results.json` holds it."""
    draws = Draws(seed, resamples)
    return {
        "tokens": token_counts(rows),
        "together": together(rows, variants, draws),
        "scores": scores(rows, draws),
        "parts": part_scores(rows, draws),
        "comparisons": comparisons(rows, variants, draws),
        "breakdown": breakdown(rows, draws),
        "group_comparisons": group_comparisons(rows, variants, draws),
        "failures": failures(rows, variants),
        "examples": examples(rows, variants),
    }


def together(rows: Sequence[dict[str, Any]], variants: Sequence[Variant], draws: Draws) -> list[dict[str, Any]]:
    """All data sets that share a deciding metric, as if they were one: small sets decide nothing alone.

    A page of one data set is another page than one of the same name in another. Beside its usual references each variant
    is compared with `lowres` and `hd`, the paths of the model as it ships.

    Returns:
        One entry for each metric, with its `datasets`, and `scores` and `comparisons` as the functions of these names give
        them, without the data set.
    """
    rows = [
        {**row, "image_id": f"{row['dataset']}/{row['image_id']}", "metric": next(iter(row["scores"]))} for row in rows
    ]
    entries = []
    for metric, group in _grouped(rows, "metric").items():
        by_variant = _grouped(group, "variant")
        entry = {"metric": metric, "datasets": list(_grouped(group, "dataset"))}
        entry["scores"] = [
            {"variant": name, **_flat(_interval(_column(of), of, draws))} for name, of in by_variant.items()
        ]
        run = [variant for variant in variants if variant.name in by_variant]
        entry["comparisons"] = _compared(by_variant, _pairs_together(run), draws)
        entries.append(entry)
    return entries


def _pairs_together(run: Sequence[Variant]) -> list[tuple[Variant, Variant]]:
    shipped = [variant for variant in run if variant in (Variant("lowres"), Variant("hd"))]
    return [
        (variant, reference)
        for variant in run
        for reference in dict.fromkeys([*shipped, *references(variant, run)])
        if reference != variant
    ]


def scores(rows: Sequence[dict[str, Any]], draws: Draws) -> list[dict[str, Any]]:
    """One entry for each data set, variant and metric, with its 95% interval."""
    entries = []
    for (dataset, variant), group in _grouped(rows, "dataset", "variant").items():
        for metric in group[0]["scores"]:
            interval = _interval([row["scores"][metric] for row in group], group, draws)
            entries.append({"dataset": dataset, "variant": variant, "metric": metric, **_flat(interval)})
    return entries


def part_scores(rows: Sequence[dict[str, Any]], draws: Draws) -> list[dict[str, Any]]:
    """The same for the parts that a benchmark reports apart, by its deciding metric: ChartQA's human and augmented."""
    entries = []
    known = [row for row in rows if row["part"] is not None]
    for (dataset, part, variant), group in _grouped(known, "dataset", "part", "variant").items():
        interval = _interval(_column(group), group, draws)
        entries.append({"dataset": dataset, "part": part, "variant": variant, **_flat(interval)})
    return entries


def token_counts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Visual tokens of every variant over the questions: mean, fewest and most (LaViDa's unpadded path varies by
    page). Questions that could not be asked do not count; 0 where none could."""
    entries = []
    for variant, group in _grouped(rows, "variant").items():
        tokens = [row["tokens"] for row in group if row["tokens"] is not None] or [0]
        entries.append(
            {"variant": variant, "mean": sum(tokens) / len(tokens), "fewest": min(tokens), "most": max(tokens)}
        )
    return entries


def comparisons(rows: Sequence[dict[str, Any]], variants: Sequence[Variant], draws: Draws) -> list[dict[str, Any]]:
    """Paired differences of every selection against its references, by each data set's deciding metric."""
    entries = []
    for dataset, of_dataset in _grouped(rows, "dataset").items():
        by_variant = _grouped(of_dataset, "variant")
        run = [variant for variant in variants if variant.name in by_variant]
        pairs = [(variant, reference) for variant in run for reference in references(variant, run)]
        entries += [{"dataset": dataset, **entry} for entry in _compared(by_variant, pairs, draws)]
    return entries


def _compared(
    by_variant: Mapping[str, Sequence[dict[str, Any]]], pairs: Iterable[tuple[Variant, Variant]], draws: Draws
) -> list[dict[str, Any]]:
    return [
        {
            "variant": variant.name,
            "against": reference.name,
            **_paired(by_variant[variant.name], by_variant[reference.name], draws),
        }
        for variant, reference in pairs
    ]


def _paired(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], draws: Draws) -> dict[str, Any]:
    pages = [row["image_id"] for row in ours]
    found = compare(_column(ours), _column(theirs), pages, seed=draws.seed, resamples=draws.resamples)
    return {
        "difference": found.interval.mean,
        "low": found.interval.low,
        "high": found.interval.high,
        "questions": found.interval.questions,
        "pages": found.interval.pages,
        "differing_pages": found.differing_pages,
        "verdict": found.verdict,
    }


def breakdown(rows: Sequence[dict[str, Any]], draws: Draws) -> list[dict[str, Any]]:
    """Scores by height of the answer's text and by kind of question, where the data tell."""
    return [
        {"dataset": dataset, "by": by, "group": group, "variant": variant, **_flat(_interval(_column(of), of, draws))}
        for by, (dataset, group, variant), of in _in_groups(rows)
    ]


def group_comparisons(
    rows: Sequence[dict[str, Any]], variants: Sequence[Variant], draws: Draws
) -> list[dict[str, Any]]:
    """Paired differences in the same groups: what the large view and the selection gain on `lowres`, and what selecting
    loses of the large view."""
    shown = headline(variants)
    pairs = [(Variant("highres"), Variant("lowres"))]
    pairs += [(shown, Variant("lowres")), (shown, replace(Variant("highres"), adapter=shown.adapter))] if shown else []
    found = {(by, *key): of for by, key, of in _in_groups(rows)}
    entries = []
    for by, dataset, group in dict.fromkeys(key[:3] for key in found):
        for ours, theirs in pairs:
            our_rows, their_rows = (found.get((by, dataset, group, variant.name)) for variant in (ours, theirs))
            if our_rows and their_rows:
                entry = {"dataset": dataset, "by": by, "group": group, "variant": ours.name, "against": theirs.name}
                entries.append(entry | _paired(our_rows, their_rows, draws))
    return entries


def _in_groups(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, tuple[str, str, str], list[dict[str, Any]]]]:
    """What groups are made by, data set, group and variant, and the rows of it."""
    for by, group_of in (("text_px", text_height_group), ("kind", _kind)):
        known = [{**row, "group": group_of(row)} for row in rows]
        known = [row for row in known if row["group"] is not None]
        for key, members in _grouped(known, "dataset", "group", "variant").items():
            yield by, key, members


def text_height_group(row: dict[str, Any]) -> str | None:
    """The group that the row's answer belongs to by height of text, "8 to 10 px"; None where the data do not tell."""
    height = row["text_px"]
    if height <= 0:
        return None
    below = [edge for edge in TEXT_HEIGHTS if edge <= height]
    above = [edge for edge in TEXT_HEIGHTS if edge > height]
    if not below:
        return f"under {above[0]:g} px"
    return f"{below[-1]:g} to {above[0]:g} px" if above else f"{below[-1]:g} px and more"


def text_height_groups() -> list[str]:
    """All groups of `text_height_group`, from small to large."""
    return [str(text_height_group({"text_px": height})) for height in (TEXT_HEIGHTS[0] / 2, *TEXT_HEIGHTS)]


def _kind(row: dict[str, Any]) -> str | None:
    return row["kind"] or None


def _column(rows: Iterable[dict[str, Any]]) -> list[float]:
    return [row["score"] for row in rows]


def _interval(values: Sequence[float], rows: Sequence[dict[str, Any]], draws: Draws) -> Interval:
    pages = [row["image_id"] for row in rows]
    return mean_interval(values, pages, seed=draws.seed, resamples=draws.resamples)


def _flat(interval: Interval) -> dict[str, Any]:
    return {
        "score": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "questions": interval.questions,
        "pages": interval.pages,
    }


def _grouped(rows: Iterable[dict[str, Any]], *keys: str) -> dict[Any, list[dict[str, Any]]]:
    """Rows by the value of one key or the values of several, groups in order of first appearance."""
    value: Callable[[dict[str, Any]], Any] = (
        (lambda row: row[keys[0]]) if len(keys) == 1 else (lambda row: tuple(row[key] for key in keys))
    )
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[value(row)].append(row)
    return dict(groups)
