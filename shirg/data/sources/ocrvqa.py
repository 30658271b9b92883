"""OCR-VQA: questions about the covers of books."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from shirg.data.sources.base import Collector, LocalSource, fields, read_json
from shirg.errors import UserError

PARTS = {"train": 1, "validation": 2, "test": 3}
"""The release's own numbers of its three parts."""

SUFFIXES = (".jpg", ".png", ".gif", ".jpeg")


class OCRVQA(LocalSource):
    """Reads `dataset.json` and `images/`: an object of covers by id, each with lists of questions and answers.

    The release downloads covers from Amazon and names each after its id, with the address's ending; the copy that
    LLaVA hands out calls all of them `.jpg`. Whichever is there is taken.
    """

    name = "ocrvqa"
    licence = "research use (covers: their publishers)"
    layout = "dataset.json (by cover: imageURL, questions, answers, split), images/<id>.jpg"
    folders = ("ocrvqa", "ocr-vqa", "ocr_vqa")
    size = "more than 1,000,000 questions on 207,572 covers, 80% of them for training"
    home = "ocr-vqa.github.io (dataset.json and a download script)"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether `dataset.json` and `images/` are there."""
        return (folder / "dataset.json").is_file() and (folder / "images").is_dir()

    def read(self, split: str, collector: Collector) -> None:
        """The covers of the part in the file's order; `kind` is the cover's genre."""
        path = self.folder / "dataset.json"
        covers = read_json(path)
        if not isinstance(covers, dict):
            raise UserError(f"{path}: an object of covers by id was expected")
        for number, cover in covers.items():
            cover = fields(cover)
            if cover.get("split") != PARTS[split]:
                continue
            questions, answers = cover.get("questions"), cover.get("answers")
            if not isinstance(questions, list) or not isinstance(answers, list) or len(questions) != len(answers):
                collector.reject(number, "questions and answers are not two lists of equal length")
                continue
            name = self._image_name(number, cover.get("imageURL"))
            for question, answer in zip(questions, answers, strict=True):
                collector.add(self.folder / "images", name, question, answer, str(cover.get("genre") or ""))

    def _image_name(self, number: str, address: object) -> str:
        suffix = PurePosixPath(address).suffix.lower() if isinstance(address, str) else ""
        names = [f"{number}{end}" for end in dict.fromkeys((suffix or ".jpg", *SUFFIXES))]
        if "/" in number or "\\" in number or "\0" in number:  # for the collector to refuse
            return names[0]
        return next((name for name in names if (self.folder / "images" / name).is_file()), names[0])
