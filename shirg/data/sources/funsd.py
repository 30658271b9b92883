"""FUNSD: noisy scanned forms, asked as questions."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from shirg.data.sources.base import Collector, Draft, LocalSource, read_json_list
from shirg.data.sources.values import answers, is_missing, label, question, text

logger = logging.getLogger(__name__)

QUESTION = 'What is written for "{label}"?'
"""How a form's label is asked for. This wording is ours: FUNSD itself asks nothing."""


class FUNSD(LocalSource):
    """Reads `<part>/annotations/<id>.json` and `<part>/images/<id>.png`: one question per label linked to an answer.

    The part is `testing_data/` or `training_data/`, also inside `dataset/`. A copy that has only `training_data/` is
    evaluated on that, which the index notes, and gives nothing for training. A label linked to several answers accepts
    all of them joined in reading order, and each alone; a label that stands on the form more than once is left out, as
    the question would be ambiguous. All of that is our definition.
    """

    name = "funsd"
    licence = "research and education, non-commercial"
    layout = "testing_data/annotations/<id>.json, testing_data/images/<id>.png (training_data/ likewise)"
    folders = ("funsd",)
    size = "149 training forms, 50 test forms"
    home = "guillaumejaume.github.io/FUNSD (dataset.zip, 17 MB)"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether a part for the split is there."""
        return cls._part(folder, split) is not None

    def read(self, split: str, collector: Collector) -> None:
        """Linked question-answer pairs of every form, forms in order of their ids; for training, none of a form that
        is evaluated on."""
        part = self._part(self.folder, split) or self.folder
        evaluated = part.name != "testing_data" and self._part(self.folder, "test") == part
        if evaluated and split == "train":
            aside = Collector(self.name, self.licence, self.folder)
            self._read(part, aside)
            reason = "there is no testing_data, so evaluation reads these forms"
            collector.reject(part.name, reason, aside.index().num_records)
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
                        draft = Draft(question(QUESTION.format(label=name)), answers(accepted))
                        collector.add(part / "images", f"{path.stem}.png", draft)

    @staticmethod
    def _part(folder: Path, split: str) -> Path | None:
        names = ("testing_data", "training_data") if split == "test" else ("training_data",)
        paths = [parent / name for name in names for parent in (folder, folder / "dataset")]
        return next((path for path in paths if (path / "annotations").is_dir()), None)


def linked_pairs(form: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """(label, accepted answers) of a form's entities, in their order.

    Entities without text, links to nowhere and labels that occur twice give nothing.
    """
    entities = {entity["id"]: entity for entity in form if isinstance(entity.get("id"), int)}
    labels = [entity for entity in entities.values() if entity.get("label") == "question"]
    occurrences = Counter(_label(entity) for entity in labels)
    pairs = []
    for entity in labels:
        linked = [entities[target] for target in _targets(entity) if target in entities]
        answers = [other for other in linked if other.get("label") == "answer"]
        texts = [_label(answer) for answer in sorted(answers, key=_reading_order)]
        texts = [text for text in texts if text]
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
