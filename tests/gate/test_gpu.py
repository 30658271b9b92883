"""The gate on a GPU: the same selection as on the CPU, no synchronisation, capture in a CUDA graph. Skipped without a GPU."""

from __future__ import annotations

import pytest
import torch

from shirg.gate import SELECTORS, GateConfig, ShirgGate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
GRID, BUDGET = (48, 48), 768
PRESETS = ["shirg-v2", "ocr", "runs"]
CONFIGS = [GateConfig.preset(name) for name in PRESETS]


def picture(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Tokens [2, 2304, 64] with text and pixels of a page that is printed in places."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 2304, 64, generator=generator)
    text = torch.randn(2, 7, 64, generator=generator)
    printed = (torch.rand(2, 1, *GRID, generator=generator) < 0.3).repeat_interleave(14, 2).repeat_interleave(14, 3)
    pixels = torch.where(printed, torch.randn(2, 3, 672, 672, generator=generator), torch.ones(()))
    return {"tokens": tokens.to(dtype), "text": text.to(dtype), "pixels": pixels.to(dtype)}


def on_gpu(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.cuda() for name, value in inputs.items()}


def agree_but_for_ties(cpu, gpu) -> None:
    """The same tokens, except where the scores of those exchanged lie within 1e-3 of one another."""
    for ours, theirs, scores in zip(cpu.indices.cpu(), gpu.indices.cpu(), cpu.scores.cpu(), strict=True):
        lost, won = (set(a.tolist()) - set(b.tolist()) for a, b in ((ours, theirs), (theirs, ours)))
        pairs = zip(sorted(scores[list(lost)]), sorted(scores[list(won)]), strict=True)
        assert all(abs(a - b) < 1e-3 for a, b in pairs)


@pytest.mark.parametrize("config", CONFIGS, ids=PRESETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_selection_equals_that_of_the_cpu(config, dtype):
    inputs, gate = picture(dtype), ShirgGate(config)
    agree_but_for_ties(gate(budget=BUDGET, grid=GRID, **inputs), gate(budget=BUDGET, grid=GRID, **on_gpu(inputs)))


def test_twice_the_same():
    inputs, gate = on_gpu(picture()), ShirgGate()
    first, second = (gate(budget=BUDGET, grid=GRID, **inputs) for _ in range(2))
    assert torch.equal(first.indices, second.indices) and torch.equal(first.tokens, second.tokens)


@pytest.mark.parametrize("config", CONFIGS, ids=PRESETS)
def test_capture_in_a_graph_needs_no_synchronisation(config):
    inputs, gate = on_gpu(picture()), ShirgGate(config)
    with torch.inference_mode():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):  # libraries make their handles and plans before the capture
            for _ in range(2):
                gate(budget=BUDGET, grid=GRID, **inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # an error where anything waits for the host
            captured = gate(budget=BUDGET, grid=GRID, **inputs)
        inputs["tokens"].copy_(inputs["tokens"].flip(1))
        inputs["pixels"].copy_(inputs["pixels"].flip(2))
        graph.replay()
        assert torch.equal(captured.indices, gate(budget=BUDGET, grid=GRID, **inputs).indices)


@pytest.mark.parametrize("config", CONFIGS, ids=PRESETS)
def test_compiled_by_inductor_it_chooses_the_same(config):
    inputs, gate = on_gpu(picture()), ShirgGate(config)
    compiled = torch.compile(gate, fullgraph=True)
    agree_but_for_ties(gate(budget=BUDGET, grid=GRID, **inputs), compiled(budget=BUDGET, grid=GRID, **inputs))


@pytest.mark.parametrize("name", [name for name, selector in SELECTORS.items() if not selector.needs])
def test_every_selector_runs(name):
    inputs = on_gpu(picture())
    kept = ShirgGate(GateConfig(selector=name))(budget=BUDGET, grid=GRID, **inputs)
    assert kept.tokens.is_cuda and kept.tokens.isfinite().all()
