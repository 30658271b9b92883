"""Time the gate on this machine's CPU.   python benchmarks/gate_cpu.py [--json benchmarks/results/gate_cpu.json]

One image of LaViDa's size: 2304 raw tokens of 1152 channels, 672 x 672 pixels, 32 text tokens, float32; K = 768. Reported are
median and best of the runs and the ratio of medians to two references: keeping the tokens of greatest L2 norm (the cheapest
selector that reads tokens at all), and the byte floor, the time this machine takes to sum the tokens once and copy the kept
ones. Three published selectors are timed on the same input; VisionZip's time excludes the tower's attention and keys. The load
average is printed, too: on a busy machine only the best is meaningful.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import machine, time_call

from shirg.files import write_json
from shirg.gate import GateConfig, ShirgGate

GRID, WIDTH, BUDGET, WORDS = (48, 48), 1152, 768, 32
SELECTORS = ("shirg", "random", "uniform", "divprune", "cdpruner", "visionzip")


def keep_longest(tokens: torch.Tensor) -> torch.Tensor:
    """The baseline: top-k of the L2 norm, in raster order."""
    indices = torch.linalg.vector_norm(tokens, dim=-1).topk(BUDGET).indices.sort().values
    return torch.stack([image.index_select(0, kept) for image, kept in zip(tokens, indices, strict=True)])


def measure(batch: int, warm_up: int, runs: int) -> dict[str, list[float]]:
    """Median and best milliseconds per image of every way to call the gate, of three baselines and of the two references."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(batch, GRID[0] * GRID[1], WIDTH, generator=generator)
    text = torch.randn(batch, WORDS, WIDTH, generator=generator)
    pixels = torch.randn(batch, 3, GRID[0] * 14, GRID[1] * 14, generator=generator)
    gates = {name: ShirgGate(GateConfig(selector=name)) for name in SELECTORS}
    attention = torch.rand(batch, GRID[0] * GRID[1], generator=generator)
    keys = torch.randn(batch, GRID[0] * GRID[1], WIDTH, generator=generator)
    first = ShirgGate(GateConfig.preset("shirg-v2"))
    calls = {
        "text and pixels": lambda: gates["shirg"](tokens, BUDGET, GRID, text, pixels),
        "pixels": lambda: gates["shirg"](tokens, BUDGET, GRID, pixels=pixels),
        "text and pixels, shirg-v2": lambda: first(tokens, BUDGET, GRID, text, pixels),
        "pixels, shirg-v2": lambda: first(tokens, BUDGET, GRID, pixels=pixels),
        "tokens only": lambda: gates["shirg"](tokens, BUDGET, GRID),
        "random": lambda: gates["random"](tokens, BUDGET, GRID),
        "uniform": lambda: gates["uniform"](tokens, BUDGET, GRID),
        "DivPrune": lambda: gates["divprune"](tokens, BUDGET, GRID),
        "CDPruner": lambda: gates["cdpruner"](tokens, BUDGET, GRID, text),
        "VisionZip": lambda: gates["visionzip"](tokens, BUDGET, GRID, attention=attention, keys=keys),
        "L2-norm top-k": lambda: keep_longest(tokens),
        "byte floor": lambda: (tokens.sum(-1), tokens[:, :BUDGET].clone()),
    }
    with torch.inference_mode():
        return {name: [ms / batch for ms in time_call(call, warm_up, runs)] for name, call in calls.items()}


def main() -> None:
    """Measure, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1, help="images per call")
    parser.add_argument("--warm-up", type=int, default=5, help="calls before the clock starts")
    parser.add_argument("--runs", type=int, default=21, help="timed calls; the median is reported")
    parser.add_argument("--json", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    times = measure(arguments.batch, arguments.warm_up, arguments.runs)
    record = {
        **machine(),
        "setting": {"tokens": [arguments.batch, GRID[0] * GRID[1], WIDTH], "budget": BUDGET, "text": WORDS},
        "warm_up": arguments.warm_up,
        "runs": arguments.runs,
        "milliseconds_per_image": {
            name: {"median": round(median, 3), "best": round(best, 3)} for name, (median, best) in times.items()
        },
    }
    print(f"{record['processor']}, {record['threads']} threads, load {record['load_average']}, torch {record['torch']}")
    print(f"{arguments.batch} image(s): {'ms/image':>18}{'best':>9}{'x L2 norm':>11}{'x floor':>9}")
    norm, floor = times["L2-norm top-k"][0], times["byte floor"][0]
    for name, (median, best) in times.items():
        print(f"{name:22}{median:9.2f}{best:9.2f}{median / norm:11.1f}{median / floor:9.1f}")
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
