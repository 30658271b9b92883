"""The ways of showing a page to the model that an evaluation compares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BUDGETED_MODES = ("shirg", "multiview")
"""Vision paths that take a token budget."""

REFERENCE_MODES = ("lowres", "hd", "highres")
"""Vision paths that a selection is compared with."""


@dataclass(frozen=True)
class Variant:
    """One vision path, its budget if it takes one, and whether the adapter is switched on."""

    mode: str
    budget: int | None = None
    adapter: bool = False

    @property
    def path(self) -> str:
        """Name of the vision path and budget, whatever the adapter: "hd", "shirg-768"."""
        return self.mode if self.budget is None else f"{self.mode}-{self.budget}"

    @property
    def name(self) -> str:
        """Unique name, used as key in every result: "shirg-768", "shirg-768+adapter"."""
        return f"{self.path}+adapter" if self.adapter else self.path

    @property
    def features(self) -> str:
        """Variants with equal answers here share one pass of the tower over the page."""
        return "highres" if self.mode == "shirg" else self.mode

    def as_dict(self) -> dict:
        return {"variant": self.name, "mode": self.mode, "budget": self.budget, "adapter": self.adapter}


def list_variants(modes: Sequence[str], budgets: Iterable[int], *, with_adapter: bool) -> list[Variant]:
    """Every path and budget without the adapter, then again with it when the model carries one."""
    budgets = sorted(set(budgets))
    paths = [(mode, budget) for mode in modes for budget in (budgets if mode in BUDGETED_MODES else [None])]
    states = (False, True) if with_adapter else (False,)
    return [Variant(mode, budget, adapter) for adapter in states for mode, budget in paths]


def references(variant: Variant, among: Iterable[Variant]) -> list[Variant]:
    """The variants that `variant` is compared with, of those that were run.

    A selection is compared with the unselected paths as the model ships them, which is the question a user has; with
    the adapter on, also with itself before the adapter and with the unselected paths under the same adapter, because
    part of a gain may come from training alone.
    """
    if variant.mode not in BUDGETED_MODES:
        return []
    run = set(among)
    wanted = [Variant(mode) for mode in REFERENCE_MODES]
    if variant.adapter:
        wanted += [Variant(variant.mode, variant.budget), *(Variant(mode, None, True) for mode in REFERENCE_MODES)]
    return [reference for reference in wanted if reference in run]
