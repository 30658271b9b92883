"""TextVQA: questions about text in photographs."""

from __future__ import annotations

from pathlib import Path

from shirg.data.sources.base import Collector, Draft, LocalSource, glob_upto, read_json_list
from shirg.data.sources.values import answers, image_name, question


class TextVQA(LocalSource):
    """Reads `TextVQA_0.5.1_val.json` (for testing too: the test part's answers are not published) and `train_images/`.

    The release keeps the validation photographs in `train_images/`. All ten annotators' answers are kept, repeated ones
    too, because VQA accuracy counts them.
    """

    name = "textvqa"
    licence = "CC BY 4.0 (photographs: Open Images, CC BY 2.0)"
    layout = "TextVQA_0.5.1_val.json with a `data` list, train_images/<image_id>.jpg (train likewise)"
    folders = ("textvqa",)
    size = "34,602 training questions on about 22,000 photographs; 5,000 validation questions"
    home = "textvqa.org/dataset (json files and train_val_images.zip, 6.6 GB)"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether the annotation file of the split stands beside, or above, `train_images/`."""
        return bool(cls._files(folder, split)) and cls._images(folder) is not None

    def read(self, split: str, collector: Collector) -> None:
        """Entries of `data`: image_id, question, answers."""
        images = self._images(self.folder) or self.folder
        for entry in collector.objects(read_json_list(self._files(self.folder, split)[0], "data")):
            with collector.listing(entry.get("image_id")):
                name = image_name(entry.get("image_id"), "image_id")
                draft = Draft(question(entry.get("question")), answers(entry.get("answers")))
                collector.add(images, f"{name}.jpg", draft)

    @staticmethod
    def _files(folder: Path, split: str) -> list[Path]:
        return glob_upto(folder, f"TextVQA_*_{'val' if split == 'test' else split}.json", depth=0)

    @staticmethod
    def _images(folder: Path) -> Path | None:
        found = [path for path in (folder / "train_images", *sorted(folder.glob("*/train_images"))) if path.is_dir()]
        return found[0] if found else None
