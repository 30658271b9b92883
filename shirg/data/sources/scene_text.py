"""Text in photographs and on book covers: TextVQA, OCR-VQA and OCRBench."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from shirg.data.sources.base import Collector, Draft, LocalSource, glob_upto, read_json_list, read_json_object
from shirg.data.sources.values import answers, as_object, entries, image_name, label, question
from shirg.errors import UserError


class TextVQA(LocalSource):
    """TextVQA: questions about text in photographs.

    Reads `TextVQA_0.5.1_val.json` (for testing too: the test part's answers are not published) and `train_images/`, which
    holds the validation photographs too. All ten annotators' answers are kept, with repetitions, since VQA accuracy
    counts them.
    """

    name = "textvqa"
    licence = "CC BY 4.0 (photographs: Open Images, CC BY 2.0)"
    layout = "TextVQA_0.5.1_val.json with a `data` list, train_images/<image_id>.jpg (train likewise)"
    folders = ("textvqa",)
    size = "34,602 training questions on about 22,000 photographs; 5,000 validation questions"
    home = "textvqa.org/dataset (json files and train_val_images.zip, 6.6 GB)"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
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
        places = (folder / "train_images", *sorted(folder.glob("*/train_images")))
        return next((path for path in places if path.is_dir()), None)


OCRVQA_PARTS = {"train": 1, "validation": 2, "test": 3}
"""The release's own numbers of its three parts."""


class OCRVQA(LocalSource):
    """OCR-VQA: questions about book covers; `kind` is the cover's genre.

    Reads `dataset.json`, an object of covers by id with lists of questions and answers, and `images/`. The release
    downloads covers from Amazon and names each after its id with the suffix of its URL; LLaVA's copy calls all of them
    `.jpg`. Either is accepted.
    """

    name = "ocrvqa"
    licence = "research use (covers: their publishers)"
    layout = "dataset.json (by cover: imageURL, questions, answers, split), images/<id>.jpg"
    folders = ("ocrvqa", "ocr-vqa", "ocr_vqa")
    size = "more than 1,000,000 questions on 207,572 covers, 80% of them for training"
    home = "ocr-vqa.github.io (dataset.json and a download script)"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        return (folder / "dataset.json").is_file() and (folder / "images").is_dir()

    def read(self, split: str, collector: Collector) -> None:
        """The covers of the split in file order."""
        for number, cover in read_json_object(self.folder / "dataset.json").items():
            with collector.listing(number):
                part = as_object(cover, "the cover").get("split")
                if part not in OCRVQA_PARTS.values():
                    raise UserError(f"split is not one of {', '.join(map(str, OCRVQA_PARTS.values()))}")
                if part == OCRVQA_PARTS[split]:
                    self._add_cover(collector, number, cover)

    def _add_cover(self, collector: Collector, number: str, cover: dict[str, object]) -> None:
        asked, accepted = entries(cover.get("questions"), "questions"), entries(cover.get("answers"), "answers")
        if len(asked) != len(accepted):
            raise UserError(f"{len(asked)} questions, but {len(accepted)} answers")
        name, kind = self._image_name(number, cover.get("imageURL")), label(cover.get("genre"))
        for one, other in zip(asked, accepted, strict=True):
            with collector.listing(name):
                draft = Draft(question(one, "questions"), answers(other, "answers"), kind)
                collector.add(self.folder / "images", name, draft)

    def _image_name(self, number: str, url: object) -> str:
        suffix = PurePosixPath(url).suffix.lower() if isinstance(url, str) else ""
        names = [f"{number}{end}" for end in dict.fromkeys((suffix or ".jpg", ".jpg", ".png", ".gif", ".jpeg"))]
        if "/" in number or "\\" in number or "\0" in number:  # the collector rejects it
            return names[0]
        return next((name for name in names if (self.folder / "images" / name).is_file()), names[0])


class OCRBench(LocalSource):
    """OCRBench: a thousand questions about reading, from 29 data sets; for evaluation only.

    Reads `OCRBench.json` and `OCRBench_Images/`; `kind` is the type of the question.
    """

    name = "ocrbench"
    licence = "research use (images: those of 29 data sets)"
    layout = "OCRBench.json (also in json_files/), OCRBench_Images/"
    folders = ("ocrbench",)
    size = "1,000 test questions, no training part"
    home = "github.com/Yuliang-Liu/MultimodalOCR, folder OCRBench"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        return split == "test" and bool(cls._files(folder)) and (folder / "OCRBench_Images").is_dir()

    def read(self, split: str, collector: Collector) -> None:
        """Entries `{"image_path", "question", "answers", "type"}`; a single answer may be without a list."""
        images = self.folder / "OCRBench_Images"
        for entry in collector.objects(read_json_list(self._files(self.folder)[0])):
            with collector.listing(entry.get("image_path")):
                name = image_name(entry.get("image_path"), "image_path")
                asked, accepted = question(entry.get("question")), answers(entry.get("answers"))
                collector.add(images, name, Draft(asked, accepted, label(entry.get("type"))))

    @staticmethod
    def _files(folder: Path) -> list[Path]:
        return glob_upto(folder, "OCRBench.json", depth=1)
