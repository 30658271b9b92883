"""What to take away, for every way that a run can come out, from hand-made numbers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from shirg.evaluation.results import Cost, Difference, MetricGroup, Results, Score, TokenCount
from shirg.evaluation.takeaway import RULE, shown, takeaway, verdict
from shirg.evaluation.variants import ADAPTER, Variant, list_variants

TOKENS = {"lowres": 729, "hd": 980, "highres": 2304}
TRAINED = {
    "steps": 285,
    "best_step": 200,
    "best_validation_loss": 0.3098,
    "validation_before": {"step": 0, "mean": 0.3154},
    "validation_after": {"step": 285, "mean": 0.3111},
}
BETTER = Difference(
    variant="",
    against="",
    difference=0.153,
    low=0.081,
    high=0.224,
    verdict="better",
    differing_pages=20,
    pages=42,
    questions=150,
)
WORSE = replace(BETTER, difference=-0.1, low=-0.161, high=-0.032, verdict="worse")
UNDECIDED = replace(BETTER, difference=-0.007, low=-0.033, high=0.02, verdict="undecided", differing_pages=7)
FEW = replace(BETTER, difference=0.15, low=0.05, high=0.217, verdict="undecided", differing_pages=4)
ALIKE = replace(BETTER, difference=0.0, low=-0.084, high=0.084, verdict="undecided", differing_pages=0)
ONE_PAGE = replace(FEW, low=None, high=None, differing_pages=1, pages=1)


def group(
    comparisons: dict, metric: str = "exact_match", datasets: tuple[str, ...] = ("documents", "charts")
) -> MetricGroup:
    scores = {"lowres": 0.11, "hd": 0.18, "highres": 0.3}
    modes = ["lowres", "hd", "highres", "shirg", "divprune", "multiview"]
    variants = list_variants(modes, [512, 768, "auto"], [ADAPTER])
    return MetricGroup(
        metric=metric,
        datasets=list(datasets),
        scores=[
            Score(variant=one.name, score=scores.get(one.mode, 0.333), low=None, high=None, questions=150, pages=42)
            for one in variants
        ],
        comparisons=[replace(of, variant=ours, against=theirs) for (ours, theirs), of in comparisons.items()],
    )


def results(comparisons: dict, modes=("lowres", "hd", "highres", "shirg"), adapter=True, budgets=(512, 768)) -> Results:
    """What the sentences read of a run's results, and no more."""
    variants = list_variants(modes, budgets, [ADAPTER] if adapter else [])
    tokens = {
        one.name: TOKENS.get(one.mode, 401 if one.budget == "auto" else (one.budget or 0) + 1) for one in variants
    }
    made = dict.fromkeys(("format", "config", "run", "environment", "intervals", "datasets", "skipped"))
    made |= dict.fromkeys(("scores", "parts", "comparisons", "breakdown", "group_comparisons", "failures", "examples"))
    return Results(
        **made,
        model=SimpleNamespace(resolution=672),
        variants=variants,
        tokens=[TokenCount(variant=name, mean=n, fewest=n, most=n) for name, n in tokens.items()],
        together=[group(comparisons)],
        efficiency=None,
    )


def against_hd(entry: dict) -> str:
    """What is said of "shirg-768" against "hd"."""
    line, _, rule = takeaway(results({("shirg-768", "hd"): entry}, adapter=False))
    assert rule == RULE
    return line.split(" gave it to 18.0%: ")[1]


def timed(path: str, total_ms: float, kv_bytes: int) -> Cost:
    """A row of the cost table whose parts make 280 ms."""
    mode, _, budget = path.partition("-")
    parts = {"tower_ms": 200.0, "embedding_ms": 8.0, "prefill_ms": 40.0, "steps": 8, "step_ms": 4.0}
    rest = dict.fromkeys(
        ("tokens", "selection_ms", "prefix_tokens", "step_uncached_ms", "kv_image_bytes", "peak_memory_bytes"), 0
    )
    return Cost(
        variant=Variant(mode, int(budget) if budget else None), total_ms=total_ms, kv_bytes=kv_bytes, **parts, **rest
    )


def with_costs(found: Results, rows: list[Cost]) -> Results:
    return replace(found, efficiency=SimpleNamespace(rows=rows))


def test_the_whole_of_a_run():
    found = results(
        {("shirg-768", "hd"): BETTER, ("shirg-768", "lowres"): WORSE, ("shirg-768+adapter", "shirg-768"): UNDECIDED}
    )
    rows = [timed("hd", 328.2, 7_610_000), timed("shirg-768", 289.6, 5_990_000)]
    assert takeaway(with_costs(found, rows), TRAINED) == [
        "On 150 questions about 42 pages of documents and charts, shirg with 768 of 2304 visual tokens gave the exact answer to "
        "33.3%. LaViDa's own path (hd, 980 tokens) gave it to 18.0%: shirg-768 has 15.3 points more [+8.1, +22.4], which is "
        "better. lowres (729 tokens) gave it to 11.0%: shirg-768 has 10.0 points less [-16.1, -3.2], which is worse.",
        "The adapter was trained for 285 steps. The adapter that was kept, of step 200, has a validation loss of 0.3098; at the "
        "start it was 0.3154. The adapter changed shirg-768 by -0.7 points [-3.3, +2.0], which is undecided (this run can show "
        "differences from about 3 points).",
        "On the one page that was timed, an answer took 290 ms with shirg-768 and 328 ms with hd; its KV cache took 5.99 MB "
        "with shirg-768 and 7.61 MB with hd.",
        RULE,
    ]
    for total in (421.0, 251.0):  # the parts make 280
        rows[-1] = replace(rows[-1], total_ms=total)
        assert takeaway(with_costs(found, rows), TRAINED)[2] == (
            "Times of an answer are not compared, because other programs disturbed them; on the page that was timed its KV cache "
            "took 5.99 MB with shirg-768 and 7.61 MB with hd."
        )


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (BETTER, "shirg-768 has 15.3 points more [+8.1, +22.4], which is better."),
        (WORSE, "shirg-768 has 10.0 points less [-16.1, -3.2], which is worse."),
        (
            UNDECIDED,
            "shirg-768 has 0.7 points less [-3.3, +2.0], which is undecided (this run can show differences from about 3 points).",
        ),
        (FEW, "shirg-768 has 15.0 points more [+5.0, +21.7], which is undecided (4 pages differ)."),
        (ALIKE, "shirg-768 has the same score [-8.4, +8.4], which is undecided (no page differs)."),
        (ONE_PAGE, "shirg-768 has 15.0 points more (one page: no interval), which is undecided (1 page differs)."),
    ],
)
def test_every_verdict_on_the_selection(entry, said):
    assert against_hd(entry) == said


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (BETTER, "The adapter changed shirg-768 by +15.3 points [+8.1, +22.4], which is better."),
        (WORSE, "The adapter changed shirg-768 by -10.0 points [-16.1, -3.2], which is worse."),
        (FEW, "The adapter changed shirg-768 by +15.0 points [+5.0, +21.7], which is undecided (4 pages differ)."),
        (ALIKE, "The adapter changed the score of shirg-768 on none of the 42 pages."),
    ],
)
def test_every_verdict_on_the_adapter(entry, said):
    assert takeaway(results({("shirg-768+adapter", "shirg-768"): entry}))[1] == said


def test_an_adapter_that_no_step_improved_is_the_first_line():
    lines = takeaway(results({("shirg-768+adapter", "shirg-768"): ALIKE}), TRAINED | {"best_step": 0})
    assert lines[0] == (
        "No trained adapter was kept: none of 285 steps lowered the validation loss, so the adapter is the one that training "
        "began with."
    )
    assert lines[2] == "The adapter changed the score of shirg-768 on none of the 42 pages."


def test_the_loss_of_answers_is_compared_with_the_start():
    entry = {"step": 200, "records": 500, "relative": 0.93115, "low": 0.902, "high": 0.9604}
    assert takeaway(None, TRAINED | {"best_validation": entry})[0] == (
        "The adapter was trained for 285 steps. The adapter that was kept, of step 200, has a loss of answer tokens on 500 "
        "validation questions of 93.1% [90.2, 96.0] of that at the start."
    )


def test_a_training_without_validation():
    unseen = TRAINED | {"best_step": None, "best_validation_loss": None, "validation_before": None, "steps": 1}
    assert takeaway(None, unseen) == [
        "The adapter was trained for 1 step, without a validation.",
        "No question was asked, so the run shows nothing about accuracy.",
    ]


def test_no_adapter_no_other_path_no_timing():
    alone = results({}, modes=("shirg",), adapter=False)
    alone = replace(alone, together=[group({}, datasets=("charts",))])
    assert takeaway(alone) == [
        "On 150 questions about 42 pages of charts, shirg with 768 of 2304 visual tokens gave the exact answer to 33.3%. No path "
        "of LaViDa's own was run to compare it with.",
        "No adapter took part, so the run shows nothing about training.",
        RULE,
    ]


def test_only_one_of_the_models_own_paths():
    lines = takeaway(results({("shirg-768", "lowres"): BETTER}, modes=("lowres", "shirg")))
    assert "lowres (729 tokens) gave it to 11.0%: shirg-768 has 15.3 points more" in lines[0] and "hd" not in lines[0]


def test_other_metrics_have_a_sentence_each():
    change = {("shirg-768+adapter", "shirg-768"): UNDECIDED, ("shirg-768", "hd"): BETTER}
    sets = {"relaxed_accuracy": ("ChartQA",), "anls": ("DocVQA", "InfoVQA", "SROIE")}
    found = replace(results(change), together=[group(change, metric, names) for metric, names in sets.items()])
    chart, document, adapter, rule = takeaway(found)
    assert chart.startswith(
        "On 150 questions about 42 pages of ChartQA, shirg with 768 of 2304 visual tokens scored 33.3% (relaxed accuracy). "
        "LaViDa's own path (hd, 980 tokens) scored 18.0%: shirg-768 has 15.3 points more"
    )
    assert "of DocVQA, InfoVQA and SROIE, shirg" in document and "(ANLS)" in document
    assert adapter.startswith("On ChartQA the adapter changed shirg-768 by -0.7 points")
    assert "On DocVQA, InfoVQA and SROIE the adapter changed shirg-768 by -0.7" in adapter
    assert rule == RULE


def test_nothing_was_answered_or_done():
    assert takeaway(replace(results({}), together=[])) == ["No question was answered."]
    assert takeaway(None) == []


@pytest.mark.parametrize(
    ("modes", "name"),
    [
        (("lowres", "hd", "divprune", "shirg"), "shirg-768"),
        (("lowres", "divprune", "multiview"), "divprune-768"),
        (("lowres", "hd"), "hd"),
        (("highres",), "highres"),
    ],
)
def test_what_is_shown_does_not_depend_on_scores(modes, name):
    assert shown(results({}, modes)).name == name


def test_paths_without_a_selection():
    (line, *_) = takeaway(results({("hd", "lowres"): BETTER}, modes=("lowres", "hd")))
    assert "LaViDa's own path (hd, 980 tokens) gave the exact answer to 18.0%. lowres (729 tokens) gave it to" in line


def test_tokens_that_vary_are_a_mean():
    found = results({("shirg-768", "hd"): BETTER})
    counts = [replace(one, mean=1000.4, most=1008) if one.variant == "hd" else one for one in found.tokens]
    found = replace(found, tokens=counts)
    assert "(hd, 1000 tokens on average)" in takeaway(found)[0]


def test_verdicts_tell_how_few_pages_differ():
    assert [verdict(entry) for entry in (BETTER, WORSE, UNDECIDED, FEW, ALIKE, ONE_PAGE)] == [
        "better",
        "worse",
        "undecided",
        "undecided (4 pages differ)",
        "undecided (no page differs)",
        "undecided (1 page differs)",
    ]


def test_a_budget_that_follows_the_page_is_named_by_its_mean():
    found = results({("shirg-auto", "hd"): BETTER}, budgets=("auto",), adapter=False)
    assert (
        "shirg with 400 of 2304 visual tokens, as many as each page needs gave the exact answer to"
        in takeaway(found)[0]
    )
    assert shown(results({}, budgets=("auto", 512))).name == "shirg-512"
