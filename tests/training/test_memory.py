"""What a step is computed to keep, against what torch really keeps."""

from __future__ import annotations

import ctypes
import itertools
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shirg.lavida.shapes import published_config
from shirg.training.budgets import Component, components_of
from shirg.training.memory import STORED_BITS, Step, block_bytes, training_memory
from shirg.training.objective import answer_losses
from tests import forked
from tests.tiny import tiny_model

K768 = Component("shirg", 768)


def kept_bytes(model, length: int, batch: int, objective: str) -> int:
    """Bytes of the distinct tensors, weights left out, that autograd keeps of the loss's forward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes(), tensor  # holding the tensor keeps the address its own
        return tensor

    prefixes = [torch.randn(length, 32, requires_grad=True) for _ in range(batch)]
    targets = torch.randint(0, 256, (batch, 8))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        answer_losses(
            model.language, prefixes, targets, torch.rand(batch, 8) < 0.5, mask_token_id=9, objective=objective
        )
    return sum(size for size, _ in storages.values())


@pytest.mark.parametrize("objective", ["packed", "prefix"])
def test_what_is_computed_is_what_autograd_keeps(objective):
    """Two depths, so that what does not grow with the blocks falls out of the difference."""
    batch, length = 2, 120
    found = [
        kept_bytes(tiny_model(n_layers=layers, n_kv_heads=4).requires_grad_(False), length, batch, objective)
        for layers in (2, 6)
    ]
    config = tiny_model(n_layers=6, n_kv_heads=4).config
    rows, row_length = Step(batch_size=batch, prompt_tokens=0, answer_tokens=8, objective=objective).rows(length)
    computed = 4 * rows * row_length * block_bytes(config, row_length, 4, dense_mask=True)
    assert found[1] - found[0] == pytest.approx(computed, rel=0.15)


def test_llada_8b_by_hand():
    """Batch 1, K = 768, 64 prompt and 32 answer tokens: one row of 769 + 64 + 64 = 897 positions."""
    found = training_memory(published_config("llada-8b"), K768, Step(batch_size=1))
    assert found.blocks == 32 * 897 * (8 * 4096 + 2 * 4 * 4096 + 4 * 32 + 3 * 2 * 12288)
    assert found.head == 32 * 126464 * 14
    assert found.adapter == 16 * 215_040
    assert 16e9 < found.weights < 17e9
    assert found.working == 897 * 2 * (3 * 12288 + 2 * 4096) > found.head
    parts = found.weights, found.adapter, found.blocks, found.casts, found.projector, found.working
    assert found.total == sum(parts) and found.casts == 0


def test_checkpointing_and_packing_save_and_larger_batches_cost():
    config = published_config("llada-8b")
    totals = {}
    for component, batch in itertools.product(components_of([512, 1024]), (1, 4)):
        plain, checkpointed = (
            training_memory(config, component, Step(batch_size=batch, checkpointing=flag)).total
            for flag in (False, True)
        )
        assert checkpointed < plain
        totals[component.name, batch] = plain
    assert totals[512, 1] < totals[1024, 1] < totals[1024, 4]
    packed, twice = (training_memory(config, K768, Step(objective=name)).blocks for name in ("packed", "prefix"))
    assert 1.9 < twice / packed < 2


def test_a_divided_body_by_hand():
    """Eight processes: an eighth of 32 blocks, and two blocks gathered."""
    config, block = published_config("llada-8b"), 2 * (4 * 4096**2 + 3 * 4096 * 12288)
    whole, shared = (training_memory(config, K768, Step(body_shares=count)) for count in (1, 8))
    assert whole.weights - shared.weights == (28 - 2) * block
    assert whole.total - whole.weights == shared.total - shared.weights


def test_autocast_keeps_copies_of_the_weights():
    """All blocks' copies live until the backward pass; recomputed, those of one block at a time."""
    config = published_config("llada-8b")
    block = 2 * (4 * 4096**2 + 3 * 4096 * 12288)
    for checkpointing, copies in ((False, 32), (True, 1)):
        step = Step(batch_size=1, checkpointing=checkpointing, weights_dtype="float32")
        assert training_memory(config, K768, step).casts == copies * block


def test_memory_of_a_quantized_body_by_hand():
    config = published_config("llada-8b")
    body = 32 * (4 * 4096**2 + 3 * 4096 * 12288)
    full = training_memory(config, K768, Step(batch_size=1, checkpointing=True))
    for bits in (8, 4):
        found = training_memory(config, K768, Step(batch_size=1, checkpointing=True, body_bits=bits))
        assert full.weights - found.weights == pytest.approx(body * (16 - STORED_BITS[bits]) / 8, abs=1)
        assert found.casts == 2 * 4096 * 12288  # one matrix at a time is brought back to 16 bits
    assert found.total < 12e9


def run_forked(command: list[str], *, env: dict[str, str]) -> subprocess.CompletedProcess:
    """What `subprocess.run` does of a Python script, in a fork, whose heap is made to give back what it can."""

    def script() -> None:
        heap = ctypes.CDLL(None)
        heap.mallopt(-3, int(env["MALLOC_MMAP_THRESHOLD_"]))  # -3: M_MMAP_THRESHOLD
        heap.malloc_trim(0)
        sys.argv = command[1:]
        runpy.run_path(command[1], run_name="__main__")

    ended = forked.run(script)
    assert ended.code == 0, ended.err
    return subprocess.CompletedProcess(command, 0, ended.out)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from Linux's /proc")
def test_a_process_takes_what_is_computed(monkeypatch, capfd):
    """One step at a small size in an interpreter of its own: the memory of a forked process depends on its parent's. The
    benchmark compares all precisions at a larger size."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "training_memory.py"
    sizes = ["--width=256", "--layers=6", "--vocabulary=2048", "--budget=512", "--batch-size=4"]
    monkeypatch.setattr(sys, "argv", [str(script), *sizes, "--precision=float32"])
    code = runpy.run_path(str(script))["main"]()
    assert code == 0, capfd.readouterr()  # 1 where they are more than 15% apart
