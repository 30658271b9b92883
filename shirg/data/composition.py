"""Which records go into a prepared data set, in which order and on which side, in exact numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from shirg.data.likeness import Lookalikes
from shirg.data.sources.base import Rejected
from shirg.data.survey import Looks, sha256_of_row

PARTS = ("base", "ocr")
SPLITS = ("validation", "train")
"""In the order in which they are written."""

Missing = Literal["refuse", "fewer", "render"]
"""What happens where a part's sources hold fewer records than asked."""


@dataclass(frozen=True)
class Pool:
    """Images of one part in their seeded order, as far as they were looked at.

    Attributes:
        groups: their numbers in the catalogue; [n].
        counts: questions about each; [n].
        looks: what was seen of each.
        item: (source, name) of an image by its place here, for the list of rejected things.
    """

    groups: np.ndarray
    counts: np.ndarray
    looks: Looks
    item: Callable[[int], tuple[str, str]]


@dataclass(frozen=True)
class Run:
    """Consecutive records of a split: of real images, or of rendered pages where `groups` is None."""

    length: int
    groups: np.ndarray | None = None
    ends: np.ndarray | None = None
    """Running sum of the records taken of every image; [n], the last is `length`."""


@dataclass
class Plan:
    """What the data set is made of.

    Attributes:
        runs: of every split, in order.
        real: records of real images per part.
        lacking: records per part that its sources should give and do not.
        rejected: images that cannot be used, with the reason.
    """

    runs: dict[str, list[Run]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    real: dict[str, int] = field(default_factory=dict)
    lacking: dict[str, int] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)

    def total(self, split: str) -> int:
        """Records of a split."""
        return sum(run.length for run in self.runs[split])

    def pieces(self, split: str, start: int, stop: int) -> Iterator[tuple[Run, int, int]]:
        """The runs that hold records `start` to `stop` of a split, with the places within each."""
        begin = 0
        for run in self.runs[split]:
            first, last = max(start - begin, 0), min(stop - begin, run.length)
            if first < last:
                yield run, first, last
            begin += run.length


class HeldOut:
    """The images of the evaluation sets, which training must not contain."""

    def __init__(self, name: Callable[[int], str], looks: Looks):
        """Names by place (for messages) and looks; unusable images are passed over."""
        self.name = name
        usable = np.ones(len(looks), dtype=bool)
        usable[list(looks.reasons)] = False
        self._exact = {sha256_of_row(looks.table[place]): place for place in np.flatnonzero(usable).tolist()}
        self._pictured = np.flatnonzero(usable & ~looks.table["blank"])
        self._alike = Lookalikes(looks.table["likeness"][self._pictured])

    def reasons(self, looks: Looks) -> dict[int, str]:
        """Why an image must not be used, by its place; the others may."""
        reasons = {}
        pictured = np.ones(len(looks), dtype=bool) & ~looks.table["blank"]
        pictured[list(looks.reasons)] = False
        asked = np.flatnonzero(pictured)
        near = self._alike.find(looks.table["likeness"][asked])
        for place, found in zip(asked[near >= 0].tolist(), near[near >= 0].tolist(), strict=True):
            reasons[place] = f"the same picture as {self.name(int(self._pictured[found]))}, which is evaluated on"
        words = np.array([_first_word(name) for name in self._exact], dtype=np.uint64)
        for place in np.flatnonzero(np.isin(looks.table["sha256"][:, 0], words)).tolist():
            same = self._exact.get(sha256_of_row(looks.table[place]))
            if same is not None:
                reasons[place] = f"the same file as {self.name(same)}, which is evaluated on"
        return reasons


def _first_word(digest: str) -> int:
    return int.from_bytes(bytes.fromhex(digest[:16]), "little")


def seeded_order(part: str, groups: np.ndarray, seed: int) -> np.ndarray:
    """The images of a part in the order in which they are drawn."""
    order = groups.tolist()
    random.Random(f"{part}:{seed}").shuffle(order)
    return np.array(order, dtype=np.int64)


def compose(
    pools: dict[str, Pool], held_out: HeldOut, sizes: dict[str, int], fraction: float, missing: Missing
) -> Plan:
    """Decides which images go where.

    A part takes whole images into validation until its share is reached without being exceeded; an image whose
    questions do not fit is left to training. Where real records are missing, `missing` says what happens: with `refuse`
    and `fewer` the plan has fewer (and tells so in `lacking`), with `render` pages take their place.

    Args:
        pools: of both parts.
        held_out: evaluation images.
        sizes: records asked of both parts.
        fraction: of the records that go into validation.
        missing: see above.
    """
    plan = Plan()
    usable = {part: _usable(pools[part], held_out, plan.rejected) for part in PARTS}
    real = {part: min(sizes[part], int(pools[part].counts[usable[part]].sum())) for part in PARTS}
    total = sum(sizes.values()) if missing == "render" else sum(real.values())
    held = min(max(round(fraction * total), 1), total - 1) if fraction and total else 0
    chosen = _choose_validation(pools, usable, real, held, total)
    seen = np.concatenate([pools[part].looks.table["sha256"][chosen[part]] for part in PARTS])
    train: dict[str, Run] = {}
    for part in PARTS:
        validation = _run(pools[part], chosen[part], None)
        plan.runs["validation"].append(validation)
        rest = _unseen(pools[part], np.setdiff1d(usable[part], chosen[part]), seen, plan.rejected)
        train[part] = _run(pools[part], rest, max(sizes[part] - validation.length, 0))
        plan.real[part] = validation.length + train[part].length
        plan.lacking[part] = sizes[part] - plan.real[part]
    rendered = sum(plan.lacking.values()) if missing == "render" else 0
    held_rendered = min(max(held - plan.total("validation"), 0), rendered)
    plan.runs["validation"].append(Run(held_rendered))
    plan.runs["train"] = [*train.values(), Run(rendered - held_rendered)]
    return plan


def _usable(pool: Pool, held_out: HeldOut, rejected: list[Rejected]) -> np.ndarray:
    """Places of the images that may be used; the others are listed."""
    reasons = held_out.reasons(pool.looks) | pool.looks.reasons
    for place in sorted(reasons):
        rejected.append(Rejected(*pool.item(place), reasons[place], int(pool.counts[place])))
    return np.setdiff1d(np.arange(len(pool.looks)), np.fromiter(reasons, np.int64, len(reasons)), assume_unique=True)


def _choose_validation(
    pools: dict[str, Pool], usable: dict[str, np.ndarray], real: dict[str, int], held: int, total: int
) -> dict[str, np.ndarray]:
    chosen, shares, begun = {}, {}, 0
    for part in PARTS:  # rounded as a running sum, so that together they are not more than `held`
        ended = begun + real[part]
        shares[part] = (round(held * ended / total) - round(held * begun / total)) if total else 0
        begun = ended
    for part in PARTS:
        left, places = shares[part], []
        for place in usable[part].tolist():
            if not left:
                break
            if pools[part].counts[place] <= left:
                places.append(place)
                left -= int(pools[part].counts[place])
        chosen[part] = np.array(places, dtype=np.int64)
    asked = [part for part in PARTS if real[part]]
    images = sum(len(usable[part]) for part in asked)
    if held and sum(real.values()) == total and not any(map(len, chosen.values())) and images > 1:
        # Every image has more questions than validation asks for: one is better than none, if others are left to train on and
        # its part has room for it.
        candidates = [
            (int(pools[part].counts[place]), part, place) for part in asked for place in usable[part].tolist()
        ]
        fitting = [candidate for candidate in candidates if candidate[0] <= real[candidate[1]]]
        if fitting:
            _, part, place = min(fitting)
            chosen[part] = np.array([place], dtype=np.int64)
    return chosen


def _unseen(pool: Pool, places: np.ndarray, seen: np.ndarray, rejected: list[Rejected]) -> np.ndarray:
    """Places whose images are not among `seen` (digests [n, 4]); the others are listed."""
    # One 64-bit word tells 600,000 images apart but for one chance in 10^8, and what it costs is an image.
    again = np.isin(pool.looks.table["sha256"][places, 0], seen[:, 0])
    for place in places[again].tolist():
        reason = "the same image is in the validation split"
        rejected.append(Rejected(*pool.item(place), reason, int(pool.counts[place])))
    return places[~again]


def _run(pool: Pool, places: np.ndarray, quota: int | None) -> Run:
    """All records of these images, or the first `quota`: what is left of the last image is dropped."""
    ends = np.cumsum(pool.counts[places])
    if quota is not None:
        cut = int(np.searchsorted(ends, quota)) + 1 if quota else 0
        places, ends = places[:cut], np.minimum(ends[:cut], quota)
    return Run(int(ends[-1]) if len(ends) else 0, pool.groups[places], ends)
