"""Documents, forms and receipts: DocVQA, InfographicVQA, FUNSD and SROIE."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from shirg.data.sources.base import Collector, Draft, LocalSource, glob_upto, read_json_list, read_json_object
from shirg.data.sources.values import answers, image_name, is_missing, label, question, text
from shirg.errors import UserError

logger = logging.getLogger(__name__)


class DocVQA(LocalSource):
    """DocVQA, single pages.

    Reads `val_v1.0*.json` (for testing too: answers of the test part are not published) and its image folder, which is
    `documents/` in the first release and `spdocvqa_images/` in the later one. The annotations have `documents/` in both,
    so only the file name is used.
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
        return bool(cls._files(folder, split))

    def read(self, split: str, collector: Collector) -> None:
        """Entries of `data`: image, question, answers; `kind` is the first question type, if the file has one."""
        path = self._files(self.folder, split)[0]
        images = self._image_folder(path.parent)
        for entry in collector.objects(read_json_list(path, "data")):
            with collector.listing(entry.get(self.image_key)):
                name = image_name(entry.get(self.image_key), self.image_key)
                if ".." not in name:  # else the collector rejects the whole name
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
            f"{self.name} in {self.folder}: no image folder; it needs one of {', '.join(self.image_folders)}"
        )


class InfoVQA(DocVQA):
    """InfographicVQA: reads `infographicsVQA_val_v1.0*.json` and `infographicsvqa_images/`."""

    name = "infovqa"
    licence = "research use (infographics: their publishers)"
    layout = "infographicsVQA_val_v1.0*.json with a `data` list, infographicsvqa_images/ (train likewise)"
    folders = ("infovqa", "infographicvqa", "infographicsvqa")
    size = "about 23,900 training questions on 4,400 infographics; 2,801 validation questions"
    home = "rrc.cvc.uab.es, challenge 17, task 3 (registration)"
    pattern = "infographicsVQA_{part}_v1.0*.json"
    image_folders = ("infographicsvqa_images", "images")
    image_key = "image_local_name"


FUNSD_QUESTION = 'What is written for "{label}"?'
"""Our question about a form's label: FUNSD has no questions."""


class FUNSD(LocalSource):
    """FUNSD: noisy scanned forms; one question per label that is linked to an answer.

    Reads `<part>/annotations/<id>.json` and `<part>/images/<id>.png`. The part is `testing_data/` or `training_data/`,
    also inside `dataset/`. A copy with only `training_data/` is evaluated on that, with a note, and gives nothing for
    training. A label linked to several answers accepts all of them joined in reading order, and each alone. A label that
    occurs twice in a form is left out, since the question would be ambiguous. This definition is ours.
    """

    name = "funsd"
    licence = "research and education, non-commercial"
    layout = "testing_data/annotations/<id>.json, testing_data/images/<id>.png (training_data/ likewise)"
    folders = ("funsd",)
    size = "149 training forms, 50 test forms"
    home = "guillaumejaume.github.io/FUNSD (dataset.zip, 17 MB)"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        return cls._part(folder, split) is not None

    def read(self, split: str, collector: Collector) -> None:
        """Linked label-answer pairs of each form, forms sorted by id; for training, none of a form that is evaluated."""
        part = self._part(self.folder, split) or self.folder
        evaluated = part.name != "testing_data" and self._part(self.folder, "test") == part
        if evaluated and split == "train":
            unused = Collector(self.name, self.licence, self.folder)
            self._read(part, unused)
            reason = "there is no testing_data, so evaluation reads these forms"
            collector.reject(part.name, reason, unused.index().num_records)
            return
        self._read(part, collector)
        if evaluated:
            collector.note = "read from training_data, as there is no testing_data"
            logger.warning("%s in %s: %s", self.name, self.folder, collector.note)

    @staticmethod
    def _read(part: Path, collector: Collector) -> None:
        for path in sorted((part / "annotations").glob("*.json")):
            with collector.listing(path.name):
                form = list(collector.objects(read_json_list(path, "form"), f"{path.name} entity"))
                for entity in form:
                    if not is_missing(entity.get("text")):
                        with collector.listing(path.name):
                            text(entity["text"], f"text of entity {label(entity.get('id'))}")
                for name, accepted in linked_pairs(form):
                    with collector.listing(path.name):
                        draft = Draft(question(FUNSD_QUESTION.format(label=name)), answers(accepted))
                        collector.add(part / "images", f"{path.stem}.png", draft)

    @staticmethod
    def _part(folder: Path, split: str) -> Path | None:
        names = ("testing_data", "training_data") if split == "test" else ("training_data",)
        paths = [parent / name for name in names for parent in (folder, folder / "dataset")]
        return next((path for path in paths if (path / "annotations").is_dir()), None)


def linked_pairs(form: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """(label, accepted answers) of a form's entities, in their order.

    Entities without text, links to unknown entities and labels that occur twice give nothing.
    """
    entities = {entity["id"]: entity for entity in form if isinstance(entity.get("id"), int)}
    labels = [entity for entity in entities.values() if entity.get("label") == "question"]
    occurrences = Counter(_label(entity) for entity in labels)
    pairs = []
    for entity in labels:
        linked = [entities[target] for target in _targets(entity) if target in entities]
        found = [other for other in linked if other.get("label") == "answer"]
        texts = [words for words in map(_label, sorted(found, key=_reading_order)) if words]
        if _label(entity) and occurrences[_label(entity)] == 1 and texts:
            pairs.append((_label(entity), list(dict.fromkeys([" ".join(texts), *texts]))))
    return pairs


def _label(entity: dict[str, object]) -> str:
    return " ".join(label(entity.get("text")).split())


def _targets(entity: dict[str, object]) -> list[object]:
    links = entity.get("linking")
    pairs = [link for link in links if isinstance(link, list) and len(link) == 2] if isinstance(links, list) else []
    return [target for start, target in pairs if start == entity.get("id") and isinstance(target, int)]


def _reading_order(entity: dict[str, object]) -> tuple[float, float]:
    box = entity.get("box")
    if isinstance(box, list) and len(box) == 4 and all(isinstance(edge, (int, float)) for edge in box):
        return box[1], box[0]
    return 0.0, 0.0


SROIE_QUESTIONS = {
    "company": "What is the name of the company that issued the receipt?",
    "date": "What is the date of the receipt?",
    "address": "What is the address of the company?",
    "total": "What is the total amount of the receipt?",
}
"""Our questions about the four fields of the extraction task: SROIE has no questions."""


class SROIE(LocalSource):
    """SROIE: scanned receipts with up to four questions each; `kind` is the field.

    Reads two layouts: `img/<id>.jpg` with `key/<id>.json`, which does not separate training from test receipts and so is
    for evaluation only, and `train/` and `test/`, each with `img/<id>.jpg` and `entities/<id>.txt` (JSON too).
    """

    name = "sroie"
    licence = "research use (ICDAR 2019 SROIE)"
    layout = "img/<id>.jpg, key/<id>.json; or train/img, train/entities/<id>.txt and test/ likewise"
    folders = ("sroie", "icdar-2019-sroie")
    size = "626 training receipts, 347 test receipts"
    home = "rrc.cvc.uab.es, challenge 13 (registration); the train/test layout is SROIE2019"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        return next(cls._keys(folder, split), None) is not None

    def read(self, split: str, collector: Collector) -> None:
        """The fields of each receipt, in the order company, date, address, total."""
        for path in self._keys(self.folder, split):
            with collector.listing(path.name):
                values = read_json_object(path)
                present = [name for name in SROIE_QUESTIONS if name in values]
                if not present:
                    raise UserError(f"{path}: none of {', '.join(SROIE_QUESTIONS)}")
                for name in present:
                    with collector.listing(f"{path.stem}.jpg"):
                        draft = Draft(SROIE_QUESTIONS[name], answers(values[name], name), name)
                        collector.add(path.parent.parent / "img", f"{path.stem}.jpg", draft)

    @staticmethod
    def _keys(folder: Path, split: str) -> Iterator[Path]:
        for part in (folder, folder / "SROIE2019"):
            if (part / split / "img").is_dir():
                yield from sorted((part / split / "entities").glob("*.txt"))
                return
        if split == "test" and (folder / "img").is_dir():
            yield from sorted((folder / "key").glob("*.json"))
