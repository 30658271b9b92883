"""Deciding which records go where: how many images have to be looked at for that, and who looks at them."""

from __future__ import annotations

from pathlib import Path

from shirg.data.catalogue import Catalogue
from shirg.data.composition import PARTS, HeldOut, Plan, Pool, compose, seeded_order
from shirg.data.configuration import SHIRGDatasetConfig
from shirg.data.progress import bar
from shirg.data.sources.base import Rejected
from shirg.data.survey import Survey

EVALUATION = "evaluation"
"""Name of the part of the catalogue whose images are kept out."""


class Planner:
    """Looks at as many images as the numbers asked for need, and decides which records go where."""

    def __init__(self, config: SHIRGDatasetConfig, catalogue: Catalogue, folder: Path):
        self.config, self.catalogue = config, catalogue
        orders = {part: seeded_order(part, catalogue.part(part), config.seed) for part in PARTS}
        orders[EVALUATION] = catalogue.part(EVALUATION)
        self.surveys = {part: Survey(folder, part, catalogue, order) for part, order in orders.items()}
        self.pools = {part: self._pool(part, 0) for part in PARTS}
        self.evaluation = self._pool(EVALUATION, 0)

    def plan(self) -> Plan | None:
        """The plan; None if images are missing that other processes look at."""
        blocks = {part: self._blocks(part, self.config.sizes[part], 0) for part in PARTS}
        blocks[EVALUATION] = len(self.surveys[EVALUATION]) if any(blocks.values()) else 0
        config = self.config
        while self._look(blocks):
            self.pools = {part: self._pool(part, blocks[part]) for part in PARTS}
            self.evaluation = self._pool(EVALUATION, blocks[EVALUATION])
            held_out = HeldOut(self._evaluation_item, self.evaluation.looks)
            plan = compose(self.pools, held_out, config.sizes, config.validation_fraction, config.missing)
            more = {part: self._blocks(part, plan.lacking[part], blocks[part]) for part in PARTS}
            if all(more[part] == blocks[part] for part in PARTS):
                return plan
            blocks |= more
        return None

    def rejected(self, plan: Plan) -> list[Rejected]:
        """Everything that cannot be used: entries, evaluation images that cannot be compared with, images."""
        lost = [
            Rejected(*self.evaluation.item(place), f"not compared with training images: {reason}", 0)
            for place, reason in sorted(self.evaluation.looks.reasons.items())
        ]
        return [*self.catalogue.rejected, *lost, *plan.rejected]

    def _evaluation_item(self, place: int) -> str:
        return " ".join(self.evaluation.item(place))

    def _blocks(self, part: str, records: int, begun: int) -> int:
        """The first so many blocks hold `records` more than the first `begun`, or all there are."""
        survey = self.surveys[part]
        counts = self.catalogue.counts[survey.order]
        block = begun
        while records > 0 and block < len(survey):
            records -= int(counts[survey.members(block)].sum())
            block += 1
        return block

    def _look(self, blocks: dict[str, int]) -> bool:
        """Looks at what is missing of these blocks and is this process's share; whether all of them are there."""
        config = self.config
        missing = {part: self.surveys[part].missing(count) for part, count in blocks.items()}
        mine = {
            part: [number for number in numbers if number % config.num_shards == config.shard_index]
            for part, numbers in missing.items()
        }
        total = sum(self.surveys[part].images(number) for part, numbers in mine.items() for number in numbers)
        if total:
            with bar("looking at images", total, 0) as advance:
                for part, numbers in mine.items():
                    self.surveys[part].run(numbers, config.num_workers, advance)
        return all(not self.surveys[part].missing(count) for part, count in blocks.items())

    def _pool(self, part: str, blocks: int) -> Pool:
        survey = self.surveys[part]
        looks = survey.looks(blocks)
        groups = survey.order[: len(looks)]

        def item(place: int) -> tuple[str, str]:
            origin = self.catalogue.origins[self.catalogue.origin[groups[place]]]
            return origin.name, self.catalogue.name(int(groups[place]))

        return Pool(groups, self.catalogue.counts[groups], looks, item)


def shortage(config: SHIRGDatasetConfig, have: dict[str, int], rejected: list[Rejected]) -> str:
    """What to say where the sources hold fewer records than asked."""
    asked, flags = config.sizes, {"base": "--dataset-size", "ocr": "--ocr-samples"}
    short = [
        f"{part} part: {asked[part]} records asked, {have[part]} there" for part in PARTS if have[part] < asked[part]
    ]
    smaller = " ".join(f"{flags[part]} {have[part]}" for part in PARTS if have[part] < asked[part])
    ask = (
        f"Ask for {smaller}"
        if any(have.values())
        else "`shirg prepare --list` says which files are looked for; get some"
    )
    lost = sum(entry.records for entry in rejected)
    first = f" ({lost} rejected; the first, {rejected[0].item}: {rejected[0].reason})" if lost else ""
    return (
        f"{'; '.join(short)}{first}. {ask}, add a source, or say what should happen: --allow-fewer takes what "
        f"there is, --render-missing fills up with rendered pages"
    )
