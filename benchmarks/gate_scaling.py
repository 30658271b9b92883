"""How the gate's time grows with tokens, channels and budget.   python benchmarks/gate_scaling.py [--json FILE]

Without text, on random float32 tokens and pixels. Tokens: one 384 px view (27x27), the 672 px view (48x48), LaViDa's five
views of 384 px (5x27x27) and a 1344 px view (96x96). Every cell is the median of the runs in milliseconds, the last one is
the byte floor: summing the tokens once and copying 512 of them. Below are the growth exponents (1 is linear, 0 is not at
all) of time over tokens, channels and budget.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from common import machine, time_call

from shirg.files import write_json
from shirg.gate import ShirgGate
from shirg.gate.terms import PATCH

WIDTH, BUDGET = 1152, 512
GRIDS = {729: (27, 27), 2304: (48, 48), 3645: (5, 27, 27), 9216: (96, 96)}
BUDGETS = (64, 128, 256, 512, 768, 1024, 2048)
WIDTHS = (128, 384, 1152, 2304)


def inputs(count: int, width: int) -> dict:
    """Tokens, grid and pixels of one image."""
    *views, rows, columns = GRIDS[count]
    generator = torch.Generator().manual_seed(0)
    return {
        "tokens": torch.randn(1, count, width, generator=generator),
        "grid": GRIDS[count],
        "pixels": torch.randn((1, *views, 3, rows * PATCH, columns * PATCH), generator=generator),
    }


def measure(count: int, width: int, budget: int, warm_up: int, runs: int) -> float:
    """Median milliseconds of one image of `count` tokens of `width` channels."""
    gate, given = ShirgGate(), inputs(count, width)
    return time_call(lambda: gate(budget=budget, **given), warm_up, runs)[0]


def floor(count: int, warm_up: int, runs: int) -> float:
    """Median milliseconds of summing the tokens once and copying BUDGET of them."""
    tokens = inputs(count, WIDTH)["tokens"]
    return time_call(lambda: (tokens.sum(-1), tokens[:, :BUDGET].clone()), warm_up, runs)[0]


def exponent(sizes: list[int], times: list[float]) -> float:
    """Slope of log time over log size, by least squares."""
    x, y = ([math.log(value) for value in values] for values in (sizes, times))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    """Measure, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warm-up", type=int, default=3, help="calls before the clock starts")
    parser.add_argument("--runs", type=int, default=15, help="timed calls; the median is reported")
    parser.add_argument("--json", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    effort = (arguments.warm_up, arguments.runs)
    with torch.inference_mode():
        by_budget = {n: {k: measure(n, WIDTH, k, *effort) for k in BUDGETS if k < n} for n in GRIDS}
        by_width = {width: measure(2304, width, BUDGET, *effort) for width in WIDTHS}
        floors = {n: floor(n, *effort) for n in GRIDS}
    growth = {
        "tokens": exponent(list(GRIDS), [row[BUDGET] for row in by_budget.values()]),
        "channels": exponent(list(WIDTHS), list(by_width.values())),
        "budget": exponent(list(BUDGETS), list(by_budget[2304].values())),
    }
    record = {
        **machine(),
        "warm_up": arguments.warm_up,
        "runs": arguments.runs,
        "milliseconds": {n: {k: round(ms, 3) for k, ms in row.items()} for n, row in by_budget.items()},
        "milliseconds_by_width": {width: round(ms, 3) for width, ms in by_width.items()},
        "byte_floor": {n: round(ms, 3) for n, ms in floors.items()},
        "exponents": {name: round(value, 3) for name, value in growth.items()},
    }
    print(f"{record['processor']}, {record['threads']} threads, load {record['load_average']}, torch {record['torch']}")
    print(f"{'tokens':>8}" + "".join(f"{f'K={k}':>9}" for k in BUDGETS) + f"{'floor':>9}")
    for n, row in by_budget.items():
        cells = "".join(f"{row[k]:9.2f}" if k in row else f"{'-':>9}" for k in BUDGETS)
        print(f"{n:8}{cells}{floors[n]:9.2f}")
    print(f"{2304:8} tokens, K={BUDGET}, by channels: " + ", ".join(f"{w}: {ms:.2f}" for w, ms in by_width.items()))
    print("growth exponents: " + ", ".join(f"{name} {value:.2f}" for name, value in growth.items()))
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
