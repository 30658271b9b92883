"""DocVQA (single pages) and InfographicVQA, which share one annotation form."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from shirg.data.sources.base import Collector, Draft, LocalSource, glob_upto, read_json_list
from shirg.data.sources.values import answers, image_name, label, question
from shirg.errors import UserError


class DocVQA(LocalSource):
    """Reads `val_v1.0*.json` (also for testing: answers of the test part are not published) and its image folder.

    The image folder is `documents/` in the first release and `spdocvqa_images/` in the later one; the annotations say
    `documents/` in both, so only the file's name is used.
    """

    name = "docvqa"
    licence = "research use (pages: UCSF Industry Documents Library)"
    layout = "val_v1.0*.json with a `data` list, documents/ or spdocvqa_images/ (train_v1.0*.json likewise)"
    folders: tuple[str, ...] = ("docvqa", "spdocvqa")
    size = "39,463 training questions on about 10,200 pages; 5,349 validation questions"
    home = "rrc.cvc.uab.es, challenge 17, task 1 (registration)"
    pattern = "{part}_v1.0*.json"
    image_folders: tuple[str, ...] = ("documents", "spdocvqa_images", "images")
    image_key = "image"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether the annotation file of the split is there."""
        return bool(cls._files(folder, split))

    def read(self, split: str, collector: Collector) -> None:
        """Entries of `data`: image, question, answers; `kind` is the first question type where the file tells it."""
        path = self._files(self.folder, split)[0]
        images = self._image_folder(path.parent)
        for entry in collector.objects(read_json_list(path, "data")):
            with collector.listing(entry.get(self.image_key)):
                name = image_name(entry.get(self.image_key), self.image_key)
                if ".." not in name:  # else the collector rejects it as it stands
                    name = PurePosixPath(name).name
                asked, accepted = question(entry.get("question")), answers(entry.get("answers"))
                collector.add(images, name, Draft(asked, accepted, label(entry.get("question_types"))))

    @classmethod
    def _files(cls, folder: Path, split: str) -> list[Path]:
        return glob_upto(folder, cls.pattern.format(part="val" if split == "test" else split), depth=1)

    def _image_folder(self, beside: Path) -> Path:
        for parent in (beside, self.folder):
            for name in self.image_folders:
                if (parent / name).is_dir():
                    return parent / name
        raise UserError(
            f"{self.name} in {self.folder}: no image folder; one of {', '.join(self.image_folders)} is needed"
        )


class InfoVQA(DocVQA):
    """Reads `infographicsVQA_val_v1.0*.json` and `infographicsvqa_images/`."""

    name = "infovqa"
    licence = "research use (infographics: their publishers)"
    layout = "infographicsVQA_val_v1.0*.json with a `data` list, infographicsvqa_images/ (train likewise)"
    folders = ("infovqa", "infographicvqa", "infographicsvqa")
    size = "about 23,900 training questions on 4,400 infographics; 2,801 validation questions"
    home = "rrc.cvc.uab.es, challenge 17, task 3 (registration)"
    pattern = "infographicsVQA_{part}_v1.0*.json"
    image_folders = ("infographicsvqa_images", "images")
    image_key = "image_local_name"
