"""AI2D: multiple-choice questions about diagrams from school books."""

from __future__ import annotations

import csv
from pathlib import Path

from shirg.data.sources.base import Collector, LocalSource, fields, read_json
from shirg.errors import UserError


class AI2D(LocalSource):
    """Reads `questions/<image>.json`, `images/<image>` and `ai2d_test_ids.csv`, as the release has them.

    The choices are part of the question and the answer is the text of the right one, as TabMWP is asked. Questions
    whose choices are letters (`abcLabel`) are about diagrams with letters in place of words. The release has only the
    boxes for that; pictures drawn from them are passed on as `abc_images/`. Without them these questions are left out.
    """

    name = "ai2d"
    licence = "CC BY-SA 4.0 (diagrams: their publishers)"
    layout = "questions/<image>.json, images/<image>, ai2d_test_ids.csv (abc_images/<image>, where there are any)"
    folders = ("ai2d",)
    size = "about 15,000 questions on about 4,900 diagrams; 3,088 test questions"
    home = "ai2-public-datasets.s3.amazonaws.com/diagrams/ai2d-all.zip; the list of test diagrams apart, from prior-datasets"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether questions, images and the list of test diagrams are there: without it nothing tells them apart."""
        found = (folder / "questions").is_dir() and (folder / "images").is_dir()
        return found and (folder / "ai2d_test_ids.csv").is_file()

    def read(self, split: str, collector: Collector) -> None:
        """Questions of every diagram of the part, diagrams in order of their names."""
        held = self._test_ids()
        for path in sorted((self.folder / "questions").glob("*.json")):
            name = path.name.removesuffix(".json")  # 123.png.json
            if (name.partition(".")[0] in held) != (split == "test"):
                continue
            try:
                questions = fields(read_json(path)).get("questions")
            except UserError as error:
                collector.reject(path.name, str(error))
                continue
            for question, about in fields(questions).items():
                about = fields(about)
                folder = self.folder / ("abc_images" if about.get("abcLabel") is True else "images")
                if not folder.is_dir() and split == "train":
                    collector.reject(name, "about letters that are not in the picture; abc_images/ is not there")
                    continue
                # A test diagram is kept out of training by its picture, with letters in it or not.
                collector.add(folder if folder.is_dir() else self.folder / "images", name, *_asked(question, about))

    def _test_ids(self) -> set[str]:
        path = self.folder / "ai2d_test_ids.csv"
        try:
            with open(path, encoding="utf-8-sig", newline="") as handle:
                return {row[0].strip() for row in csv.reader(handle) if row}
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{path}: cannot be read ({error})") from error


def _asked(question: str, about: dict[str, object]) -> tuple[object, object]:
    """Question with its choices, and the right one; nothing where the answer's number fits no choice."""
    choices, right = about.get("answerTexts"), about.get("correctAnswer")
    if not isinstance(choices, list) or not isinstance(right, int) or not 0 <= right < len(choices):
        return question, None
    return f"{question}\nChoices: {'; '.join(map(str, choices))}", choices[right]
