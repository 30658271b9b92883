"""The gate's settings. They travel with every adapter, so names and defaults are part of the file format."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class GateConfig:
    """How visual tokens are scored, grouped and kept.

    Raises:
        ValueError: for a weight or size outside its range; the message gives the field and the value.
    """

    alpha: float = 0.25
    """Weight of the variance term; the relevance to the text weighs `1 - alpha`. Between 0 and 1."""
    beta: float = 0.15
    """Weight of the edge term. At least 0."""
    clusters_per_budget: float = 0.25
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

    def __post_init__(self) -> None:
        """Refuse settings that no image could be scored with."""
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, got {self.alpha}")
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be a number of at least 0, got {self.beta}")
        if not 0 <= self.clusters_per_budget <= 1:
            raise ValueError(f"clusters_per_budget must be between 0 and 1, got {self.clusters_per_budget}")
        if not isinstance(self.max_cell, int) or self.max_cell < 1:
            raise ValueError(f"max_cell must be a whole number of tokens, at least 1, got {self.max_cell!r}")
