"""TabMWP: mathematical word problems about a table."""

from __future__ import annotations

from pathlib import Path

from shirg.data.sources.base import Collector, Draft, LocalSource, read_json
from shirg.data.sources.values import answers, as_object, choices, is_missing, label, question, text
from shirg.errors import UserError


class TabMWP(LocalSource):
    """Reads `problems_<split>.json` and `tables/<id>.png`.

    For testing the first there is of `problems_test.json`, `problems_test1k.json`, `problems_dev.json` and
    `problems_dev1k.json`. The unit and the choices are part of the question, since the answer depends on them; `kind`
    is the release's `ans_type`.
    """

    name = "tabmwp"
    licence = "CC BY-NC-SA 4.0"
    layout = "problems_test.json (or _test1k, _dev, _dev1k; training: _train), tables/<id>.png"
    folders = ("tabmwp",)
    size = "38,431 problems, about 23,000 for training and 7,700 for testing, one table each"
    home = "github.com/lupantech/PromptPG, folder data/tabmwp"
    parts = {"test": ("test", "test1k", "dev", "dev1k"), "train": ("train",)}

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether a problems file of the split and `tables/` are there."""
        return cls._file(folder, split) is not None and (folder / "tables").is_dir()

    def read(self, split: str, collector: Collector) -> None:
        """Problems by id, in the file's order."""
        path = self._file(self.folder, split) or self.folder
        problems = read_json(path)
        if not isinstance(problems, dict):
            raise UserError(f"{path}: an object of problems by id was expected")
        for number, problem in problems.items():
            name = f"{number}.png"
            with collector.listing(name):
                asked = _question(as_object(problem, "the problem"))
                draft = Draft(asked, answers(problem.get("answer"), "answer"), label(problem.get("ans_type")))
                collector.add(self.folder / "tables", name, draft)

    @classmethod
    def _file(cls, folder: Path, split: str) -> Path | None:
        paths = [folder / f"problems_{part}.json" for part in cls.parts[split]]
        return next((path for path in paths if path.is_file()), None)


def _question(problem: dict[str, object]) -> str:
    asked, unit, offered = question(problem.get("question")), problem.get("unit"), problem.get("choices")
    if not is_missing(unit):
        asked += f" (unit: {text(unit, 'unit')})"
    if not is_missing(offered):
        asked += "\nChoices: " + "; ".join(choices(offered, "choices"))
    return asked
