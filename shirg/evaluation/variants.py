"""The variants that an evaluation compares: vision path, budget, selector and adapter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from shirg.errors import UserError
from shirg.gate.selectors import SELECTORS
from shirg.lavida.settings import VisionSettings
from shirg.lavida.views import Views
from shirg.lavida.vision import PATHS
from shirg.ranges import Budget

ADAPTER = "adapter"
"""Name of the adapter that is loaded on the evaluated model."""

WHOLE_MODES = ("lowres", "hd", "hd-flat", "highres", "multiview-all")
"""Vision paths without a selection: LaViDa's own, then every token of the large view and of the unpooled tiles."""

BUDGETED_MODES = ("shirg", "early", "multiview")
"""SHIRG's vision paths, which take a token budget."""

BASELINES = tuple(sorted(name for name in SELECTORS if name != "shirg"))
"""Other selectors, which select from the same large view as `shirg`."""

SELECTING_MODES = (*BUDGETED_MODES, *BASELINES)
"""Modes with a budget."""

ALL_MODES = (*WHOLE_MODES, *SELECTING_MODES)
CORE_MODES = ("lowres", "hd", "hd-flat", "highres", "shirg", "divprune", "random")
"""LaViDa's own paths, every token, SHIRG, the strongest baseline and random selection: at two budgets ten variants, nine if
the model's `hd` is flat."""

NAMED_SETS = {"all": ALL_MODES, "core": CORE_MODES}
"""Names of groups of modes."""

QUESTION_BLIND = (
    "downsample", "pool", "random", "uniform", "dart", "distinct", "divprune", "holov", "prumerge", "tome", "tops", "visionzip",
    "vispruner",
)  # fmt: skip
"""Selectors that do not use the question."""

SHIPPED_PATHS = ("lowres", "hd")
"""LaViDa's own vision paths, with which every variant is compared."""
REFERENCE_MODES = (*SHIPPED_PATHS, "highres")
"""Vision paths that a selection is compared with."""
EVERY_TOKEN = {"multiview": "multiview-all"}
"""Selection -> the path of every token that it selects from; `highres` for all others."""

PATH_DESCRIPTIONS = {
    "lowres": "the whole page at the tower's own resolution",
    "hd": "LaViDa's own path: the page and its tiles, the tokens of each pooled to about a quarter",
    "hd-flat": "the same, view after view, without newlines and un-padding: 980 tokens of five views",
    "highres": "the whole page at the large resolution, every token",
    "multiview-all": "the page and its tiles without pooling, every token",
    "shirg": "the same large page, the selected tokens and one summary token",
    "early": "of the same large page only the selected patches, chosen before the tower, and one summary token",
    "multiview": "the page and its tiles without pooling, the selected tokens and one summary token",
}
"""Mode -> what the model is shown, for reports. Baselines select from the same view as `shirg`."""


@dataclass(frozen=True)
class Variant:
    """One of `ALL_MODES`, its budget if it takes one, and the name of the adapter that is on, None for none."""

    mode: str
    budget: Budget | None = None
    adapter: str | None = None

    @property
    def path(self) -> str:
        """Name of the vision path and budget, whatever the adapter: "hd", "shirg-768", "shirg-auto"."""
        return self.mode if self.budget is None else f"{self.mode}-{self.budget}"

    @property
    def name(self) -> str:
        """Unique name, the key of all results: "shirg-768", "shirg-768+adapter"."""
        return self.path if self.adapter is None else f"{self.path}+{self.adapter}"

    @property
    def vision_path(self) -> str:
        """Its vision path in the model: that of `shirg` for baselines."""
        return "shirg" if self.mode in BASELINES else self.mode

    @property
    def encoding(self) -> tuple[Views, bool]:
        """The views that are encoded, and whether after the selection; variants with equal ones share their features."""
        path = PATHS[self.vision_path]
        return path.views, path.early

    @property
    def selector(self) -> str | None:
        """The baseline that replaces the model's selector; None keeps the model's gate."""
        return self.mode if self.mode in BASELINES else None

    def settings(self, own: VisionSettings) -> VisionSettings:
        """A model's vision settings with this variant's selector."""
        return own if self.selector is None else replace(own, gate=replace(own.gate, selector=self.selector))

    @property
    def needs(self) -> tuple[str, ...]:
        """Outputs of the tower that its selector needs in addition to the tokens: "attention", "keys"."""
        return SELECTORS[self.selector].needs if self.selector else ()

    @property
    def uses_question(self) -> bool:
        """Whether the selection may depend on the question."""
        return self.budget is not None and self.mode not in QUESTION_BLIND and not PATHS[self.vision_path].early

    def to_json(self) -> dict[str, Any]:
        """As JSON values. `adapter` is True for `ADAPTER`, the name of another one, or False for none."""
        adapter = {None: False, ADAPTER: True}.get(self.adapter, self.adapter)
        return {"variant": self.name, "mode": self.mode, "budget": self.budget, "adapter": adapter}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Variant:
        """The variant of an entry that has the keys of `to_json`."""
        adapter = {False: None, True: ADAPTER}.get(entry["adapter"], entry["adapter"])
        return cls(entry["mode"], entry["budget"], adapter)


def named_modes(names: Sequence[str], *, flat: bool) -> list[str]:
    """Modes by name, each once, in the order given; "core" and "all" are several, see `NAMED_SETS`.

    Args:
        flat: whether the model's `hd` is flat; the groups then leave `hd-flat` out, which is the same.

    Raises:
        UserError: for an unknown name; the message lists the known ones.
    """
    modes: list[str] = []
    for name in names:
        if name not in NAMED_SETS and name not in ALL_MODES:
            near = get_close_matches(name, ALL_MODES, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            known = f"{', '.join(NAMED_SETS)} or some of {', '.join(ALL_MODES)}"
            raise UserError(f"modes: got {name!r}{hint}, must be {known}")
        modes += [mode for mode in NAMED_SETS.get(name, (name,)) if name == mode or not (flat and mode == "hd-flat")]
    return list(dict.fromkeys(modes))


def in_order(budgets: Iterable[Budget]) -> list[Budget]:
    """Each once: numbers from small to large, then "auto"."""
    return sorted(set(budgets), key=lambda budget: (budget == "auto", budget))


def list_variants(modes: Sequence[str], budgets: Iterable[Budget], adapters: Sequence[str] = ()) -> list[Variant]:
    """Every path and budget without an adapter, then again with each of the adapters."""
    taken: list[Budget] = in_order(budgets)
    paths = [(mode, budget) for mode in modes for budget in (taken if mode in SELECTING_MODES else [None])]
    return [Variant(mode, budget, adapter) for adapter in (None, *adapters) for mode, budget in paths]


def middle_budget(variants: Sequence[Variant]) -> Variant | None:
    """The variant with the median budget; one with "auto" only if there is no other."""
    fixed = [one for one in variants if isinstance(one.budget, int)] or list(variants)
    return sorted(fixed, key=lambda one: one.budget or 0)[len(fixed) // 2] if fixed else None


def references(variant: Variant, among: Iterable[Variant]) -> list[Variant]:
    """The variants that `variant` is compared with, of those that were run.

    A selection is compared with `REFERENCE_MODES` and the path of every token it selects from, without an adapter. If it has an
    adapter, it is also compared with itself without it, with these paths with the same adapter (part of a gain may come from
    training alone), and with itself with the first adapter. `shirg` is also compared with every baseline at the same budget and
    adapter, and `early` with `shirg`. A path without selection is compared with `lowres`, or if it has an adapter, with itself
    without it.
    """
    run = list(dict.fromkeys(among))
    if variant.mode not in SELECTING_MODES:
        before = Variant("lowres") if variant.adapter is None else replace(variant, adapter=None)
        return [before] if before in run and before != variant else []
    modes = dict.fromkeys((*REFERENCE_MODES, EVERY_TOKEN.get(variant.mode, "highres")))
    wanted = [Variant(mode) for mode in modes]
    if variant.adapter is not None:
        wanted += [replace(variant, adapter=None), *(Variant(mode, None, variant.adapter) for mode in modes)]
        first = next(one.adapter for one in (*run, variant) if one.adapter is not None)
        wanted += [replace(variant, adapter=first)] if first != variant.adapter else []
    if variant.mode == "shirg":
        wanted += [replace(variant, mode=other) for other in BASELINES]
    if variant.mode == "early":
        wanted += [replace(variant, mode="shirg")]
    return [reference for reference in wanted if reference in run]
