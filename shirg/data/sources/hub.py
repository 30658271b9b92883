"""Benchmarks from the Hugging Face hub, for those who have a connection or a filled cache."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shirg.data.images import as_png_or_jpeg
from shirg.data.records import Record, image_id
from shirg.data.sources.ai2d import lettered_choices
from shirg.data.sources.base import Records, Rejected
from shirg.data.sources.values import answers, as_object, choice_number, choices, label, question
from shirg.errors import UserError

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
"""How long the hub may take to say that it has the data set."""

MOVED = {"lmms-lab": "lmms-lab-encoder"}
"""Owner of a data set on the hub -> the owner that lmms-eval takes the same set from today."""


@dataclass(frozen=True)
class HubCopy:
    """Where the hub keeps a benchmark and what its columns are called."""

    repository: str
    split: str
    configuration: str | None = None
    answers: str = "answers"
    kind: str | None = None
    choices: str | None = None
    """Column of the choices of a multiple-choice question, whose answer is the number of the right one."""


HUB = {
    "chartqa": HubCopy("lmms-lab/ChartQA", "test", answers="answer", kind="type"),
    "docvqa": HubCopy("lmms-lab/DocVQA", "validation", configuration="DocVQA"),
    "infovqa": HubCopy("lmms-lab/DocVQA", "validation", configuration="InfographicVQA"),
    "textvqa": HubCopy("lmms-lab/textvqa", "validation"),
    "ai2d": HubCopy("lmms-lab/ai2d", "test", answers="answer", choices="options"),
    "ocrbench": HubCopy("echo840/OCRBench", "test", answers="answer", kind="question_type"),
}
"""The parts with published answers, as lmms-eval reads them."""


def hub_records(name: str, licence: str, limit: int | None, seed: int) -> Records:
    """A seeded sample of a benchmark's records from the hub or from its local cache.

    Raises:
        UserError: if the hub does not answer within `CONNECT_SECONDS`, the data cannot be had from it, or none of it is
            usable.
    """
    copy = HUB[name]
    rows = load_rows(copy.repository, copy.configuration, copy.split)
    order = list(range(len(rows)))
    if limit is not None and limit < len(order):
        random.Random(f"{name}:{seed}").shuffle(order)
    records = Records()
    for place in order:
        if len(records) == limit:
            break
        try:
            records.append(record_of_row(rows[place], place, name, licence))
        except UserError as error:
            records.rejected.append(Rejected(name, f"row {place}", str(error)))
    if not records:
        raise UserError(f"{HUB[name].repository}: no usable record among {len(rows)}")
    return records


def record_of_row(row: dict[str, Any], place: int, name: str, licence: str) -> Record:
    """One row of the hub's table, its image still encoded (`{"bytes": ...}`), as a record.

    Raises:
        UserError: if the image cannot be opened, or question or answers are missing.
    """
    copy = HUB[name]
    asked, accepted = question(row.get("question")), answers(row.get(copy.answers), copy.answers)
    if copy.choices is not None:
        offered = choices(row.get(copy.choices), copy.choices)
        right = choice_number(accepted[0], copy.answers, len(offered))
        asked, letter = lettered_choices(asked, offered, right)
        accepted = (letter,)
    image = as_object(row.get("image"), "image").get("bytes")
    if not isinstance(image, bytes):
        raise UserError("image has no bytes")
    data, width, height = as_png_or_jpeg(image, f"row {place}")
    return Record(
        id=f"{name}:row {place}:0",
        image=data,
        image_id=image_id(data),
        question=asked,
        answers=accepted,
        source=name,
        licence=licence,
        width=width,
        height=height,
        kind=label(row.get(copy.kind)) if copy.kind else "",
        split="test",
    )


def load_rows(repository: str, configuration: str | None, split: str) -> Any:
    """A table of the hub, or of a local folder in the hub's layout, with images as they are encoded.

    A set whose owner is in `MOVED` is asked for under the new owner's name, too.

    Raises:
        UserError: if the hub does not answer within `CONNECT_SECONDS`, or it cannot be read, by every name.
    """
    failures = []
    for name in _names(repository):
        try:
            return _load_rows(name, configuration, split)
        except UserError as error:
            failures.append(str(error))
    raise UserError("; ".join(failures))


def _names(repository: str) -> list[str]:
    owner, _, name = repository.partition("/")
    moved = owner in MOVED and not Path(repository).is_dir()
    return [repository, *([f"{MOVED[owner]}/{name}"] if moved else [])]


def _load_rows(repository: str, configuration: str | None, split: str) -> Any:
    import datasets
    import huggingface_hub

    try:
        # Offline the cache answers at once, and a folder needs nobody.
        if not huggingface_hub.constants.HF_HUB_OFFLINE and not Path(repository).is_dir():
            huggingface_hub.HfApi().dataset_info(repository, timeout=CONNECT_SECONDS)
        rows = datasets.load_dataset(repository, configuration, split=split)
        return rows.cast_column("image", datasets.Image(decode=False))
    except Exception as error:  # connection, permission and format errors of four libraries
        logger.debug("hub", exc_info=True)
        reason = str(error).strip().splitlines()
        raise UserError(f"{repository}: {reason[0] if reason else type(error).__name__}") from error
