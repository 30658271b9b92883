"""OCRBench: a thousand questions about reading, chosen from 29 data sets; for evaluation only."""

from __future__ import annotations

from pathlib import Path

from shirg.data.sources.base import Collector, LocalSource, fields, glob_upto, read_json_list


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
        for entry in map(fields, read_json_list(self._files(self.folder)[0])):
            asked = (entry.get("question"), entry.get("answers"), str(entry.get("type") or ""))
            collector.add(images, entry.get("image_path"), *asked)

    @staticmethod
    def _files(folder: Path) -> list[Path]:
        return glob_upto(folder, "OCRBench.json", depth=1)
