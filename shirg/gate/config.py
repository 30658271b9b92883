"""The gate's settings. Adapters store them, so names and defaults are part of the file format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

FLAGS = ("coverage", "summary")
"""Fields that must be Boolean; all others must not be, since Python accepts booleans as numbers."""

EDGES = ("gradient", "density", "strokes", "print", "runs", "variance")
"""What `GateConfig.edge` may be: see `shirg.gate.terms.pixel_edges`."""


@dataclass(frozen=True)
class GateConfig:
    """How visual tokens are scored, grouped and kept.

    Raises:
        ValueError: for a weight or size outside its range; the message gives the field and the value.
    """

    alpha: float = 0.0
    """Weight of the variance term; the relevance to the text weighs `1 - alpha`. Between 0 and 1."""
    beta: float = 1.0
    """Weight of the edge term. At least 0."""
    clusters_per_budget: float = 0.0
    """Largest number of clusters, as a share of the budget; each cluster keeps at least one token. Between 0 and 1.

    `max_cell` has precedence: there are never fewer clusters than the grid's coarsest cells, which are 36 in 48 x 48 tokens,
    81 in 27 x 27, and so 405 in five such views (more than half of a budget of 768).
    """
    max_cell: int = 8
    """Longest side of a cluster, in tokens; at least 1."""
    coverage: bool = True
    """Keep the best token of every cluster before ranking the rest."""
    summary: bool = True
    """Append the mean of the dropped tokens, so that a budget of K gives K + 1 tokens."""
    selector: str = "shirg"
    """The selector: a name in `shirg.gate.SELECTORS`."""
    seed: int = 0
    """Seed of the `random` selector; no other selector draws anything."""
    edge: str = "runs"
    """How the edge of a patch is measured: mean "gradient" magnitude of the luminance; "density" of steep pixels; "strokes",
    pixels steep in both directions; "print", strokes above the grain, per half patch; "runs", the mean of print over a run of
    neighbouring patches; or "variance" of the luminance. See `shirg.gate.terms.pixel_edges` and `shirg.gate.runs`. Without
    pixels every kind is the gradient of the token map.

    With "runs", coverage keeps no token of a cluster without a run, and the relevance of a token is that of its run."""
    edge_spread: float = 0.2
    """Share of its edge that a patch adds to the patches left and right of it. Those above and below get a third of that, or
    three quarters with "print" and "runs". Between 0 and 1.

    It raises the first and last patch of a word, which hold little ink.
    """
    relevance_spread: float = 0.2
    """Share of its relevance that a token adds to all tokens of its row. Between 0 and 1.

    A question names a label ("Total"); the answer is usually on the same line.
    """
    min_cell: int = 1
    """Shortest side of a cluster, in tokens; a cell is not split into shorter ones. At least 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, got {self.alpha}")
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be a number of at least 0, got {self.beta}")
        if not 0 <= self.clusters_per_budget <= 1:
            raise ValueError(f"clusters_per_budget must be between 0 and 1, got {self.clusters_per_budget}")
        for name, value in vars(self).items():
            if isinstance(value, bool) != (name in FLAGS):
                raise ValueError(f"{name} must {'be' if name in FLAGS else 'not be'} true or false, got {value!r}")
        if not isinstance(self.seed, int):
            raise ValueError(f"seed must be a whole number, got {self.seed!r}")
        if not isinstance(self.max_cell, int) or self.max_cell < 1:
            raise ValueError(f"max_cell must be a whole number of tokens, at least 1, got {self.max_cell!r}")
        if self.edge not in EDGES:
            raise ValueError(f"edge must be one of {', '.join(EDGES)}, got {self.edge!r}")
        if not 0 <= self.edge_spread <= 1:
            raise ValueError(f"edge_spread must be between 0 and 1, got {self.edge_spread}")
        if not 0 <= self.relevance_spread <= 1:
            raise ValueError(f"relevance_spread must be between 0 and 1, got {self.relevance_spread}")
        if not isinstance(self.min_cell, int) or self.min_cell < 1:
            raise ValueError(f"min_cell must be a whole number of tokens, at least 1, got {self.min_cell!r}")

    @classmethod
    def preset(cls, name: str) -> GateConfig:
        """The settings of a preset.

        Raises:
            ValueError: for a name that is not in `PRESETS`.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown; there are {', '.join(PRESETS)}")
        return cls(**PRESETS[name])

    @classmethod
    def stored(cls, settings: dict[str, Any]) -> GateConfig:
        """The settings stored with an adapter. Fields that the file lacks, since it is older, are those of "shirg-v2".

        Raises:
            TypeError: for an unknown field.
            ValueError: for a value outside its range.
        """
        return cls(**PRESETS["shirg-v2"] | settings)


PRESETS: dict[str, dict[str, Any]] = {
    "runs": {},
    "default": {},
    "shirg-v2": {
        "alpha": 0.25,
        "beta": 0.15,
        "edge": "gradient",
        "edge_spread": 0.0,
        "relevance_spread": 0.0,
        "clusters_per_budget": 0.25,
    },
    "ocr": {
        "alpha": 0.1,
        "beta": 1.0,
        "edge": "strokes",
        "edge_spread": 0.3,
        "relevance_spread": 0.2,
        "clusters_per_budget": 0.3,
        "min_cell": 4,
    },
}
"""Preset -> the fields in which it differs from `GateConfig()`.

"shirg-v2": SHIRG's first formula: a * Var + (1 - a) * max cos + b * Edge with a = 0.25 and b = 0.15, the best token of every
cluster, a summary token. The formula does not define the edge (here the mean gradient of the luminance), the clusters (here a
quadtree over the grid) or the summary (here one token for all dropped tokens).

"ocr": edges have the greatest weight, those of ruled lines and borders excepted (`edge="strokes"`). In 48 x 48 tokens every
4 x 4 tile keeps at least one token from a budget of 480 on. A label that the question names raises its row.

"runs", the default: neighbouring patches of print are joined to runs and get the mean of their edges, so that a word is kept
whole or dropped whole. Every cell of at most 8 x 8 tokens that holds a run keeps at least one token; if the whole image has no
print, every cell does. Without pixels the edge is the gradient of the token map, and every cell keeps at least one token.
"""
