"""AI2D: multiple-choice questions about diagrams from school books."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase

from shirg.data.sources.base import Collector, Draft, Index, LocalSource, Rejected, read_json
from shirg.data.sources.values import as_object, choice_number, choices, question, text
from shirg.errors import UserError

NO_LETTERS = "about letters that are not in the picture; abc_images/ is not there"


class AI2D(LocalSource):
    """Reads `questions/<image>.json`, `images/<image>` and `ai2d_test_ids.csv`, as the release has them.

    The choices are part of the question. For training they are joined and the answer is the text of the right one, as
    TabMWP is asked; for testing each has a letter and a line, and the right letter is the answer, as the benchmark is
    scored. Questions whose choices are letters (`abcLabel`) are about diagrams with letters in place of words. The
    release has only the boxes for that; pictures drawn from them are passed on as `abc_images/`. Without them these
    questions are left out.
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
            with collector.listing(path.name):
                questions = as_object(as_object(read_json(path), str(path)).get("questions"), "questions")
                for words, about in questions.items():
                    with collector.listing(name):
                        self._add(collector, split, name, words, as_object(about, "the question"))

    def _add(self, collector: Collector, split: str, name: str, words: str, about: dict[str, object]) -> None:
        folder = self.folder / ("abc_images" if about.get("abcLabel") is True else "images")
        missing = not folder.is_dir()
        if missing and split == "train":
            raise UserError(NO_LETTERS)
        asked, offered = question(words), choices(about.get("answerTexts"), "answerTexts")
        right = choice_number(about.get("correctAnswer"), "correctAnswer", len(offered))
        if split == "test":
            asked, told = lettered_choices(asked, offered, right)
        else:
            asked, told = f"{asked}\nChoices: {'; '.join(offered)}", text(offered[right], f"answerTexts[{right}]")
        # A test diagram is kept out of training by its picture, with letters in it or not.
        shown = self.folder / "images" if missing else folder
        collector.add(shown, name, Draft(asked, (told,), NO_LETTERS if missing else ""))

    def askable(self, split: str) -> Index:
        """Without the questions about letters that their picture does not show."""
        index, groups = self.index(split), []
        for group in index.groups:
            drafts = tuple(draft for draft in group.drafts if draft.kind != NO_LETTERS)
            if len(drafts) < len(group.drafts):
                index.rejected.append(Rejected(self.name, group.item, NO_LETTERS, len(group.drafts) - len(drafts)))
            if drafts:
                groups.append(replace(group, drafts=drafts))
        return Index(groups, index.rejected, index.note)

    def _test_ids(self) -> set[str]:
        path = self.folder / "ai2d_test_ids.csv"
        try:
            with open(path, encoding="utf-8-sig", newline="") as handle:
                return {row[0].strip() for row in csv.reader(handle) if row}
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{path}: cannot be read ({error})") from error


def lettered_choices(question: str, choices: Sequence[str], right: int) -> tuple[str, str]:
    """A question with a line for each choice, "A. egg", and the letter of the right one.

    Raises:
        UserError: if there are more choices than letters.
    """
    if len(choices) > len(ascii_uppercase):
        raise UserError(f"{len(choices)} choices, but there are letters for {len(ascii_uppercase)}")
    lines = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *lines]), ascii_uppercase[right]
