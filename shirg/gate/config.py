"""The gate's settings. They travel with every adapter, so names and defaults are part of the file format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

FLAGS = ("coverage", "summary")
"""Settings that are true or false; files may hold anything, and Python counts with booleans."""

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
    """Largest number of clusters, as a share of the budget; each cluster is sure of one token. Between 0 and 1.

    It yields to `max_cell` alone: where the grid's coarsest cells are more than this share, they are the clusters, 36 in
    48 x 48 tokens, 81 in 27 x 27, and so 405 in five such views, which is more than half of a budget of 768.
    """
    max_cell: int = 8
    """Longest side of a cluster, in tokens; at least 1. It is never exceeded."""
    coverage: bool = True
    """Keep the best token of every cluster before ranking the rest."""
    summary: bool = True
    """Append the mean of the dropped tokens, so that a budget of K gives K + 1 tokens."""
    selector: str = "shirg"
    """Which rule chooses: a name in `shirg.gate.SELECTORS`."""
    seed: int = 0
    """Seed of the `random` selector; no other selector draws anything."""
    edge: str = "runs"
    """What of its pixels makes a patch an edge: mean "gradient" magnitude of the luminance, "density" of steep pixels, steep
    pixels in both directions ("strokes"), the same above the grain and half patch by half patch ("print"), that as the mean of
    the patches side by side that hold print ("runs"), or "variance" of the luminance; see `shirg.gate.terms.pixel_edges` and
    `shirg.gate.runs`. Without pixels, all are the token map's gradient.

    Where there are "runs", coverage is for them: a cluster without one is left to the summary. The relevance of a token is
    that of its run."""
    edge_spread: float = 0.2
    """Share of its edge that a patch lends to the patches left and right of it; those above and below get a third of that
    (three quarters of it where edges are "print" or "runs"). Between 0 and 1.

    A word's first and last patch hold little of its ink and rank low, though without them it cannot be read; its
    neighbours speak for them. Lines of text are wide, hence more to the sides.
    """
    relevance_spread: float = 0.2
    """Share of its relevance that a token lends to all tokens of its row. Between 0 and 1.

    A question names a label ("Total"), and what answers it stands on the same line, where nothing says that it is wanted.
    """
    min_cell: int = 1
    """Shortest side of a cluster, in tokens: cells that would have to be shorter are not split. At least 1."""

    def __post_init__(self) -> None:
        """Refuse settings that no image could be scored with."""
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
        """Settings by name, one of `PRESETS`.

        Raises:
            ValueError: for a name that is not in `PRESETS`.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown; there are {', '.join(PRESETS)}")
        return cls(**PRESETS[name])

    @classmethod
    def stored(cls, settings: dict[str, Any]) -> GateConfig:
        """The gate that an adapter was trained with: fields younger than the adapter are those of "shirg-v2".

        Raises:
            TypeError: for a field that there is not.
            ValueError: for a value that makes no sense.
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

"shirg-v2": the formula that SHIRG began with, to the letter: a * Var + (1 - a) * max cos + b * Edge with a = 0.25 and b = 0.15,
the best token of every cluster, a summary token. It leaves open what an edge is (here the mean gradient of the luminance; a
"density" is as true to it), how tokens are grouped (here a quadtree cut where the tokens vary, which is clustering of places,
not of features), and what the dropped regions are summed up in (here one token for all of them).

"ocr": edges lead, but not those of rules and borders; words keep their ends; clusters are spread evenly. In 48 x 48 tokens
every 4 x 4 tile is sure of a token from a budget of 480 on, and no cluster is spent on anything finer. A label that the
question names brings its line along.

"runs", the default: words are ranked, not patches. Neighbouring patches of print are joined and take their mean, so that a
word is kept whole or not at all; every cell of at most 8 x 8 tokens that holds a run is sure of one token, blank paper of
none; where the whole image holds no print, as a photograph, every cell is. Without pixels it is the token map's gradient with
one token for every cell.
"""
