"""SROIE: scanned receipts, asked as questions."""

from __future__ import annotations

from pathlib import Path

from shirg.data.sources.base import Collector, Index, LocalSource, fields, read_json
from shirg.errors import UserError

QUESTIONS = {
    "company": "What is the name of the company that issued the receipt?",
    "date": "What is the date of the receipt?",
    "address": "What is the address of the company?",
    "total": "What is the total amount of the receipt?",
}
"""The four fields of the extraction task as questions. This wording is ours: SROIE itself asks none."""


class SROIE(LocalSource):
    """Reads `key/<id>.json` and `img/<id>.jpg`: up to four questions per receipt, `kind` is the field.

    The layout does not tell training from test receipts, so the set serves evaluation only.
    """

    name = "sroie"
    licence = "research use (ICDAR 2019 SROIE)"
    layout = "img/<id>.jpg, key/<id>.json with company, date, address, total"
    folders = ("sroie", "icdar-2019-sroie")

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether `img/` and `key/` are there; never for training."""
        return split == "test" and (folder / "img").is_dir() and (folder / "key").is_dir()

    def index(self, split: str = "test") -> Index:
        """The fields that a receipt has, in the order company, date, address, total."""
        collector = Collector(self.name, self.licence, self.folder)
        for path in sorted((self.folder / "key").glob("*.json")):
            try:
                values = fields(read_json(path))
            except UserError as error:
                collector.reject(path.name, str(error))
                continue
            present = [name for name in QUESTIONS if name in values]
            if not present:
                collector.reject(path.name, f"{path}: none of {', '.join(QUESTIONS)}")
            for name in present:
                collector.add(self.folder / "img", f"{path.stem}.jpg", QUESTIONS[name], values[name], kind=name)
        return collector.index()
