"""ChartQA: questions about charts from Statista, Pew, Our World in Data and OECD."""

from __future__ import annotations

from pathlib import Path

from shirg.data.sources.base import Collector, Draft, LocalSource, glob_upto, read_json_list
from shirg.data.sources.values import answers, image_name, question


class ChartQA(LocalSource):
    """Reads `test/test_human.json` and `test/test_augmented.json` beside `test/png/`, as the release has them.

    The rule is wider than that, since the set is also passed on cut by difficulty: every `test_human*.json` and
    `test_augmented*.json` beside a `png/` folder counts, at most two folders deep. `kind` is `human` or `augmented`.
    """

    name = "chartqa"
    licence = "GPL-3.0 (charts: their publishers)"
    layout = "test/test_human.json, test/test_augmented.json, test/png/*.png (train/ likewise)"
    folders = ("chartqa",)
    size = "28,299 training questions on about 18,300 charts; 2,500 test questions"
    home = "github.com/vis-nlp/ChartQA, or huggingface.co/datasets/ahmed-masry/ChartQA (ChartQA Dataset.zip)"
    origins = ("human", "augmented")

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether an annotation file of the split stands beside a `png/` folder."""
        return bool(cls._files(folder, split))

    def read(self, split: str, collector: Collector) -> None:
        """Entries `{"imgname", "query", "label"}`."""
        for path, origin in self._files(self.folder, split):
            for entry in collector.objects(read_json_list(path)):
                with collector.listing(entry.get("imgname")):
                    name = image_name(entry.get("imgname"), "imgname")
                    draft = Draft(question(entry.get("query"), "query"), answers(entry.get("label"), "label"), origin)
                    collector.add(path.parent / "png", name, draft)

    @classmethod
    def _files(cls, folder: Path, split: str) -> list[tuple[Path, str]]:
        return [
            (path, origin)
            for origin in cls.origins
            for path in glob_upto(folder, f"{split}_{origin}*.json", depth=2)
            if (path.parent / "png").is_dir()
        ]
