"""Promises judged by hand-made numbers."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from shirg.evaluation import checklist
from shirg.evaluation.checklist import Item
from shirg.evaluation.results import Difference, MetricGroup, Results, Saving, TokenCount
from shirg.evaluation.variants import ADAPTER, Variant

TRAINING = {
    "watched": [
        {"name": "budgets drawn as configured", "passed": True, "found": "512: 3 of 3.3 expected"},
        {"name": "memory stays", "passed": None, "found": "fewer than 40 steps"},
    ],
    "validation_before": {"step": 0, "mean": 2.5},
    "validation_after": {"step": 10, "mean": 1.5},
    "peak_memory_bytes": None,
    "device": "cpu",
}


GAIN = Difference(
    variant="shirg-512",
    against="hd",
    difference=0.08,
    low=0.02,
    high=0.15,
    verdict="better",
    questions=100,
    pages=40,
    differing_pages=12,
)
HD, SHIRG, ADAPTED = Variant("hd"), Variant("shirg", 512), Variant("shirg", 512, ADAPTER)


def results(**changes) -> Results:
    """What the targets read of a run's results, and no more."""
    saving = {"variant": "shirg-512", "tokens": 513, "against": "hd", "reference_tokens": 980}
    grown = saving | {"variant": "shirg-1024", "tokens": 1025}
    savings = [Saving(image=0.4765, prefix=0.41, **saving), Saving(image=-0.0459, prefix=-0.04, **grown)]
    made = dict.fromkeys(field.name for field in fields(Results)) | {
        "variants": [HD, SHIRG],
        "tokens": [],
        "efficiency": SimpleNamespace(rows=[SimpleNamespace(variant=SHIRG, selection_ms=12.0)], savings=savings),
        "environment": SimpleNamespace(device="cpu"),
        "together": [MetricGroup(metric="anls", datasets=["documents", "charts"], scores=[], comparisons=[GAIN])],
        "model": SimpleNamespace(parameters=8_000_000_000, adapter_parameters=215_040),
    }
    return Results(**made | changes)


def by_name(items: list[Item]) -> dict[str, Item]:
    return {item.name: item for item in items}


def test_targets_that_are_met_say_so_with_their_number():
    lines = by_name(checklist.targets(results()))
    assert lines["Fixed budgets between 512 and 1024 of the large grid"].status == "met"
    assert lines["Selection under 30 ms"] == Item("Selection under 30 ms", "met", "shirg-512 12.0 ms on cpu")
    saving = lines["KV cache 30 to 50% smaller: shirg-512 against hd"]
    assert saving.status == "met" and saving.number.startswith("47.6% less for the page (513 against 980 tokens)")
    gain = lines["Selection: accuracy 5 to 10 points higher: shirg-512 against hd"]
    found = "+8.0 points [+2.0, +15.0] on documents, charts (100 questions, 40 pages): better"
    wanted = "the target needs the whole interval at +5.0 or more"
    assert gain == Item(gain.name, "undecided", f"{found}; {wanted}")  # 5 lies between 2 and 15
    share = lines["Trainable parameters under 1%"]
    assert (share.status, share.number) == ("met", "215,040 of 8,000,000,000 (0.003%)")


def test_a_cache_that_grows_is_said_to_grow():
    line = by_name(checklist.targets(results()))["KV cache 30 to 50% smaller: shirg-1024 against hd"]
    assert line.status == "not met" and line.number.startswith("4.6% more for the page")


@pytest.mark.parametrize(
    ("low", "difference", "high", "status"),
    [
        (0.05, 0.07, 0.09, "met"),
        (0.049, 0.07, 0.09, "undecided"),
        (-0.3, -0.2, -0.1, "not met"),
        (-0.1, 0.2, 0.5, "undecided"),
        (-0.1, 0.01, 0.049, "not met"),  # five points are ruled out
        (None, 0.2, None, "undecided"),  # one page
    ],
)
def test_a_gain_is_met_where_the_whole_interval_is(low, difference, high, status):
    entry = replace(GAIN, difference=difference, low=low, high=high)
    assert checklist.gain_item("Selection: ", entry, "documents").status == status


def test_the_adapter_is_credited_with_what_it_changed_itself():
    itself = replace(GAIN, variant=ADAPTED.name, against=SHIRG.name, difference=0.01, low=-0.01, high=0.03)
    others = [replace(GAIN, variant=ADAPTED.name, against=name) for name in ("hd", "lowres", "hd+adapter")]
    entries = [GAIN, *others, replace(itself, verdict="undecided")]
    together = [MetricGroup(metric="anls", datasets=["documents"], scores=[], comparisons=entries)]
    found = results(variants=[HD, SHIRG, ADAPTED], together=together)
    saved, gain = checklist.after_training(found, None)
    assert saved.status == "not measured"
    assert (gain.name, gain.status) == (
        "Adapter: accuracy 5 to 10 points higher: shirg-512+adapter against shirg-512",
        "not met",
    )
    selections = [item.name for item in checklist.targets(found) if item.name.startswith("Selection: ")]
    assert selections == ["Selection: accuracy 5 to 10 points higher: shirg-512 against hd"]
    without = checklist.after_training(results(), None)[1]
    assert (without.status, without.number) == (
        "not measured",
        "no such variant was run beside itself without an adapter",
    )


def test_auto_is_described_beside_the_fixed_budgets():
    auto = Variant("shirg", "auto")
    counts = [TokenCount(variant=auto.name, mean=700.0, fewest=301, most=1101)]
    described = "auto kept 300 to 1100 patches, by the print of each page"
    line = checklist.targets(results(variants=[SHIRG, auto], tokens=counts))[0]
    assert (line.status, line.number) == ("met", f"512 patches kept, and one summary token; {described}")
    line = checklist.targets(results(variants=[auto], tokens=counts))[0]
    assert (line.status, line.number) == ("not measured", described)
    small = Variant("shirg", 256)
    assert checklist.targets(results(variants=[SHIRG, small]))[0].status == "not met"


def test_what_was_not_run_is_not_measured():
    bare = results(efficiency=None, together=[], variants=[], model=SimpleNamespace(parameters=5, adapter_parameters=0))
    assert {item.status for item in checklist.targets(bare)} == {"not measured"}
    last = checklist.targets(results())[-1]
    assert "8 x A100" in last.name and last.status == "not measured"


def test_training_lines():
    assert checklist.during_training(TRAINING) == [
        Item("Budgets drawn as configured", "met", "512: 3 of 3.3 expected"),
        Item("Memory stays", "undecided", "fewer than 40 steps"),
        Item("Validation loss falls", "met", "mean of the components: 2.5000 after 0 steps, 1.5000 after 10"),
        Item("Training memory under 40 GB", "not measured", "torch counts no peak on this device (cpu)"),
    ]


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"validation_after": {"step": 10, "mean": 2.6}}, "Validation loss falls"),
        ({"watched": [{"name": "memory stays", "passed": False, "found": "creeps up"}]}, "Memory stays"),
        ({"peak_memory_bytes": 41 * 10**9, "device": "cuda:0"}, "Training memory under 40 GB"),
    ],
)
def test_training_that_goes_wrong_shows(changes, failing):
    items = checklist.during_training(TRAINING | changes)
    assert [item.name for item in items if item.status == "not met"] == [failing]


@pytest.mark.parametrize(
    ("relative", "low", "high", "status", "ends"),
    [
        (0.9, 0.85, 0.95, "met", " (95%: 0.850 to 0.950)"),
        (0.99, 0.97, 1.01, "undecided", " (95%: 0.970 to 1.010)"),
        (1.1, 1.05, 1.2, "not met", " (95%: 1.050 to 1.200)"),
        (0.9, None, None, "met", ""),
    ],
)
def test_the_loss_of_answers_falls_by_its_interval(relative, low, high, status, ends):
    after = {"step": 10, "mean": 1.0, "relative": relative, "low": low, "high": high}
    found = by_name(checklist.during_training(TRAINING | {"validation_after": after}))["Validation loss falls"]
    assert (found.status, found.number) == (status, f"answer tokens at {relative:.3f}{ends} of step 0 after 10 steps")


def test_one_validation_says_nothing_of_a_loss_that_falls():
    for changes in ({"validation_after": TRAINING["validation_before"]}, {"validation_before": None}):
        assert by_name(checklist.during_training(TRAINING | changes))["Validation loss falls"].status == "not measured"
