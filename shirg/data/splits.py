"""Which images go into training and validation, in exact numbers and without evaluation images."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shirg.data.catalogue import Catalogue
from shirg.data.config import Missing, SHIRGDatasetConfig
from shirg.data.image_scan import ImageScan, ImageTable, sha256_of_row
from shirg.data.near_duplicates import NearDuplicateIndex
from shirg.data.sources.base import Rejected
from shirg.data.workers import progress_bar

PARTS = ("base", "ocr")

EVALUATION = "evaluation"
"""The part of the catalogue with the images to exclude from training."""


@dataclass(frozen=True)
class ImagePool:
    """The scanned images of one part, in their seeded order.

    Attributes:
        groups: catalogue numbers; [n].
        counts: questions per image; [n].
        table: results of the scan; n rows.
        item: catalogue number -> (source, image name).
    """

    groups: np.ndarray
    counts: np.ndarray
    table: ImageTable
    item: Callable[[int], tuple[str, str]]

    def name(self, index: int) -> str:
        """Source and name of an image."""
        return " ".join(self.item(int(self.groups[index])))

    def rejected(self, index: int, reason: str) -> Rejected:
        """An image with its questions as a rejected entry."""
        return Rejected(*self.item(int(self.groups[index])), reason, int(self.counts[index]))


@dataclass(frozen=True)
class Split:
    """The records of one split: first those of real images, then rendered ones.

    Attributes:
        groups: catalogue numbers of the images; [n].
        ends: running sum of the records per image; [n].
        rows: rows of the images in an `ImageTable`; [n].
        rendered: number of rendered records.
    """

    groups: np.ndarray
    ends: np.ndarray
    rows: np.ndarray
    rendered: int

    @property
    def real(self) -> int:
        """Records of real images."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def total(self) -> int:
        """All records."""
        return self.real + self.rendered


@dataclass
class SplitPlan:
    """The content of the data set.

    Attributes:
        splits: `train` and `validation`.
        real: records of real images per part.
        lacking: requested records per part that its sources do not have.
        rejected: unusable entries and images with the reason.
    """

    splits: dict[str, Split]
    real: dict[str, int]
    lacking: dict[str, int]
    rejected: list[Rejected]


class EvaluationImages:
    """The images of the evaluation sets, which training must not contain."""

    def __init__(self, pool: ImagePool):
        """Unusable images of the pool are ignored."""
        self._name, table = pool.name, pool.table
        self._exact = {sha256_of_row(table.rows[index]): index for index in np.flatnonzero(table.usable).tolist()}
        self._hashed = np.flatnonzero(table.usable & ~table.rows["blank"])
        self._near = NearDuplicateIndex(table.rows["hash"][self._hashed])

    def reasons(self, table: ImageTable) -> dict[int, str]:
        """Index -> reason, for the images of `table` that are also evaluation images."""
        reasons = {}
        hashed = np.flatnonzero(table.usable & ~table.rows["blank"])
        near = self._near.find(table.rows["hash"][hashed])
        for index, found in zip(hashed[near >= 0].tolist(), near[near >= 0].tolist(), strict=True):
            reasons[index] = f"near-duplicate of {self._name(int(self._hashed[found]))}, an evaluation image"
        first_words = np.array([int.from_bytes(bytes.fromhex(sha[:16]), "little") for sha in self._exact], np.uint64)
        for index in np.flatnonzero(np.isin(table.rows["sha256"][:, 0], first_words)).tolist():
            same = self._exact.get(sha256_of_row(table.rows[index]))
            if same is not None:
                reasons[index] = f"the same file as {self._name(same)}, an evaluation image"
        return reasons


def seeded_order(part: str, groups: np.ndarray, seed: int) -> np.ndarray:
    """The images of a part in the order in which they are drawn."""
    order = groups.tolist()
    random.Random(f"{part}:{seed}").shuffle(order)
    return np.array(order, dtype=np.int64)


def assign_splits(
    pools: dict[str, ImagePool], evaluated: EvaluationImages, sizes: dict[str, int], fraction: float, missing: Missing
) -> SplitPlan:
    """Distribute the images over training and validation.

    Each part gives whole images to validation until its share is reached, without exceeding it; an image with too many
    questions stays in training. If there are too few real records, `missing` decides: with `refuse` and `fewer` the plan
    has fewer (and counts them in `lacking`), with `render` it has rendered pages instead.

    Args:
        pools: of both parts.
        evaluated: images to exclude.
        sizes: records requested per part.
        fraction: share of the records for validation.
        missing: "refuse", "fewer" or "render".
    """
    rejected: list[Rejected] = []
    usable = {part: _usable(pools[part], evaluated, rejected) for part in PARTS}
    counts = {part: np.where(usable[part], pools[part].counts, 0) for part in PARTS}
    real = {part: min(sizes[part], int(counts[part].sum())) for part in PARTS}
    total = sum(sizes.values()) if missing == "render" else sum(real.values())
    held = min(max(round(fraction * total), 1), total - 1) if fraction and total else 0
    chosen = _choose_validation(counts, real, held, total)
    seen = np.concatenate([pools[part].table.rows["sha256"][chosen[part]] for part in PARTS])
    taken: dict[str, dict[str, np.ndarray]] = {"train": {}, "validation": {}}
    for part, pool in ((part, pools[part]) for part in PARTS):
        # 64 bits suffice: for 600,000 images a collision has a probability of 10^-8, and would lose one image.
        again = usable[part] & ~chosen[part] & np.isin(pool.table.rows["sha256"][:, 0], seen[:, 0])
        for index in np.flatnonzero(again).tolist():
            rejected.append(pool.rejected(index, "the same image is in the validation split"))
        taken["validation"][part] = validation = np.where(chosen[part], counts[part], 0)
        rest = np.where(chosen[part] | again, 0, counts[part])
        quota = max(sizes[part] - int(validation.sum()), 0)
        taken["train"][part] = np.clip(quota - (np.cumsum(rest) - rest), 0, rest)  # the first `quota` records
        real[part] = int(validation.sum() + taken["train"][part].sum())
    lacking = {part: sizes[part] - real[part] for part in PARTS}
    rendered = sum(lacking.values()) if missing == "render" else 0
    real_held = sum(int(taken["validation"][part].sum()) for part in PARTS)
    held_rendered = min(max(held - real_held, 0), rendered)
    splits = {
        "train": _split(pools, taken["train"], rendered - held_rendered),
        "validation": _split(pools, taken["validation"], held_rendered),
    }
    return SplitPlan(splits, real, lacking, rejected)


def _usable(pool: ImagePool, evaluated: EvaluationImages, rejected: list[Rejected]) -> np.ndarray:
    """Which images are usable, bool [n]; the others are added to `rejected`."""
    reasons = evaluated.reasons(pool.table) | pool.table.reasons
    usable = np.ones(len(pool.table), dtype=bool)
    for index in sorted(reasons):
        usable[index] = False
        rejected.append(pool.rejected(index, reasons[index]))
    return usable


def _choose_validation(
    counts: dict[str, np.ndarray], real: dict[str, int], held: int, total: int
) -> dict[str, np.ndarray]:
    """Which images go into validation, bool [n] per part; `counts` are 0 for unusable images."""
    chosen, begin = {part: np.zeros(len(counts[part]), dtype=bool) for part in PARTS}, 0
    for part in PARTS:  # shares are rounded as a running sum, so that together they do not exceed `held`
        end = begin + real[part]
        left = (round(held * end / total) - round(held * begin / total)) if total else 0
        begin = end
        for index in np.flatnonzero(counts[part]).tolist():
            if not left:
                break
            if counts[part][index] <= left:
                chosen[part][index] = True
                left -= int(counts[part][index])
    images = sum(np.count_nonzero(counts[part]) for part in PARTS if real[part])
    if held and sum(real.values()) == total and not any(map(np.any, chosen.values())) and images > 1:
        # Every image has more questions than validation may take. Take the smallest one that fits its part.
        candidates = [
            (int(counts[part][index]), part, index)
            for part in PARTS
            for index in np.flatnonzero(counts[part]).tolist()
            if counts[part][index] <= real[part]
        ]
        if candidates:
            _, part, index = min(candidates)
            chosen[part][index] = True
    return chosen


def _split(pools: dict[str, ImagePool], taken: dict[str, np.ndarray], rendered: int) -> Split:
    """A split from the number of records taken of each image."""
    used = {part: np.flatnonzero(taken[part]) for part in PARTS}
    groups = np.concatenate([pools[part].groups[used[part]] for part in PARTS])
    ends = np.cumsum(np.concatenate([taken[part][used[part]] for part in PARTS]))
    rows = np.concatenate([pools[part].table.rows[used[part]] for part in PARTS])
    return Split(groups, ends, rows, rendered)


class SplitPlanner:
    """Scans as many images as the requested numbers need, then assigns them to splits."""

    def __init__(self, config: SHIRGDatasetConfig, catalogue: Catalogue, folder: Path):
        """`folder` is for the scan's block files."""
        self.config, self.catalogue = config, catalogue
        orders = {part: seeded_order(part, catalogue.part(part), config.seed) for part in PARTS}
        orders[EVALUATION] = catalogue.part(EVALUATION)
        self.scans = {part: ImageScan(folder, part, catalogue, order) for part, order in orders.items()}

    def plan(self) -> SplitPlan | None:
        """The plan, or None if other processes still have images to scan."""
        config = self.config
        blocks = {part: self._blocks(part, config.sizes[part], 0) for part in PARTS}
        blocks[EVALUATION] = len(self.scans[EVALUATION]) if any(blocks.values()) else 0
        while self._scan(blocks):
            pools = {part: self._pool(part, count) for part, count in blocks.items()}
            held_out = pools.pop(EVALUATION)
            plan = assign_splits(
                pools, EvaluationImages(held_out), config.sizes, config.validation_fraction, config.missing
            )
            more = {part: self._blocks(part, plan.lacking[part], blocks[part]) for part in PARTS}
            if all(more[part] == blocks[part] for part in PARTS):  # the plan needs no more images
                not_compared = [
                    Rejected(
                        *held_out.item(int(held_out.groups[index])), f"not compared with training images: {reason}", 0
                    )
                    for index, reason in sorted(held_out.table.reasons.items())
                ]
                plan.rejected = [*self.catalogue.rejected, *not_compared, *plan.rejected]
                return plan
            blocks |= more
        return None

    def _blocks(self, part: str, records: int, begin: int) -> int:
        """How many blocks hold `records` more than the first `begin` blocks; all blocks if they hold fewer."""
        scan, block = self.scans[part], begin
        while records > 0 and block < len(scan):
            records -= int(self.catalogue.counts[scan.members(block)].sum())
            block += 1
        return block

    def _scan(self, blocks: dict[str, int]) -> bool:
        """Scan this process's share of the missing blocks. Returns whether all blocks are finished."""
        config = self.config
        mine = {
            part: [n for n in self.scans[part].missing(count) if n % config.num_shards == config.shard_index]
            for part, count in blocks.items()
        }
        total = sum(len(self.scans[part].members(number)) for part, numbers in mine.items() for number in numbers)
        if total:
            with progress_bar("scanning images", total) as advance:
                for part, numbers in mine.items():
                    self.scans[part].run(numbers, config.num_workers, advance)
        return all(not self.scans[part].missing(count) for part, count in blocks.items())

    def _pool(self, part: str, blocks: int) -> ImagePool:
        scan = self.scans[part]
        table = scan.table(blocks)
        groups = scan.order[: len(table)]
        return ImagePool(groups, self.catalogue.counts[groups], table, self.catalogue.item)


def shortage_message(config: SHIRGDatasetConfig, have: dict[str, int], rejected: list[Rejected]) -> str:
    """The error message if the sources have fewer records than requested."""
    asked, flags = config.sizes, {"base": "--dataset-size", "ocr": "--ocr-samples"}
    short = [part for part in PARTS if have[part] < asked[part]]
    counts = "; ".join(f"{part} part: {asked[part]} records requested, {have[part]} found" for part in short)
    lost = sum(entry.records for entry in rejected)
    first = f" ({lost} rejected; the first, {rejected[0].item}: {rejected[0].reason})" if lost else ""
    advice = "Get data (`shirg prepare --list` names the files)"
    if any(have.values()):
        advice = f"Use {' '.join(f'{flags[part]} {have[part]}' for part in short)}"
    return (
        f"{counts}{first}. {advice}, add a source, --allow-fewer to take what there is, or --render-missing to fill up "
        "with rendered pages"
    )
