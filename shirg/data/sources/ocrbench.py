"""OCRBench: a thousand questions about reading, chosen from 29 data sets; for evaluation only."""

from __future__ import annotations

from pathlib import Path

from shirg.data.sources.base import Collector, Draft, LocalSource, glob_upto, read_json_list
from shirg.data.sources.values import answers, image_name, label, question


class OCRBench(LocalSource):
    """Reads `OCRBench.json` and `OCRBench_Images/`, as the release has them; `kind` is the type of the question."""

    name = "ocrbench"
    licence = "research use (images: those of 29 data sets)"
    layout = "OCRBench.json (also in json_files/), OCRBench_Images/"
    folders = ("ocrbench",)
    size = "1,000 test questions, no training part"
    home = "github.com/Yuliang-Liu/MultimodalOCR, folder OCRBench"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether questions and images are there; there is nothing to train on."""
        return split == "test" and bool(cls._files(folder)) and (folder / "OCRBench_Images").is_dir()

    def read(self, split: str, collector: Collector) -> None:
        """Entries `{"image_path", "question", "answers", "type"}`; a single answer may stand there without a list."""
        images = self.folder / "OCRBench_Images"
        for entry in collector.objects(read_json_list(self._files(self.folder)[0])):
            with collector.listing(entry.get("image_path")):
                name = image_name(entry.get("image_path"), "image_path")
                asked, accepted = question(entry.get("question")), answers(entry.get("answers"))
                collector.add(images, name, Draft(asked, accepted, label(entry.get("type"))))

    @staticmethod
    def _files(folder: Path) -> list[Path]:
        return glob_upto(folder, "OCRBench.json", depth=1)
