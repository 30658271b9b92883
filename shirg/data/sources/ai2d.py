"""AI2D: multiple-choice questions about diagrams from school books."""

from __future__ import annotations

import csv
from pathlib import Path

from shirg.data.sources.base import Collector, LocalSource, fields, read_json
from shirg.errors import UserError


class AI2D(LocalSource):
    """Reads `questions/<image>.json`, `images/<image>` and `ai2d_test_ids.csv`, as the release has them.

    The choices are part of the question and the answer is the text of the right one, as TabMWP is asked. Questions
    whose choices are letters printed in the diagram (`abcLabel`) need the release's other image folder, `abc_images/`.
    """

    name = "ai2d"
    licence = "CC BY-SA 4.0 (diagrams: their publishers)"
    layout = "questions/<image>.json, images/<image> (abc_images/<image>), ai2d_test_ids.csv"
    folders = ("ai2d",)
    size = "about 15,000 questions on 4,903 diagrams, a fifth of them for testing"
    home = "registry.opendata.aws/allenai-diagrams (ai2d-all.zip)"

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
                collector.add(folder, name, *_asked(question, about))

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
