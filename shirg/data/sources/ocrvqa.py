"""OCR-VQA: questions about the covers of books."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from shirg.data.sources.base import Collector, Draft, LocalSource, read_json
from shirg.data.sources.values import answers, as_object, entries, label, question
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
            with collector.listing(number):
                part = as_object(cover, "the cover").get("split")
                if part not in PARTS.values():
                    raise UserError(f"split is not one of {', '.join(map(str, PARTS.values()))}")
                if part == PARTS[split]:
                    self._add_cover(collector, number, cover)

    def _add_cover(self, collector: Collector, number: str, cover: dict[str, object]) -> None:
        asked, told = entries(cover.get("questions"), "questions"), entries(cover.get("answers"), "answers")
        if len(asked) != len(told):
            raise UserError(f"{len(asked)} questions, but {len(told)} answers")
        name, kind = self._image_name(number, cover.get("imageURL")), label(cover.get("genre"))
        for one, other in zip(asked, told, strict=True):
            with collector.listing(name):
                draft = Draft(question(one, "questions"), answers(other, "answers"), kind)
                collector.add(self.folder / "images", name, draft)

    def _image_name(self, number: str, address: object) -> str:
        suffix = PurePosixPath(address).suffix.lower() if isinstance(address, str) else ""
        names = [f"{number}{end}" for end in dict.fromkeys((suffix or ".jpg", *SUFFIXES))]
        if "/" in number or "\\" in number or "\0" in number:  # for the collector to refuse
            return names[0]
        return next((name for name in names if (self.folder / "images" / name).is_file()), names[0])
