"""The sweep of rates: a table, and whether its optimum lies between rates that were tried."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import rate_sweep


def run(rate: float, relative: float) -> dict:
    found = {"relative": relative, "low": relative - 0.01, "high": relative + 0.01, "records": 600}
    return {"learning_rate": rate, "lora_dropout": 0.0, "best_step": 40, "best_validation": found}


@pytest.mark.parametrize(
    ("losses", "best", "bracketed"), [((0.97, 0.93, 0.95), 4e-3, True), ((0.97, 0.95, 0.93), 1e-2, False)]
)
def test_an_optimum_is_bracketed_by_rates_on_both_sides(losses, best, bracketed):
    runs = [run(rate, loss) for rate, loss in zip(rate_sweep.RATES, losses, strict=True)]
    found = rate_sweep.verdict(runs)
    assert found == {"learning_rate": best, "lora_dropout": 0.0, "bracketed": bracketed}
    report = rate_sweep.report({"runs": runs, "best": found})
    assert "| 0.001 | 0 | 0.970 | [0.960, 0.980] | 40 | 600 |" in report
    assert ("at the edge" in report) is not bracketed
