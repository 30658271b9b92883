"""The project's targets, one line each: met, not met, undecided or not measured, with the number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shirg.bootstrap import UNDECIDED
from shirg.evaluation.markdown import NOT_MEASURED, count, interval, milliseconds, percent, points
from shirg.evaluation.results import Difference, Results
from shirg.evaluation.takeaway import verdict
from shirg.evaluation.variants import BUDGETED_MODES, SHIPPED_PATHS

MET, NOT_MET = "met", "not met"

KEPT_RANGE = (512, 1024)
SELECTION_MS = 30.0
KV_SAVING = 0.30
ACCURACY_GAIN = 0.05
GAIN = "accuracy 5 to 10 points higher"
TRAINABLE_SHARE = 0.01
PEAK_BYTES = 40 * 10**9
"""Of GPU memory in training, the target for an 80 GB A100."""


@dataclass(frozen=True)
class Item:
    """One line of a checklist."""

    name: str
    status: str
    """"met", "not met", "undecided" or "not measured"."""
    number: str
    """What was found, in words and numbers; why, when it was not measured."""


def judged(name: str, good: object, number: str) -> Item:
    """A line that was measured."""
    return Item(name, MET if good else NOT_MET, number)


def unmeasured(name: str, reason: str) -> Item:
    """A line that this run did not measure."""
    return Item(name, NOT_MEASURED, reason)


# -------------------- performance targets


def targets(results: Results) -> list[Item]:
    """The performance targets."""
    return [
        _kept_tokens(results),
        _selection_time(results),
        *_kv_savings(results),
        *_gains(results, "Selection: ", SHIPPED_PATHS, adapter=False),
        _trainable_share(results),
        unmeasured(
            "Training on 8 x A100 in 3 to 4 hours, under 40 GB each",
            "only a training of the full 608,000 records on such machines can show it",
        ),
    ]


def _kept_tokens(results: Results) -> Item:
    """Of fixed budgets; "auto" is described beside them, since each page decides it."""
    name = f"Fixed budgets between {KEPT_RANGE[0]} and {KEPT_RANGE[1]} of the large grid"
    run = [variant for variant in results.variants if variant.mode in BUDGETED_MODES]
    budgets = sorted({variant.budget for variant in run if isinstance(variant.budget, int)})
    tokens = results.visual_tokens()
    found = [tokens[one.name] for one in run if one.budget == "auto" and one.name in tokens]
    fewest, most = min((one.fewest for one in found), default=0), max((one.most for one in found), default=0)
    auto = f"auto kept {fewest - 1} to {most - 1} patches, by the print of each page" if found else ""
    if not budgets:
        return unmeasured(name, auto or "no vision path with a budget was run")
    inside = all(KEPT_RANGE[0] <= budget <= KEPT_RANGE[1] for budget in budgets)
    kept = f"{', '.join(map(str, budgets))} patches kept, and one summary token"
    return judged(name, inside, "; ".join(filter(None, (kept, auto))))


def _selection_time(results: Results) -> Item:
    name = f"Selection under {SELECTION_MS:.0f} ms"
    timed = {
        path: row.selection_ms
        for path, row in results.costs().items()
        if row.variant.mode in BUDGETED_MODES and row.selection_ms is not None
    }
    if not timed:
        return unmeasured(name, "timing was left out of this run")
    times = ", ".join(f"{path} {milliseconds(time)} ms" for path, time in timed.items())
    return judged(name, max(timed.values()) < SELECTION_MS, f"{times} on {results.environment.device}")


def _kv_savings(results: Results) -> list[Item]:
    name = "KV cache 30 to 50% smaller"
    savings = results.efficiency.savings if results.efficiency else []
    if not savings:
        return [unmeasured(name, "no selection was timed beside a path to compare it with")]
    return [
        judged(
            f"{name}: {entry.variant} against {entry.against}",
            entry.image >= KV_SAVING,
            f"{_saved(entry.image)} for the page ({entry.tokens} against {entry.reference_tokens} tokens), "
            f"{_saved(entry.prefix)} with the prompt's text",
        )
        for entry in savings
    ]


def _saved(share: float) -> str:
    return f"{percent(share)} less" if share >= 0 else f"{percent(-share)} more"


def _gains(results: Results, name: str, against: Sequence[str], *, adapter: bool) -> list[Item]:
    """Selections with an adapter, or without one, against these variants, over all data sets of a metric together; without
    `against`, each selection against itself without the adapter."""
    selections = {
        variant.name: against or (variant.path,)
        for variant in results.variants
        if variant.mode in BUDGETED_MODES and (variant.adapter is not None) == adapter
    }
    items = [
        gain_item(name, entry, ", ".join(group.datasets))
        for group in results.together
        for entry in group.comparisons
        if entry.against in selections.get(entry.variant, ())
    ]
    other = " or ".join(against) or "itself without an adapter"
    return items or [unmeasured(f"{name}{GAIN}", f"no such variant was run beside {other}")]


def gain_item(name: str, entry: Difference, datasets: str) -> Item:
    """One comparison: met or not met when the whole interval lies on that side of 5 points, else undecided."""
    status = UNDECIDED
    if entry.low is not None and entry.low >= ACCURACY_GAIN:
        status = MET
    elif entry.high is not None and entry.high < ACCURACY_GAIN:
        status = NOT_MET
    number = (
        f"{points(entry.difference)} points {interval(entry, points)} on {datasets} ({count(entry.questions, 'question')}, "
        f"{count(entry.pages, 'page')}): {verdict(entry)}; the target needs the whole interval at {points(ACCURACY_GAIN)} or more"
    )
    return Item(f"{name}{GAIN}: {entry.variant} against {entry.against}", status, number)


def _trainable_share(results: Results) -> Item:
    name = "Trainable parameters under 1%"
    adapter, total = results.model.adapter_parameters, results.model.parameters
    if not adapter:
        return unmeasured(name, "the model carries no adapter")
    return judged(name, adapter < TRAINABLE_SHARE * total, f"{adapter:,} of {total:,} ({adapter / total:.3%})")


# -------------------- during training


def during_training(training: dict[str, Any] | None) -> list[Item]:
    """What should hold during training: the findings of the trainer's guards, validation loss and memory.

    Args:
        training: what `SHIRGLoRATrainer.train` returned; None when nothing was trained.
    """
    if training is None:
        return [unmeasured("Training", "nothing was trained in this run")]
    return [*map(_watched_item, training["watched"]), _validation_item(training), _memory_item(training)]


def _watched_item(seen: dict[str, Any]) -> Item:
    name = seen["name"][0].upper() + seen["name"][1:]
    if seen["passed"] is None:
        return Item(name, UNDECIDED, seen["found"])
    return judged(name, seen["passed"], seen["found"])


def _validation_item(training: dict[str, Any]) -> Item:
    name = "Validation loss falls"
    before, after = training["validation_before"], training["validation_after"]
    if not before or before["step"] == after["step"]:
        return unmeasured(name, "there were not two validations to compare")
    if "relative" in after:
        ends = "" if after["low"] is None else f" (95%: {after['low']:.3f} to {after['high']:.3f})"
        found = f"answer tokens at {after['relative']:.3f}{ends} of step 0 after {count(after['step'], 'step')}"
        if after["low"] is not None and after["low"] <= 1 <= after["high"]:
            return Item(name, UNDECIDED, found)
        return judged(name, after["relative"] < 1, found)
    found = f"mean of the components: {before['mean']:.4f} after {count(before['step'], 'step')}"
    return judged(name, after["mean"] < before["mean"], f"{found}, {after['mean']:.4f} after {after['step']}")


def _memory_item(training: dict[str, Any]) -> Item:
    name, peak = f"Training memory under {PEAK_BYTES / 1e9:.0f} GB", training["peak_memory_bytes"]
    if peak is None:
        return unmeasured(name, f"torch counts no peak on this device ({training['device']})")
    return judged(name, peak < PEAK_BYTES, f"peak {peak / 1e9:.2f} GB on {training['device']}")


# -------------------- after training


def after_training(results: Results | None, reload: Item | None) -> list[Item]:
    """What should hold after training: the adapter reloads, and raises accuracy."""
    saved = reload or unmeasured("Adapter saved and reloads with equal outputs", "no adapter was saved in this run")
    if results is None:
        return [saved, unmeasured(f"Adapter: {GAIN}", "the evaluation was left out")]
    return [saved, *_gains(results, "Adapter: ", (), adapter=True)]
