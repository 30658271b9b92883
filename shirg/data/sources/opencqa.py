"""OpenCQA: charts of the Pew Research Center with questions that are answered in sentences."""

from __future__ import annotations

from pathlib import Path

from shirg.data.sources.base import Collector, Draft, LocalSource, read_json
from shirg.data.sources.values import answers, image_name, question
from shirg.errors import UserError


class OpenCQA(LocalSource):
    """Reads `etc/data/<split>.json` and `chart_images/`.

    An entry is a list: image, title, the article's paragraph, question, answer as an annotator edited it, sentences
    copied from the paragraph. The edited answer is taken. Some files called .png are GIF or JPEG inside.
    """

    name = "opencqa"
    licence = "GPL-3.0 (charts: Pew Research Center)"
    layout = "etc/data/test.json (or val.json; training: train.json), chart_images/<n>.png"
    folders = ("opencqa",)
    size = "7,724 questions, one chart each, about 70% of them for training"
    home = "github.com/vis-nlp/OpenCQA"
    parts = {"test": ("test", "val"), "train": ("train",)}

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether the annotation file of the split and `chart_images/` are there."""
        return cls._file(folder, split) is not None and (folder / "chart_images").is_dir()

    def read(self, split: str, collector: Collector) -> None:
        """Entries by number, in the file's order."""
        path = self._file(self.folder, split) or self.folder
        entries = read_json(path)
        if not isinstance(entries, dict):
            raise UserError(f"{path}: an object of entries by number was expected")
        for number, entry in entries.items():
            with collector.listing(number):
                if not isinstance(entry, list) or len(entry) < 5:
                    raise UserError("not a list of image, title, paragraph, question and answer")
                draft = Draft(question(entry[3]), answers(entry[4], "answer"))
                collector.add(self.folder / "chart_images", image_name(entry[0]), draft)

    @classmethod
    def _file(cls, folder: Path, split: str) -> Path | None:
        paths = [folder / "etc/data" / f"{part}.json" for part in cls.parts[split]]
        return next((path for path in paths if path.is_file()), None)
