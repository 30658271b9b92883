"""Costs: counted ones by hand, timed ones by their form."""

from __future__ import annotations

import pytest
import torch

from shirg.evaluation import efficiency
from shirg.evaluation.answering import Decoding
from shirg.evaluation.efficiency import denoising_steps, median_ms, peak_bytes
from tests.tiny import tiny_model


def test_cache_bytes_are_those_of_the_tiny_body(run):
    _, results, _ = run
    for row in results.efficiency.rows:
        per_position = 2 * 2 * 2 * 8 * 4  # layers, keys and values, kv heads, head width, bytes of a float32
        assert row.kv_bytes == per_position * row.prefix_tokens
        assert row.kv_image_bytes == per_position * row.tokens


def test_tokens_of_the_paths(run):
    _, results, _ = run
    tokens = {name: row.tokens for name, row in results.costs().items()}
    assert tokens == {"lowres": 729, "hd": 588, "highres": 144, "shirg-24": 25, "shirg-48": 49}
    text = {row.prefix_tokens - row.tokens for row in results.efficiency.rows}
    assert len(text) == 1  # the prompt is the same for all


def test_savings_against_the_pooled_and_the_full_page(run):
    _, results, _ = run
    savings = {(entry.variant, entry.against): entry for entry in results.efficiency.savings}
    assert set(savings) == {(f"shirg-{budget}", name) for budget in (24, 48) for name in ("hd", "highres")}
    assert savings["shirg-24", "hd"].image == pytest.approx(1 - 25 / 588)
    assert savings["shirg-48", "highres"].image == pytest.approx(1 - 49 / 144)
    assert savings["shirg-24", "hd"].prefix < savings["shirg-24", "hd"].image


def test_only_selections_have_a_selection_time(run):
    _, results, _ = run
    for row in results.efficiency.rows:
        assert (row.selection_ms is not None) == (row.variant.mode == "shirg")
        assert min(row.tower_ms, row.embedding_ms, row.prefill_ms, row.step_ms, row.total_ms) > 0
        assert row.steps == 2


def test_peak_memory_is_what_a_gpus_allocator_counts(run):
    _, results, model = run
    assert all(row.peak_memory_bytes is None for row in results.efficiency.rows)
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    device = torch.device("cuda")
    before = torch.cuda.memory_allocated()
    assert peak_bytes(device, lambda: torch.zeros(10**6, device=device)) - before == pytest.approx(4 * 10**6, abs=1024)


def test_median_after_warm_up(monkeypatch):
    calls, now = [], iter([0.0, 9.0, 10.0, 11.0, 20.0, 22.0])  # seconds: three runs of 9, 1 and 2
    monkeypatch.setattr(efficiency, "moment", lambda device: next(now))
    assert median_ms(torch.device("cpu"), lambda: calls.append(1), warm_up=2, repeats=3) == 2000.0
    assert len(calls) == 2 + 3


@pytest.mark.parametrize(
    ("family", "decoding", "expected"),
    [("llada", Decoding(8, 8, 0.5), 4), ("llada", Decoding(8, 4, 1.0), 8), ("dream", Decoding(8, 8, 0.5), 4)],
)
def test_steps_are_counted_while_an_answer_is_denoised(family, decoding, expected):
    model = tiny_model(family)
    embeds = torch.zeros(3, model.config.hidden_size)
    assert denoising_steps(model, model.prompt_ids("What?"), embeds, decoding) == expected
