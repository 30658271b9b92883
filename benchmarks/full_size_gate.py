"""Part "gate" of `full_size.py`: every selector eager and captured in a CUDA graph; `shirg` also compiled.

A call gets tokens, 32 words in their space, and float32 pixels, as the tower gets them; attention and keys are random. The byte
floor is the time to sum the tokens once and copy as many as are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from common import time_call
from full_size_model import DTYPE, Size, tokens_of
from torch import Tensor

from shirg.evaluation.efficiency import peak_bytes
from shirg.gate import SELECTORS, GateConfig, Kept, ShirgGate
from shirg.gate.terms import PATCH
from shirg.lavida import Lavida

QUESTION_WORDS = 32
DRAWS_ON_HOST = ("random",)
"""Selectors that cannot be captured: they draw on the host, to be the same on every device."""
Grid = tuple[int, int, int]


def gate_rows(size: Size, model: Lavida) -> dict[str, Callable[[], dict]]:
    """Key of a row -> what measures it. Our own gate comes first."""
    others = sorted(name for name in SELECTORS if name != "shirg")
    gates = {"shirg": GateConfig(), "shirg, ocr": GateConfig.preset("ocr")}
    gates |= {name: GateConfig(selector=name) for name in others}
    return {
        f"{name} {tokens_of(grid)}->{min(size.main_budget, tokens_of(grid) // 2)} x{batch}": partial(
            measure, size, model.device, config, grid, batch
        )
        for name, config in gates.items()
        for grid in size.grids
        for batch in size.batches
    }


@torch.no_grad()
def measure(size: Size, device: torch.device, config: GateConfig, grid: Grid, batch: int) -> dict:
    """One row, milliseconds per call. Without a GPU the gate is neither captured nor compiled (None)."""
    count = tokens_of(grid)
    budget, on_host = min(size.main_budget, count // 2), inputs(config, grid, batch, size.config.vision_hidden_size)
    on_device = {name: value.to(device) for name, value in on_host.items()}
    gate, tokens = ShirgGate(config), on_device["tokens"]

    def call(gate: Callable[..., Kept] = gate, given: dict[str, Tensor] = on_device) -> Kept:
        return gate(budget=budget, grid=grid, **given)

    def median(action: Callable[[], object]) -> float:
        return round(time_call(action, size.warm_up, size.runs, device)[0], 4)

    row = {
        **{"tokens": count, "grid": list(grid), "channels": tokens.shape[-1], "batch": batch, "budget": budget},
        "byte_floor_ms": median(lambda: (tokens.sum(-1), tokens[:, : budget + 1].clone())),
        "eager_ms": median(call),
        "peak_bytes": peak_bytes(device, call),
        **dict.fromkeys(("captured_ms", "compiled_ms", "differing")),
    }
    if device.type == "cuda":
        kept = [call(given=given).assignment.cpu() >= 0 for given in (on_host, on_device)]
        row["differing"] = int((kept[0] & ~kept[1]).sum())  # patches that the CPU keeps and the GPU drops
        if config.selector not in DRAWS_ON_HOST:
            row["captured_ms"] = median(captured(call, size.warm_up))
        if config.selector == "shirg":
            torch.compiler.reset()
            compiled = torch.compile(gate, fullgraph=True, dynamic=False)
            row["compiled_ms"] = median(partial(call, compiled))
    return row


def inputs(config: GateConfig, grid: Grid, batch: int, channels: int) -> dict[str, Tensor]:
    """Arguments of a call, drawn on the CPU, so that both devices get the same numbers."""
    (views, rows, columns), count = grid, tokens_of(grid)
    draws = torch.Generator().manual_seed(0)
    print_ = (torch.rand(batch, views, 1, rows, columns, generator=draws) < 0.3).repeat_interleave(PATCH, 3)
    noise = torch.randn(batch, views, 3, rows * PATCH, columns * PATCH, generator=draws)
    given = {
        "tokens": torch.randn(batch, count, channels, generator=draws).to(DTYPE),
        "text": torch.randn(batch, QUESTION_WORDS, channels, generator=draws).to(DTYPE),
        "pixels": torch.where(print_.repeat_interleave(PATCH, 4), noise, 1.0),  # print in some patches, others blank
    }
    needed = {
        "attention": torch.rand(batch, count, generator=draws).softmax(-1),
        "keys": torch.randn(batch, count, channels, generator=draws).to(DTYPE),
    }
    return given | {name: needed[name] for name in SELECTORS[config.selector].needs}


def captured(call: Callable[[], Kept], warm_up: int) -> Callable[[], object]:
    """`call` captured in a CUDA graph, as a function that replays it."""
    side, current = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):  # libraries make their handles before the capture
        for _ in range(warm_up):
            call()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()
    return lambda: (graph.replay(), kept)  # the graph writes to `kept`
