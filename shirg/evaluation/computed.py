"""What the vision paths of a run would cost at the size of LaViDa-LLaDA-8B: computed, where a run can measure a nano."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from shirg.evaluation.variants import RIVALS, Variant
from shirg.lavida.config import LavidaConfig
from shirg.lavida.costs import Scenario, VisionShape, path_cost, vision_shape
from shirg.lavida.shapes import published_config

SHAPE = "llada-8b"
"""The published shape, a key of `shirg.lavida.shapes.PUBLISHED`."""


def computed_costs(variants: Sequence[Variant], resolution: int) -> dict[str, Any]:
    """Bytes and FLOPs of one answer by each path; see `shirg.lavida.costs` for what is counted.

    Rivals are left out: up to their own arithmetic, which is not counted here, they cost what `shirg` does. So are
    budgets above the tokens of the large view.

    Args:
        resolution: side in pixels of the large view, the run's own.

    Returns:
        `shape`, `scenario` and `rows`: `variant`, `tokens`, and the fields of `PathCost`.
    """
    published, scenario = published_config(SHAPE), Scenario()
    config = replace(published, vision=replace(published.vision, resolution=resolution))
    rows = []
    for variant in variants:
        shape = None if variant.mode in RIVALS else _shape(config, variant)
        if shape is not None:
            cost = path_cost(config, shape, scenario)
            rows.append({"variant": variant.name, "tokens": shape.tokens, **asdict(cost)})
    plain = asdict(scenario) | {"image_size": list(scenario.image_size)}
    return {"shape": SHAPE, "scenario": plain, "rows": rows}


def _shape(config: LavidaConfig, variant: Variant) -> VisionShape | None:
    if variant.mode == "hd-flat":
        return vision_shape(replace(config, patch_merge_type="flat"), "hd")
    if variant.mode == "multiview-all":
        tiles = vision_shape(config, "multiview", budget=1)
        layout = f"{tiles.views} x {tiles.grid[0]}x{tiles.grid[1]}"
        return replace(tiles, mode="hd", budget=None, tokens=tiles.encoded, layout=layout)
    if variant.budget is not None and variant.budget > vision_shape(config, "highres").tokens:
        return None
    return vision_shape(config, variant.mode, budget=variant.budget)
