"""Charts, tables and diagrams: ChartQA, OpenCQA, TabMWP and AI2D."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from shirg.data.sources.base import (
    Collector,
    Draft,
    Index,
    LocalSource,
    Rejected,
    first_file,
    glob_upto,
    read_json_list,
    read_json_object,
)
from shirg.data.sources.values import (
    answers,
    as_object,
    choice_number,
    choices,
    image_name,
    is_missing,
    label,
    lettered_choices,
    question,
    text,
)
from shirg.errors import UserError


class ChartQA(LocalSource):
    """ChartQA: charts from Statista, Pew, Our World in Data and OECD.

    Reads every `test_human*.json` and `test_augmented*.json` beside a `png/` folder, at most two folders deep: copies that
    are split by difficulty have more files than the release. `kind` is `human` or `augmented`.
    """

    name = "chartqa"
    licence = "GPL-3.0 (charts: their publishers)"
    layout = "test/test_human.json, test/test_augmented.json, test/png/*.png (train/ likewise)"
    folders = ("chartqa",)
    size = "28,299 training questions on about 18,300 charts; 2,500 test questions"
    home = "github.com/vis-nlp/ChartQA, or huggingface.co/datasets/ahmed-masry/ChartQA (ChartQA Dataset.zip)"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        return bool(cls._files(folder, split))

    def read(self, split: str, collector: Collector) -> None:
        """Entries `{"imgname", "query", "label"}`."""
        for path, kind in self._files(self.folder, split):
            for entry in collector.objects(read_json_list(path)):
                with collector.listing(entry.get("imgname")):
                    name = image_name(entry.get("imgname"), "imgname")
                    draft = Draft(question(entry.get("query"), "query"), answers(entry.get("label"), "label"), kind)
                    collector.add(path.parent / "png", name, draft)

    @classmethod
    def _files(cls, folder: Path, split: str) -> list[tuple[Path, str]]:
        return [
            (path, kind)
            for kind in ("human", "augmented")
            for path in glob_upto(folder, f"{split}_{kind}*.json", depth=2)
            if (path.parent / "png").is_dir()
        ]


class OpenCQA(LocalSource):
    """OpenCQA: charts of the Pew Research Center; answers are sentences.

    Reads `etc/data/<split>.json` and `chart_images/`. An entry is a list: image, title, the article's paragraph, question,
    answer as an annotator edited it, sentences copied from the paragraph. The edited answer is used. Some files called
    .png are GIF or JPEG.
    """

    name = "opencqa"
    licence = "GPL-3.0 (charts: Pew Research Center)"
    layout = "etc/data/test.json (or val.json; training: train.json), chart_images/<n>.png"
    folders = ("opencqa",)
    size = "7,724 questions, one chart each, about 70% of them for training"
    home = "github.com/vis-nlp/OpenCQA"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        return cls._file(folder, split) is not None and (folder / "chart_images").is_dir()

    def read(self, split: str, collector: Collector) -> None:
        """Entries by number, in file order."""
        for number, entry in read_json_object(self._file(self.folder, split) or self.folder).items():
            with collector.listing(number):
                if not isinstance(entry, list) or len(entry) < 5:
                    raise UserError("not a list of image, title, paragraph, question and answer")
                draft = Draft(question(entry[3]), answers(entry[4], "answer"))
                collector.add(self.folder / "chart_images", image_name(entry[0]), draft)

    @classmethod
    def _file(cls, folder: Path, split: str) -> Path | None:
        names = ("test", "val") if split == "test" else (split,)
        return first_file(folder / "etc/data" / f"{name}.json" for name in names)


class TabMWP(LocalSource):
    """TabMWP: mathematical word problems about a table.

    Reads `problems_<split>.json` and `tables/<id>.png`; for testing the first of `problems_test.json`,
    `problems_test1k.json`, `problems_dev.json` and `problems_dev1k.json`. Unit and choices are part of the question,
    since the answer depends on them. `kind` is the release's `ans_type`.
    """

    name = "tabmwp"
    licence = "CC BY-NC-SA 4.0"
    layout = "problems_test.json (or _test1k, _dev, _dev1k; training: _train), tables/<id>.png"
    folders = ("tabmwp",)
    size = "38,431 problems, about 23,000 for training and 7,700 for testing, one table each"
    home = "github.com/lupantech/PromptPG, folder data/tabmwp"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        return cls._file(folder, split) is not None and (folder / "tables").is_dir()

    def read(self, split: str, collector: Collector) -> None:
        """Problems by id, in file order."""
        for number, problem in read_json_object(self._file(self.folder, split) or self.folder).items():
            name = f"{number}.png"
            with collector.listing(name):
                asked = _tabmwp_question(as_object(problem, "the problem"))
                draft = Draft(asked, answers(problem.get("answer"), "answer"), label(problem.get("ans_type")))
                collector.add(self.folder / "tables", name, draft)

    @classmethod
    def _file(cls, folder: Path, split: str) -> Path | None:
        names = ("test", "test1k", "dev", "dev1k") if split == "test" else (split,)
        return first_file(folder / f"problems_{name}.json" for name in names)


def _tabmwp_question(problem: dict[str, object]) -> str:
    asked, unit, offered = question(problem.get("question")), problem.get("unit"), problem.get("choices")
    if not is_missing(unit):
        asked += f" (unit: {text(unit, 'unit')})"
    if not is_missing(offered):
        asked += "\nChoices: " + "; ".join(choices(offered, "choices"))
    return asked


NO_LETTERS = "about letters that are not in the image; abc_images/ is missing"


class AI2D(LocalSource):
    """AI2D: multiple-choice questions about diagrams from school books.

    Reads `questions/<image>.json`, `images/<image>` and `ai2d_test_ids.csv`. The choices are part of the question. For
    training they are joined and the answer is the text of the right one, as in TabMWP; for testing each has a letter and a
    line and the answer is the letter, as the benchmark scores. Questions whose choices are letters (`abcLabel`) are about
    diagrams with letters instead of words. The release has only the boxes for those; other publishers provide the drawn
    images as `abc_images/`. Without them these questions are rejected.
    """

    name = "ai2d"
    licence = "CC BY-SA 4.0 (diagrams: their publishers)"
    layout = "questions/<image>.json, images/<image>, ai2d_test_ids.csv (abc_images/<image>, where there are any)"
    folders = ("ai2d",)
    size = "about 15,000 questions on about 4,900 diagrams; 3,088 test questions"
    home = "ai2-public-datasets.s3.amazonaws.com/diagrams/ai2d-all.zip; the list of test diagrams apart, from prior-datasets"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        found = (folder / "questions").is_dir() and (folder / "images").is_dir()
        return found and (folder / "ai2d_test_ids.csv").is_file()

    def read(self, split: str, collector: Collector) -> None:
        """Questions of each diagram of the split, diagrams sorted by name."""
        test_ids = self._test_ids()
        for path in sorted((self.folder / "questions").glob("*.json")):
            name = path.name.removesuffix(".json")  # 123.png.json
            if (name.partition(".")[0] in test_ids) != (split == "test"):
                continue
            with collector.listing(path.name):
                questions = as_object(read_json_object(path).get("questions"), "questions")
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
            asked, accepted = lettered_choices(asked, offered, right)
        else:
            asked, accepted = f"{asked}\nChoices: {'; '.join(offered)}", text(offered[right], f"answerTexts[{right}]")
        # A test diagram without letters still identifies the image that training must not contain.
        shown = self.folder / "images" if missing else folder
        collector.add(shown, name, Draft(asked, (accepted,), NO_LETTERS if missing else ""))

    def answerable(self, split: str) -> Index:
        """The index without questions about letters that the image does not show."""
        index, groups = self.index(split), []
        for group in index.groups:
            drafts = tuple(draft for draft in group.drafts if draft.kind != NO_LETTERS)
            if len(drafts) < len(group.drafts):
                index.rejected.append(Rejected(self.name, group.name, NO_LETTERS, len(group.drafts) - len(drafts)))
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
