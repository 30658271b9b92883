"""Data sets from the Hugging Face hub or its local cache.

Benchmarks are read as records. Training sets are written once as files, in the layout of the release, and are then read like
any local data set: preparation opens files twice, links to them and shares them among processes.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shirg.data.images import as_png_or_jpeg
from shirg.data.records import Record, image_id
from shirg.data.sources.base import Draft, ImageGroup, Records, Rejected
from shirg.data.sources.values import answers, as_object, choice_number, choices, label, lettered_choices, question
from shirg.data.workers import progress_bar
from shirg.errors import UserError
from shirg.files import atomic_path, write_json

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
"""Time limit for the hub to confirm that it has a data set."""

MOVED = {"lmms-lab": "lmms-lab-encoder"}
"""Former owner of data sets on the hub -> the owner that lmms-eval uses today."""


@dataclass(frozen=True)
class HubCopy:
    """Where the hub has a benchmark, and the names of its columns."""

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
    """A seeded sample of a benchmark's records.

    Raises:
        UserError: if the hub does not answer within `CONNECT_SECONDS`, the data cannot be read, or no record is usable.
    """
    copy = HUB[name]
    rows = load_rows(copy.repository, copy.configuration, copy.split)
    order = list(range(len(rows)))
    if limit is not None and limit < len(order):
        random.Random(f"{name}:{seed}").shuffle(order)
    records = Records()
    for number in order:
        if len(records) == limit:
            break
        try:
            records.append(record_of_row(rows[number], number, name, licence))
        except UserError as error:
            records.rejected.append(Rejected(name, f"row {number}", str(error)))
    if not records:
        raise UserError(f"{copy.repository}: no usable record among {len(rows)}")
    return records


def record_of_row(row: dict[str, Any], number: int, name: str, licence: str) -> Record:
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
    data, width, height = as_png_or_jpeg(image, f"row {number}")
    draft = Draft(asked, accepted, label(row.get(copy.kind)) if copy.kind else "")
    group = ImageGroup(name, licence, Path(), f"row {number}", (draft,))
    return group.records_from(data, image_id(data), (width, height), "test")[0]


def load_rows(repository: str, configuration: str | None, split: str) -> Any:
    """A table of the hub, or of a local folder in the hub's layout, with encoded images.

    A set whose owner is in `MOVED` is also searched under the new owner.

    Raises:
        UserError: if the hub does not answer within `CONNECT_SECONDS`, or no table can be read.
    """
    owner, _, name = repository.partition("/")
    moved = owner in MOVED and not Path(repository).is_dir()
    failures = []
    for place in [repository, *([f"{MOVED[owner]}/{name}"] if moved else [])]:
        try:
            return _load_rows(place, configuration, split)
        except UserError as error:
            failures.append(str(error))
    raise UserError("; ".join(failures))


def _load_rows(repository: str, configuration: str | None, split: str) -> Any:
    import datasets
    import huggingface_hub

    try:
        # Offline the cache answers immediately, and a folder needs no connection.
        if not huggingface_hub.constants.HF_HUB_OFFLINE and not Path(repository).is_dir():
            huggingface_hub.HfApi().dataset_info(repository, timeout=CONNECT_SECONDS)
        rows = datasets.load_dataset(repository, configuration, split=split)
        return rows.cast_column("image", datasets.Image(decode=False))
    except Exception as error:  # connection, permission and format errors of four libraries
        logger.debug("hub", exc_info=True)
        reason = str(error).strip().splitlines()
        raise UserError(f"{repository}: {reason[0] if reason else type(error).__name__}") from error


Rows = dict[str, list[tuple[str, dict[str, Any]]]]
"""Split (`train`, `test`) -> (image name without suffix, row without image)."""


@dataclass(frozen=True)
class HubRelease:
    """Where the hub has a training set, and how its rows become the files of the release.

    Attributes:
        repository: on the hub.
        test: the hub's name of the test part, which is fetched so that its images can be kept out of training.
        images: path of an image, with `{part}` and `{name}`.
        annotate: rows -> content of the annotation files by path.
    """

    repository: str
    test: str
    images: str
    annotate: Callable[[Rows], dict[str, object]]


def _chartqa(rows: Rows) -> dict[str, object]:
    files: dict[str, list[object]] = {}
    for part, entries in rows.items():
        for name, row in entries:
            kind = "human" if row["human_or_machine"] == 0 else "augmented"
            entry = {"imgname": f"{name}.png", "query": row["query"], "label": row["label"]}
            files.setdefault(f"{part}/{part}_{kind}.json", []).append(entry)
    return dict(files)


def _docvqa(rows: Rows) -> dict[str, object]:
    keys = ("question", "answers", "question_types")
    return {
        f"{'val' if part == 'test' else part}_v1.0.json": {
            "data": [{"image": f"documents/{name}.png"} | {key: row[key] for key in keys} for name, row in entries]
        }
        for part, entries in rows.items()
    }


def _textvqa(rows: Rows) -> dict[str, object]:
    keys = ("question", "answers")
    return {
        f"TextVQA_0.5.1_{'val' if part == 'test' else part}.json": {
            "data": [{"image_id": name} | {key: row[key] for key in keys} for name, row in entries]
        }
        for part, entries in rows.items()
    }


def _ocrvqa(rows: Rows) -> dict[str, object]:
    numbers = {"train": 1, "test": 3}
    return {
        "dataset.json": {
            name: {"split": numbers[part]} | {key: row[key] for key in ("questions", "answers", "genre")}
            for part, entries in rows.items()
            for name, row in entries
        }
    }


RELEASES = {
    "chartqa": HubRelease("HuggingFaceM4/ChartQA", "test", "{part}/png/{name}.png", _chartqa),
    "docvqa": HubRelease("HuggingFaceM4/DocumentVQA", "validation", "documents/{name}.png", _docvqa),
    "textvqa": HubRelease("lmms-lab/textvqa", "validation", "train_images/{name}.jpg", _textvqa),
    "ocrvqa": HubRelease("howard-hou/OCR-VQA", "test", "images/{name}.jpg", _ocrvqa),
}
"""Sets whose training part the hub has as a table."""

FINISHED = "from_hub.json"
"""Written last; names the repository."""


def parse_request(text: str) -> tuple[str, str]:
    """`NAME` or `NAME=FOLDER` as (key of `RELEASES`, repository or local copy of one).

    Raises:
        UserError: if the name is not in `RELEASES`, or the folder does not exist.
    """
    name, _, folder = text.partition("=")
    key = "".join(sign for sign in name.lower() if sign.isalnum())
    if key not in RELEASES:
        raise UserError(
            f"from_hub: {name!r}; one of {', '.join(RELEASES)}, or NAME=FOLDER for a local copy of the hub's"
        )
    if folder and not Path(folder).is_dir():
        raise UserError(f"from_hub: {text!r}; no such folder: {folder}")
    return key, folder or RELEASES[key].repository


def fetch(request: str, data_dir: Path) -> Path:
    """Write a training set of the hub into `data_dir / "NAME-hub"`, in the layout of the release; returns that folder.

    Images are named by their content, so shared ones are written once and a stopped run resumes. A complete folder is left
    unchanged.

    Raises:
        UserError: if the request is invalid, the hub does not answer, or the table has other columns.
        OSError: if the files cannot be written.
    """
    key, repository = parse_request(request)
    release, folder = RELEASES[key], data_dir / f"{key}-hub"
    if (folder / FINISHED).is_file():
        return folder
    rows = {
        part: list(_with_images(load_rows(repository, None, split), folder, release.images, part, key))
        for part, split in (("train", "train"), ("test", release.test))
    }
    try:
        files = release.annotate(rows)
    except KeyError as error:
        raise UserError(f"{repository}: its columns are not those that SHIRG knows ({error!r})") from error
    for path, content in files.items():
        write_json(folder / path, _without_nan(content))
    write_json(folder / FINISHED, {"repository": repository, "rows": {part: len(rows[part]) for part in rows}})
    return folder


def _without_nan(value: object) -> object:
    """NaN, which tables use for missing values and JSON does not have, as None."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_images(
    rows: Any, folder: Path, image_path: str, part: str, what: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with its image's name; writes the images."""
    with progress_bar(f"{what} {part} from the hub", len(rows)) as advance:
        for row in rows:
            data = (row.pop("image", None) or {}).get("bytes") or b""
            name = hashlib.sha256(data).hexdigest()[:32]
            path = folder / image_path.format(part=part, name=name)
            if not path.exists():  # a broken image is written too: preparation rejects it
                with atomic_path(path) as fresh:
                    fresh.write_bytes(data)
            advance(1)
            yield name, row
