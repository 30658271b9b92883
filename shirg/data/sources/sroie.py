"""SROIE: scanned receipts, asked as questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shirg.data.sources.base import Collector, Draft, LocalSource, read_json
from shirg.data.sources.values import answers, as_object
from shirg.errors import UserError

QUESTIONS = {
    "company": "What is the name of the company that issued the receipt?",
    "date": "What is the date of the receipt?",
    "address": "What is the address of the company?",
    "total": "What is the total amount of the receipt?",
}
"""The four fields of the extraction task as questions. This wording is ours: SROIE itself asks none."""


class SROIE(LocalSource):
    """Reads receipts with up to four questions each; `kind` is the field.

    Two layouts are about: `img/<id>.jpg` with `key/<id>.json`, which does not tell training from test receipts and so
    serves evaluation only, and `train/` and `test/` with `img/<id>.jpg` and `entities/<id>.txt` (JSON too) in each.
    """

    name = "sroie"
    licence = "research use (ICDAR 2019 SROIE)"
    layout = "img/<id>.jpg, key/<id>.json; or train/img, train/entities/<id>.txt and test/ likewise"
    folders = ("sroie", "icdar-2019-sroie")
    size = "626 training receipts, 347 test receipts"
    home = "rrc.cvc.uab.es, challenge 13 (registration); the train/test layout is SROIE2019"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether the split's receipts are there; a folder without `train/` is never for training."""
        return next(cls._keys(folder, split), None) is not None

    def read(self, split: str, collector: Collector) -> None:
        """The fields that a receipt has, in the order company, date, address, total."""
        for path in self._keys(self.folder, split):
            with collector.listing(path.name):
                values = as_object(read_json(path), str(path))
                present = [name for name in QUESTIONS if name in values]
                if not present:
                    raise UserError(f"{path}: none of {', '.join(QUESTIONS)}")
                for name in present:
                    with collector.listing(f"{path.stem}.jpg"):
                        draft = Draft(QUESTIONS[name], answers(values[name], name), name)
                        collector.add(path.parent.parent / "img", f"{path.stem}.jpg", draft)

    @staticmethod
    def _keys(folder: Path, split: str) -> Iterator[Path]:
        for part in (folder, folder / "SROIE2019"):
            if (part / split / "img").is_dir():
                yield from sorted((part / split / "entities").glob("*.txt"))
                return
        if split == "test" and (folder / "img").is_dir():
            yield from sorted((folder / "key").glob("*.json"))
