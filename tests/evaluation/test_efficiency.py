"""Costs: counted ones by hand, timed ones by their form."""

from __future__ import annotations

import pytest
import torch

from shirg.evaluation.answering import Decoding
from shirg.evaluation.efficiency import WARM_UP, _Clock, denoising_steps
from shirg.evaluation.memory import peak_bytes
from tests.tiny import tiny_model


def test_cache_bytes_are_those_of_the_tiny_body(run):
    _, results, _ = run
    for row in results["efficiency"]["rows"]:
        per_position = 2 * 2 * 2 * 8 * 4  # layers, keys and values, kv heads, head width, bytes of a float32
        assert row["kv_bytes"] == per_position * row["prefix_tokens"]
        assert row["kv_image_bytes"] == per_position * row["tokens"]


def test_tokens_of_the_paths(run):
    _, results, _ = run
    tokens = {row["variant"]: row["tokens"] for row in results["efficiency"]["rows"]}
    assert tokens == {"lowres": 729, "hd": 588, "highres": 144, "shirg-24": 25, "shirg-48": 49}
    text = {row["prefix_tokens"] - row["tokens"] for row in results["efficiency"]["rows"]}
    assert len(text) == 1  # the prompt is the same for all


def test_savings_against_the_pooled_and_the_full_page(run):
    _, results, _ = run
    savings = {(entry["variant"], entry["against"]): entry for entry in results["efficiency"]["savings"]}
    assert set(savings) == {(f"shirg-{budget}", name) for budget in (24, 48) for name in ("hd", "highres")}
    assert savings["shirg-24", "hd"]["image"] == pytest.approx(1 - 25 / 588)
    assert savings["shirg-48", "highres"]["image"] == pytest.approx(1 - 49 / 144)
    assert savings["shirg-24", "hd"]["prefix"] < savings["shirg-24", "hd"]["image"]


def test_only_selections_have_a_selection_time(run):
    _, results, _ = run
    for row in results["efficiency"]["rows"]:
        assert (row["selection_ms"] is not None) == (row["mode"] == "shirg")
        assert all(row[key] > 0 for key in ("tower_ms", "embedding_ms", "prefill_ms", "step_ms", "total_ms"))
        assert row["steps"] == 2


def test_peak_memory_grows_with_the_prefix_and_holds_the_weights(run):
    _, results, model = run
    peaks = {row["variant"]: row["peak_memory_bytes"] for row in results["efficiency"]["rows"]}
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    assert all(peak > weights for peak in peaks.values())
    assert peaks["shirg-24"] <= peaks["shirg-48"] < peaks["lowres"]


def test_peak_memory_by_hand():
    layer = torch.nn.Linear(100, 100, bias=False)
    megabyte = 1000 * 250 * 4

    def action():
        one = torch.zeros(1000, 250)  # 1 MB
        two = one + 1  # 2 MB
        del one
        half = two.view(-1)[:125_000]  # a view makes nothing
        three = (two + half.mean()) * 2  # 2 MB, and the sum until it is doubled: 3 MB
        del two, half, three
        torch.zeros(500, 500)

    peak = peak_bytes(layer, torch.device("cpu"), action)
    assert peak - layer.weight.nbytes == pytest.approx(3 * megabyte, abs=100)
    assert peak_bytes(layer, torch.device("cpu"), action) == peak  # whatever was freed before


def test_median_after_warm_up(monkeypatch):
    durations = iter([9.0, 1.0, 2.0])
    clock = _Clock(torch.device("cpu"), repeats=3)
    monkeypatch.setattr(clock, "_once", lambda action: next(durations))
    calls = []
    assert clock.median_ms(lambda: calls.append(1)) == 2.0
    assert len(calls) == WARM_UP


@pytest.mark.parametrize(
    ("family", "decoding", "expected"),
    [("llada", Decoding(8, 8, 0.5), 4), ("llada", Decoding(8, 4, 1.0), 8), ("dream", Decoding(8, 8, 0.5), 4)],
)
def test_steps_are_counted_while_an_answer_is_denoised(family, decoding, expected):
    model = tiny_model(family)
    embeds = torch.zeros(3, model.config.hidden_size)
    assert denoising_steps(model, model.prompt_ids("What?"), embeds, decoding) == expected
