"""Part "gate" of `full_size.py`: every rule alone, called eagerly, compiled, and captured in a CUDA graph.

A call gets tokens, 32 words of a question in their space, and pixels in float32, as the tower got them; rules that look at
attention or keys get random ones. The floor is to read these once and to write the kept tokens. Runs are cold: a sweep
through memory lies between them, because the tokens of one image would stay in the cache of a large card.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from full_size_clock import NO_CUDA, Clock, floor
from full_size_model import Size, tokens_of
from torch import Tensor

from shirg.gate import SELECTORS, GateConfig, Kept, ShirgGate
from shirg.gate.terms import PATCH
from shirg.lavida.costs import gate_arithmetic_flops

WORDS = 32
TIE = 1e-3
"""Scores this close may be ranked either way by two devices (the rule of tests/gate/test_gpu.py)."""

HOST_DRAWN = ("random",)
"""Draws on the host, to be the same for every device; a graph cannot hold that."""
STEPWISE = ("divprune", "cdpruner", "tops")
"""Pick one token after the other: compiled, their steps unroll into a graph of thousands of operations."""


@dataclass(frozen=True)
class Case:
    """One rule at one shape."""

    setting: str
    """A selector, or "shirg, ocr" for the preset."""
    grid: tuple[int, int, int]
    batch: int
    dtype: str
    budget: int

    @property
    def key(self) -> str:
        return f"{self.setting} {tokens_of(self.grid)}->{self.budget} x{self.batch} {self.dtype}"

    @property
    def config(self) -> GateConfig:
        if self.setting == "shirg, ocr":
            return GateConfig.preset("ocr")
        return GateConfig(selector=self.setting)


class GatePart:
    """The gate's rows."""

    def __init__(self, size: Size, clock: Clock):
        self.size, self.clock = size, clock
        self.channels = size.config.vision_hidden_size
        self.main_grid = size.grids[1]

    @property
    def cases(self) -> list[Case]:
        """All rows: our own rule first, then the others, first at the main shape."""
        others = sorted(name for name in SELECTORS if name != "shirg")
        found = [
            Case(setting, grid, batch, dtype, budget)
            for setting in ("shirg", "shirg, ocr", *others)
            for grid in self.size.grids
            for budget in self.size.budgets
            if budget < tokens_of(grid)
            for batch in self.size.batches
            for dtype in self.size.dtypes
        ]
        return sorted(found, key=lambda case: (case.setting in others, not self._is_main(case)))

    def _is_main(self, case: Case) -> bool:
        return (
            case.grid == self.main_grid and case.budget == self.size.main_budget and case.dtype == self.size.dtypes[0]
        )

    def _compiles(self, case: Case) -> bool:
        """Compiling takes tens of seconds. Our own rule is compiled at every grid and batch, others at the main shape."""
        if case.setting == "shirg":
            fitting = [budget for budget in self.size.budgets if budget < tokens_of(case.grid)]
            return case.dtype == self.size.dtypes[0] and case.budget == min(fitting[-1], self.size.main_budget)
        return self._is_main(case) and case.batch == self.size.batches[0] and case.setting not in STEPWISE

    def _compares(self, case: Case) -> bool:
        """A CPU takes seconds for a batch of some rules; numbers are float32 to all of them, whatever they come in."""
        return case.setting.startswith("shirg") or (
            case.dtype == self.size.dtypes[0] and case.batch == self.size.batches[0]
        )

    @torch.no_grad()
    def measure(self, case: Case) -> dict:
        """One row. Ways in which the rule was not measured say why."""
        on_host = self._inputs(case)
        inputs = {name: value.to(self.clock.device) for name, value in on_host.items()}
        gate = ShirgGate(case.config)

        def call() -> Kept:
            return gate(budget=case.budget, grid=case.grid, **inputs)

        row = {
            "selector": case.config.selector,
            "preset": "ocr" if case.setting.endswith("ocr") else "default",
            "tokens": tokens_of(case.grid),
            "grid": list(case.grid),
            "channels": self.channels,
            "batch": case.batch,
            "dtype": case.dtype,
            "budget": case.budget,
            "words": WORDS,
            "floor": self._floor(case, inputs),
            "eager": self._way(lambda: call),
            "compiled": self._compiled(case, gate, inputs),
            "captured": self._captured(case, call),
        }
        return row | {"choice": self._choice(case, gate, on_host, call)}

    def _inputs(self, case: Case) -> dict[str, Tensor]:
        """What a call gets, drawn on the CPU so that both devices see the same numbers."""
        views, rows, columns = case.grid
        count, dtype = tokens_of(case.grid), getattr(torch, case.dtype)
        draws = torch.Generator().manual_seed(0)
        printed = (torch.rand(case.batch, views, 1, rows, columns, generator=draws) < 0.3).float()
        printed = printed.repeat_interleave(PATCH, 3).repeat_interleave(
            PATCH, 4
        )  # ink in some patches, paper in others
        noise = torch.randn(case.batch, views, 3, rows * PATCH, columns * PATCH, generator=draws)
        needed = {
            "attention": torch.rand(case.batch, count, generator=draws).softmax(-1),
            "keys": torch.randn(case.batch, count, self.channels, generator=draws).to(dtype),
        }
        return {
            "tokens": torch.randn(case.batch, count, self.channels, generator=draws).to(dtype),
            "text": torch.randn(case.batch, WORDS, self.channels, generator=draws).to(dtype),
            "pixels": torch.where(printed > 0, noise, 1.0),
            **{name: needed[name] for name in SELECTORS[case.config.selector].needs},
        }

    def _floor(self, case: Case, inputs: dict[str, Tensor]) -> dict:
        tokens, count = inputs["tokens"], tokens_of(case.grid)
        written = case.batch * (case.budget + 1) * self.channels * tokens.itemsize
        blind = replace(self.size.config, vision=replace(self.size.config.vision, relevance="none"))
        flops = gate_arithmetic_flops(blind, count, inputs["pixels"][0].numel() // 3, WORDS)
        flops += (2 * WORDS + 6) * count * self.channels  # the question, in the tokens' own space
        moved = sum(value.nbytes for value in inputs.values()) + written
        return floor(self.clock.device_name, moved, case.batch * flops)

    def _way(self, prepare: Callable[[], Callable[[], object]]) -> dict:
        """Time and peak memory of what `prepare` makes, the making included in the memory."""
        made: list[Callable[[], object]] = []

        def first() -> None:
            made.append(prepare())
            made[0]()

        began = time.perf_counter()
        peak = self.clock.peak(first)
        seconds = time.perf_counter() - began
        runs = self.size.runs
        timed = self.clock.time(made[0], warm_up=runs.warm_up, runs=runs.gate, cold=True)
        return {**timed, **peak, "first_call_s": round(seconds, 3)}

    def _compiled(self, case: Case, gate: ShirgGate, inputs: dict[str, Tensor]) -> dict | str:
        if not self._compiles(case):
            return "not measured: compiled at chosen shapes only, and not where steps unroll"
        if not self.clock.cuda and case.batch > 1:
            return "not measured: on a CPU the gate takes image by image, which is no one graph"
        backend = "inductor" if self.clock.cuda else "eager"  # a CPU's machine need not have a C++ compiler
        torch.compiler.reset()

        def prepare() -> Callable[[], object]:
            compiled = torch.compile(gate, fullgraph=True, dynamic=False, backend=backend)
            return lambda: compiled(budget=case.budget, grid=case.grid, **inputs)

        return attempted(lambda: {**self._way(prepare), "backend": backend})

    def _captured(self, case: Case, call: Callable[[], Kept]) -> dict | str:
        if not self.clock.cuda:
            return NO_CUDA
        if case.config.selector in HOST_DRAWN:
            return "not measured: draws on the host"

        def prepare() -> Callable[[], object]:
            side = torch.cuda.Stream(self.clock.device)
            side.wait_stream(torch.cuda.current_stream(self.clock.device))
            with torch.cuda.stream(side):  # libraries make their handles and plans before the capture
                for _ in range(self.size.runs.warm_up):
                    call()
            torch.cuda.current_stream(self.clock.device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                kept = call()

            def replay() -> Kept:  # holds what the graph writes to
                graph.replay()
                return kept

            return replay

        return attempted(lambda: self._way(prepare))

    def _choice(self, case: Case, gate: ShirgGate, on_host: dict[str, Tensor], call: Callable[[], Kept]) -> dict | str:
        """Whether the device keeps what the CPU keeps."""
        if not self.clock.cuda:
            return NO_CUDA
        if not self._compares(case):
            return "not measured: compared at the first precision and one image only"
        return attempted(lambda: compare(gate(budget=case.budget, grid=case.grid, **on_host), call()))


def compare(cpu: Kept, device: Kept) -> dict:
    """Two choices from the same numbers.

    Returns:
        `tokens` of which that many were `exchanged` for others (of rules that merge: went to another output), and whether
        they `agree`. For rules that keep tokens that means but for ties: of the exchanged, taken in the order of their
        scores, no two are further apart than `TIE`; `largest_gap` is what they are. After one tie a rule that picks step by
        step may go another way for good.
    """
    if cpu.indices is None:
        exchanged = int((cpu.assignment != device.assignment.cpu()).sum())
        return {"tokens": cpu.assignment.numel(), "exchanged": exchanged, "agree": exchanged == 0}
    exchanged, gap = 0, 0.0
    for ours, theirs, scores in zip(cpu.indices.tolist(), device.indices.tolist(), cpu.scores.double(), strict=True):
        lost, won = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
        apart = (scores[lost].sort().values - scores[won].sort().values).abs()
        exchanged, gap = exchanged + len(lost), max([gap, *apart.tolist()])
    return {"tokens": cpu.indices.numel(), "exchanged": exchanged, "largest_gap": gap, "agree": gap < TIE}


def attempted(measure: Callable[[], dict]) -> dict | str:
    """What `measure` finds, or in one line why it could not: one way that fails leaves the others their row."""
    try:
        return measure()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers and drivers raise what they like
        return f"failed: {type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
