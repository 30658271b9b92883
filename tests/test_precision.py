"""Which precision is chosen: as asked, or what is faster on this processor."""

from __future__ import annotations

import logging

import pytest
import torch

from shirg import precision
from shirg.precision import Precision, bfloat16_speedup, choose_precision


@pytest.fixture
def processor(monkeypatch):
    """A processor on which bfloat16 is so many times faster than float32."""

    def set_speedup(value: float) -> None:
        monkeypatch.setattr(precision, "bfloat16_speedup", lambda: value)

    return set_speedup


def test_the_probe_is_short_and_draws_nothing():
    before = torch.get_rng_state()
    speedup = bfloat16_speedup()
    assert 1e-3 < speedup < 1e2
    assert bfloat16_speedup() == speedup  # measured once
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("asked", "speedup", "mixed", "reason"),
    [
        ("auto", 0.04, "no", "float32: bfloat16 is 25x slower on this processor"),
        ("auto", 0.4, "no", "float32: bfloat16 is 2.5x slower on this processor"),
        ("auto", 1.0, "no", "float32: bfloat16 is no faster on this processor"),
        ("auto", 1.8, "bf16", "bfloat16: 1.8x faster than float32 on this processor"),
        ("fp16", 0.04, "no", "float32: bfloat16 is 25x slower on this processor; fp16 is for GPUs"),
        ("fp16", 2.0, "bf16", "bfloat16: 2.0x faster than float32 on this processor; fp16 is for GPUs"),
        ("no", 2.0, "no", "the weights' own precision, as set"),
        ("bf16", 2.0, "bf16", "bf16, as set"),
    ],
)
def test_auto_on_a_cpu_is_the_faster_precision(processor, asked, speedup, mixed, reason):
    processor(speedup)
    assert choose_precision(asked, "cpu") == Precision(mixed, reason)


def test_slow_bfloat16_is_obeyed_with_the_factor(processor, caplog):
    processor(0.02)
    with caplog.at_level(logging.WARNING):
        assert choose_precision("bf16", "cpu").mixed == "bf16"
    assert [record.message for record in caplog.records] == [
        "mixed_precision: bf16 as asked, but bfloat16 is 50x slower than float32 on this processor; auto takes float32"
    ]


def test_fast_bfloat16_is_obeyed_without_a_word(processor, caplog):
    processor(1.5)
    assert choose_precision("bf16", "cpu").mixed == "bf16" and not caplog.records


def test_other_devices_are_left_alone(monkeypatch):
    assert choose_precision("auto", "mps").mixed == "no"
    assert choose_precision("fp16", "cuda").mixed == "fp16"
    for supported, mixed in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, found=supported: found)
        assert choose_precision("auto", "cuda").mixed == mixed


@pytest.mark.parametrize(
    ("asked", "device", "warned"), [("fp16", "cuda", True), ("bf16", "cuda", False), ("fp16", "cpu", False)]
)
def test_fp16_of_weights_trained_in_bfloat16_has_a_warning(asked, device, warned, processor, caplog):
    processor(1.0)
    choose_precision(asked, device)
    assert not caplog.records
    assert choose_precision(asked, device, trained_in_bfloat16=True) == choose_precision(asked, device)
    found = [record.message for record in caplog.records if "activations above 65,504 overflow" in record.message]
    assert len(found) == warned
