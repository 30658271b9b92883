"""Training sets from the Hugging Face hub, written down in the layouts of their releases.

A hub copy is a table whose rows hold their images. Preparation reads files: it looks at them twice, compares them with
evaluation images, links to them, and shares them among processes. So a copy is turned into the release's files once,
training and evaluation part, and is then a data set like any other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shirg.data.progress import bar
from shirg.data.sources.hub import load_rows
from shirg.errors import UserError
from shirg.files import atomic_path, write_json

Row = dict[str, Any]
Rows = dict[str, list[tuple[str, Row]]]
"""Part (`train`, `test`) -> (image name without ending, row without image)."""


@dataclass(frozen=True)
class HubRelease:
    """Where the hub has a set, and how its rows become the files of the release.

    Attributes:
        repository: on the hub.
        parts: part -> the hub's name of it. Evaluation images come along, so that they can be kept out of training.
        images: folder and ending of the images of a `{part}`.
        annotate: rows -> content of the annotation files by path.
    """

    repository: str
    parts: dict[str, str]
    images: str
    annotate: Callable[[Rows], dict[str, object]]


def _chartqa(rows: Rows) -> dict[str, object]:
    files: dict[str, list[object]] = {}
    for part, entries in rows.items():
        for name, row in entries:
            origin = "human" if row["human_or_machine"] == 0 else "augmented"
            entry = {"imgname": f"{name}.png", "query": row["query"], "label": row["label"]}
            files.setdefault(f"{part}/{part}_{origin}.json", []).append(entry)
    return dict(files)


def _docvqa(rows: Rows) -> dict[str, object]:
    return {
        f"{'val' if part == 'test' else part}_v1.0.json": {
            "data": [
                {"image": f"documents/{name}.png"}
                | {key: row[key] for key in ("question", "answers", "question_types")}
                for name, row in entries
            ]
        }
        for part, entries in rows.items()
    }


def _textvqa(rows: Rows) -> dict[str, object]:
    return {
        f"TextVQA_0.5.1_{'val' if part == 'test' else part}.json": {
            "data": [
                {"image_id": name, "question": row["question"], "answers": row["answers"]} for name, row in entries
            ]
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
    "chartqa": HubRelease(
        "HuggingFaceM4/ChartQA", {"train": "train", "test": "test"}, "{part}/png/{name}.png", _chartqa
    ),
    "docvqa": HubRelease(
        "HuggingFaceM4/DocumentVQA", {"train": "train", "test": "validation"}, "documents/{name}.png", _docvqa
    ),
    "textvqa": HubRelease(
        "lmms-lab/textvqa", {"train": "train", "test": "validation"}, "train_images/{name}.jpg", _textvqa
    ),
    "ocrvqa": HubRelease("howard-hou/OCR-VQA", {"train": "train", "test": "test"}, "images/{name}.jpg", _ocrvqa),
}
"""Sets whose training part the hub has as a table."""

FINISHED = "from_hub.json"
"""Written last: says where the files came from."""


def parse_request(text: str) -> tuple[str, str]:
    """`NAME` or `NAME=FOLDER` as (key of `RELEASES`, repository or local copy of one).

    Raises:
        UserError: if the hub has no such set that SHIRG knows, or there is no such folder.
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
    """Writes a hub copy into `data_dir` as `NAME-hub/`, in the layout of the release, and returns that folder.

    Images are named by their content, so those that several questions share are written once, and a run that was
    stopped writes none again. A folder that is complete is left as it is.

    Raises:
        UserError: if the request cannot be understood, the hub does not answer, or its columns are others.
        OSError: if the files cannot be written.
    """
    key, repository = parse_request(request)
    release, folder = RELEASES[key], data_dir / f"{key}-hub"
    if (folder / FINISHED).is_file():
        return folder
    rows = {
        part: list(_with_images(load_rows(repository, None, split), folder, release.images, part, key))
        for part, split in release.parts.items()
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
    """Tables say NaN for what is missing, of which JSON knows nothing."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_images(rows: Any, folder: Path, place: str, part: str, what: str) -> Iterable[tuple[str, Row]]:
    """Every row with its image's name; the images are written on the way."""
    with bar(f"{what} {part} from the hub", len(rows), 0) as advance:
        for row in rows:
            data = (row.pop("image", None) or {}).get("bytes") or b""
            name = hashlib.sha256(data).hexdigest()[:32]
            path = folder / place.format(part=part, name=name)
            if not path.exists():  # an image that is broken is written too: preparation lists it
                with atomic_path(path) as fresh:
                    fresh.write_bytes(data)
            advance(1)
            yield name, row
