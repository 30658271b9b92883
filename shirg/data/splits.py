"""Which images go into training and validation, in exact numbers and without evaluation images."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shirg.data.catalogue import Catalogue
from shirg.data.config import Missing, SHIRGDatasetConfig
from shirg.data.image_scan import ImageScan, ImageTable, sha256_of_row
from shirg.data.near_duplicates import NearDuplicateIndex
from shirg.data.shards import SPLITS
from shirg.data.sources.base import Rejected
from shirg.data.workers import progress_bar

PARTS = ("base", "ocr")

EVALUATION = "evaluation"
"""The catalogue's part of images that are excluded from training."""


@dataclass(frozen=True)
class ImagePool:
    """The scanned images of one part, in their seeded order.

    Attributes:
        groups: catalogue numbers; [n].
        counts: questions per image; [n].
        table: results of the scan; n rows.
        item: index -> (source, image name), for the list of rejected entries.
    """

    groups: np.ndarray
    counts: np.ndarray
    table: ImageTable
    item: Callable[[int], tuple[str, str]]


@dataclass(frozen=True)
class Segment:
    """Consecutive records of a split: of real images, or of rendered pages where `groups` is None.

    Attributes:
        length: number of records.
        groups: catalogue numbers of the images; [n].
        ends: running sum of the records per image, the last is `length`; [n].
        rows: rows of the images in an `ImageTable`; [n].
    """

    length: int
    groups: np.ndarray | None = None
    ends: np.ndarray | None = None
    rows: np.ndarray | None = None


@dataclass
class SplitPlan:
    """What the data set consists of.

    Attributes:
        segments: of each split, in order.
        real: records of real images per part.
        lacking: records per part that its sources should give and do not.
        rejected: unusable images with the reason.
    """

    segments: dict[str, list[Segment]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    real: dict[str, int] = field(default_factory=dict)
    lacking: dict[str, int] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)

    def total(self, split: str) -> int:
        """Records of a split."""
        return sum(segment.length for segment in self.segments[split])

    def pieces(self, split: str, start: int, stop: int) -> Iterator[tuple[Segment, int, int]]:
        """The segments that hold records `start` to `stop` of a split, with first and last record within each."""
        begin = 0
        for segment in self.segments[split]:
            first, last = max(start - begin, 0), min(stop - begin, segment.length)
            if first < last:
                yield segment, first, last
            begin += segment.length


class EvaluationImages:
    """The images of the evaluation sets, which training must not contain."""

    def __init__(self, pool: ImagePool):
        """Unusable images of the pool are ignored."""
        self._pool, table = pool, pool.table
        self._exact = {sha256_of_row(table.rows[index]): index for index in np.flatnonzero(table.usable).tolist()}
        self._hashed = np.flatnonzero(table.usable & ~table.rows["blank"])
        self._near = NearDuplicateIndex(table.rows["hash"][self._hashed])

    def reasons(self, table: ImageTable) -> dict[int, str]:
        """Index -> reason, for the images of `table` that are evaluated on."""
        reasons = {}
        hashed = np.flatnonzero(table.usable & ~table.rows["blank"])
        near = self._near.find(table.rows["hash"][hashed])
        for index, found in zip(hashed[near >= 0].tolist(), near[near >= 0].tolist(), strict=True):
            reasons[index] = f"near-duplicate of {self._name(int(self._hashed[found]))}, which is evaluated on"
        first_words = np.array([int.from_bytes(bytes.fromhex(sha[:16]), "little") for sha in self._exact], np.uint64)
        for index in np.flatnonzero(np.isin(table.rows["sha256"][:, 0], first_words)).tolist():
            same = self._exact.get(sha256_of_row(table.rows[index]))
            if same is not None:
                reasons[index] = f"the same file as {self._name(same)}, which is evaluated on"
        return reasons

    def _name(self, index: int) -> str:
        return " ".join(self._pool.item(index))


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
    questions stays in training. `missing` decides what happens where real records are missing: `refuse` and `fewer`
    plan fewer (and count them in `lacking`), `render` plans pages instead.

    Args:
        pools: of both parts.
        evaluated: images to keep out.
        sizes: records requested per part.
        fraction: share of the records for validation.
        missing: see above.
    """
    plan = SplitPlan()
    usable = {part: _usable(pools[part], evaluated, plan.rejected) for part in PARTS}
    real = {part: min(sizes[part], int(pools[part].counts[usable[part]].sum())) for part in PARTS}
    total = sum(sizes.values()) if missing == "render" else sum(real.values())
    held = min(max(round(fraction * total), 1), total - 1) if fraction and total else 0
    chosen = _choose_validation(pools, usable, real, held, total)
    seen = np.concatenate([pools[part].table.rows["sha256"][chosen[part]] for part in PARTS])
    for part in PARTS:
        validation = _segment(pools[part], chosen[part], None)
        rest = _unseen(pools[part], np.setdiff1d(usable[part], chosen[part]), seen, plan.rejected)
        train = _segment(pools[part], rest, max(sizes[part] - validation.length, 0))
        plan.segments["validation"].append(validation)
        plan.segments["train"].append(train)
        plan.real[part] = validation.length + train.length
        plan.lacking[part] = sizes[part] - plan.real[part]
    rendered = sum(plan.lacking.values()) if missing == "render" else 0
    held_rendered = min(max(held - plan.total("validation"), 0), rendered)
    plan.segments["validation"].append(Segment(held_rendered))
    plan.segments["train"].append(Segment(rendered - held_rendered))
    return plan


def _usable(pool: ImagePool, evaluated: EvaluationImages, rejected: list[Rejected]) -> np.ndarray:
    """Indices of the usable images; the others are added to `rejected`."""
    reasons = evaluated.reasons(pool.table) | pool.table.reasons
    for index in sorted(reasons):
        rejected.append(Rejected(*pool.item(index), reasons[index], int(pool.counts[index])))
    return np.setdiff1d(np.arange(len(pool.table)), np.fromiter(reasons, np.int64, len(reasons)), assume_unique=True)


def _choose_validation(
    pools: dict[str, ImagePool], usable: dict[str, np.ndarray], real: dict[str, int], held: int, total: int
) -> dict[str, np.ndarray]:
    chosen, begin = {}, 0
    for part in PARTS:  # shares are rounded as a running sum, so that together they do not exceed `held`
        end = begin + real[part]
        left = (round(held * end / total) - round(held * begin / total)) if total else 0
        begin, indices = end, []
        for index in usable[part].tolist():
            if not left:
                break
            if pools[part].counts[index] <= left:
                indices.append(index)
                left -= int(pools[part].counts[index])
        chosen[part] = np.array(indices, dtype=np.int64)
    images = sum(len(usable[part]) for part in PARTS if real[part])
    if held and sum(real.values()) == total and not any(map(len, chosen.values())) and images > 1:
        # Every image has more questions than validation may take. Take the smallest one that fits its part.
        candidates = [
            (int(pools[part].counts[index]), part, index)
            for part in PARTS
            for index in usable[part].tolist()
            if pools[part].counts[index] <= real[part]
        ]
        if candidates:
            _, part, index = min(candidates)
            chosen[part] = np.array([index], dtype=np.int64)
    return chosen


def _unseen(pool: ImagePool, indices: np.ndarray, seen: np.ndarray, rejected: list[Rejected]) -> np.ndarray:
    """Indices whose images are not among `seen` (checksums [n, 4]); the others are added to `rejected`."""
    # 64 bits suffice: for 600,000 images the chance of a collision is 10^-8, and it costs one image.
    again = np.isin(pool.table.rows["sha256"][indices, 0], seen[:, 0])
    for index in indices[again].tolist():
        reason = "the same image is in the validation split"
        rejected.append(Rejected(*pool.item(index), reason, int(pool.counts[index])))
    return indices[~again]


def _segment(pool: ImagePool, indices: np.ndarray, quota: int | None) -> Segment:
    """All records of these images, or the first `quota`; the rest of the last image is dropped."""
    ends = np.cumsum(pool.counts[indices])
    if quota is not None:
        cut = int(np.searchsorted(ends, quota)) + 1 if quota else 0
        indices, ends = indices[:cut], np.minimum(ends[:cut], quota)
    return Segment(int(ends[-1]) if len(ends) else 0, pool.groups[indices], ends, pool.table.rows[indices])


class SplitPlanner:
    """Scans as many images as the requested numbers need, then assigns them to splits."""

    def __init__(self, config: SHIRGDatasetConfig, catalogue: Catalogue, folder: Path):
        """`folder` is for the scan's block files."""
        self.config, self.catalogue = config, catalogue
        orders = {part: seeded_order(part, catalogue.part(part), config.seed) for part in PARTS}
        orders[EVALUATION] = catalogue.part(EVALUATION)
        self.scans = {part: ImageScan(folder, part, catalogue, order) for part, order in orders.items()}

    def plan(self) -> SplitPlan | None:
        """The plan; None while other processes still have images to scan."""
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
            if all(more[part] == blocks[part] for part in PARTS):
                not_compared = [
                    Rejected(*held_out.item(index), f"not compared with training images: {reason}", 0)
                    for index, reason in sorted(held_out.table.reasons.items())
                ]
                plan.rejected = [*self.catalogue.rejected, *not_compared, *plan.rejected]
                return plan
            blocks |= more
        return None

    def _blocks(self, part: str, records: int, begin: int) -> int:
        """How many blocks hold `records` more than the first `begin` blocks, or all there are."""
        scan, block = self.scans[part], begin
        while records > 0 and block < len(scan):
            records -= int(self.catalogue.counts[scan.members(block)].sum())
            block += 1
        return block

    def _scan(self, blocks: dict[str, int]) -> bool:
        """Scan this process's share of the missing blocks; whether all blocks are finished then."""
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

        def item(index: int) -> tuple[str, str]:
            origin = self.catalogue.origins[self.catalogue.origin[groups[index]]]
            return origin.name, self.catalogue.name(int(groups[index]))

        return ImagePool(groups, self.catalogue.counts[groups], table, item)


def shortage_message(config: SHIRGDatasetConfig, have: dict[str, int], rejected: list[Rejected]) -> str:
    """The error message where the sources hold fewer records than requested."""
    asked, flags = config.sizes, {"base": "--dataset-size", "ocr": "--ocr-samples"}
    short = [part for part in PARTS if have[part] < asked[part]]
    counts = "; ".join(f"{part} part: {asked[part]} records requested, {have[part]} found" for part in short)
    lost = sum(entry.records for entry in rejected)
    first = f" ({lost} rejected; the first, {rejected[0].item}: {rejected[0].reason})" if lost else ""
    advice = "`shirg prepare --list` names the files of each data set"
    if any(have.values()):
        advice = f"Use {' '.join(f'{flags[part]} {have[part]}' for part in short)}"
    return (
        f"{counts}{first}. {advice}, add a source, or choose: --allow-fewer takes what there is, "
        "--render-missing fills up with rendered pages"
    )
