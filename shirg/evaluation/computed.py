"""What the vision paths of a run would cost at the size of LaViDa-LLaDA-8B: computed, where a run can measure a nano."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from shirg.evaluation.variants import RIVALS, Variant
from shirg.lavida.costs import Scenario, path_cost, path_tokens, vision_shape
from shirg.lavida.shapes import published_config

SHAPE = "llada-8b"
"""The published shape, a key of `shirg.lavida.shapes.PUBLISHED`."""


def computed_costs(variants: Sequence[Variant], resolution: int) -> dict[str, Any]:
    """Bytes and FLOPs of one answer by each path; see `shirg.lavida.costs` for what is counted.

    Baselines are left out: up to their own arithmetic, which is not counted here, they cost what `shirg` does. So are budgets
    above the tokens of the large view.

    Args:
        resolution: side in pixels of the large view, the run's own.

    Returns:
        `shape`, `scenario` and `rows`: `variant`, `tokens`, and the fields of `PathCost`.
    """
    published, scenario, rows = published_config(SHAPE), Scenario(), []
    config = replace(published, vision=replace(published.vision, resolution=resolution))
    most = path_tokens(config, "highres")
    for variant in variants:
        if variant.mode not in RIVALS and (variant.budget or 0) <= most:
            shape = vision_shape(config, variant.mode, budget=variant.budget)
            rows.append({"variant": variant.name, "tokens": shape.tokens, **asdict(path_cost(config, shape, scenario))})
    return {"shape": SHAPE, "scenario": asdict(scenario) | {"image_size": list(scenario.image_size)}, "rows": rows}
