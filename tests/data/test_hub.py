"""Training sets as the hub has them, opened by `datasets` from local copies in the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from shirg.data.images import encode_png
from shirg.data.sources import HELD_OUT, find_source
from shirg.data.sources.hub import FINISHED, RELEASES, fetch
from shirg.errors import UserError
from tests.data.preparing import manifest, prepare, records

ROWS = {
    "chartqa": [
        {"query": "How many?", "label": ["3"], "human_or_machine": 0},
        {"query": "Which year?", "label": ["1999"], "human_or_machine": 1},
    ],
    "docvqa": [
        {"questionId": "1", "question": "Date?", "answers": ["May 2", "2 May"], "question_types": ["form"]},
        {"questionId": "2", "question": "Who?", "answers": ["Ann"], "question_types": None},
    ],
    "textvqa": [
        {"image_id": "x", "question": "Brand?", "answers": ["nokia"] * 9 + ["none"]},
        {"image_id": "x", "question": "Time?", "answers": ["noon"] * 10},
    ],
    "ocrvqa": [{"questions": ["Title?", "Author?"], "answers": ["Sea", "Lee"], "genre": "Travel"}] * 2,
}
KINDS = {"chartqa": ["human", "augmented"], "docvqa": ["form", ""], "textvqa": ["", ""], "ocrvqa": ["Travel"] * 2}


def put_copy(folder: Path, name: str, spoil: str = "") -> Path:
    """A hub repository: `data/SPLIT-00000-of-00001.parquet`, two rows about one image in each; columns but `spoil`."""
    import datasets

    (folder / "data").mkdir(parents=True)
    for place, split in enumerate(("train", RELEASES[name].test)):
        image = {"bytes": encode_png(Image.new("RGB", (64, 48), (80 * place, 90, 30))), "path": None}
        other = {"bytes": encode_png(Image.new("RGB", (48, 64), (80 * place, 0, 30))), "path": None}
        pictures = (image, other) if name == "ocrvqa" else (image, image)
        rows = [row | {"image": picture} for row, picture in zip(ROWS[name], pictures, strict=True)]
        table = datasets.Dataset.from_list([{key: row[key] for key in row if key != spoil} for row in rows])
        table = table.cast_column("image", datasets.Image())
        table.to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("name", RELEASES)
def test_a_copy_becomes_a_release_that_its_reader_reads(name: str, tmp_path: Path):
    copy = put_copy(tmp_path / "copy", name)
    folder = fetch(f"{name}={copy}", tmp_path)
    for split in ("train", "test"):
        source = find_source(HELD_OUT[name], tmp_path, split)
        assert source.folder == folder
        found = source.records(split=split)
        expected = [(row["question"], tuple(row["answers"])) for row in ROWS[name] if "question" in row]
        if name == "chartqa":
            expected = [(row["query"], tuple(row["label"])) for row in ROWS[name]]
        if name == "ocrvqa":
            expected = [("Title?", ("Sea",)), ("Author?", ("Lee",))] * 2
        assert [(record.question, record.answers) for record in found] == expected
        assert [record.kind for record in found[:: len(found) // 2]] == KINDS[name]
        assert len({record.image_id for record in found}) == (2 if name == "ocrvqa" else 1)
        assert not found.rejected
    images = [path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")]
    assert len(images) == (4 if name == "ocrvqa" else 2)


def test_what_was_fetched_is_left_alone_and_what_was_not_goes_on(tmp_path: Path):
    request = f"chartqa={put_copy(tmp_path / 'copy', 'chartqa')}"
    folder = fetch(request, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert fetch(request, tmp_path) == folder
    (folder / FINISHED).unlink()  # as if stopped just before the end
    (folder / "train/train_human.json").unlink()
    fetch(request, tmp_path)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert before.keys() == after.keys()
    assert all(after[path] == before[path] for path in before if path.suffix == ".png")


def test_preparation_fetches_first_and_keeps_the_evaluation_part_out(tmp_path: Path):
    copy, lab = put_copy(tmp_path / "copy", "chartqa"), tmp_path / "lab"
    lab.mkdir()
    asked = {"base_dataset_size": 0, "ocr_enhancement_size": 2, "validation_fraction": 0.0, "data_dir": lab}
    prepare(tmp_path / "data", **asked, from_hub=(f"ChartQA={copy}",))
    assert manifest(tmp_path / "data")["sources"] == {"chartqa": 2}
    assert manifest(tmp_path / "data")["excluded"]["images"] == {"chartqa": 1}
    assert {record.question for record in records(tmp_path / "data", "train")} == {"How many?", "Which year?"}
    assert json.loads((lab / "chartqa-hub" / FINISHED).read_text())["rows"] == {"train": 2, "test": 2}


def test_rows_without_a_label_do_not_end_a_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = {"bytes": encode_png(Image.new("RGB", (64, 48))), "path": None}
    labels = [[], [float("nan")], None, ["3"], 0]
    origins = [0, None, 7, 0, 1]

    def rows(*_: object) -> list[dict[str, object]]:
        result = enumerate(zip(labels, origins, strict=True))
        return [
            {"query": f"q{place}", "label": label, "human_or_machine": origin, "image": dict(image)}
            for place, (label, origin) in result
        ]

    monkeypatch.setattr("shirg.data.sources.hub.load_rows", rows)
    fetch("chartqa", tmp_path)
    source = find_source(HELD_OUT["chartqa"], tmp_path, "test")
    found = source.records(split="test")
    assert [(record.question, record.answers) for record in found] == [("q3", ("3",)), ("q4", ("0",))]
    assert [entry.reason for entry in found.rejected] == ["label is missing or empty"] * 3


def test_other_columns_are_named(tmp_path: Path):
    copy = put_copy(tmp_path / "copy", "docvqa", spoil="answers")
    with pytest.raises(UserError, match=r"copy: its columns are not those that SHIRG knows \(KeyError\('answers'\)\)"):
        fetch(f"docvqa={copy}", tmp_path)
    assert find_source(HELD_OUT["docvqa"], tmp_path, "train") is None


@pytest.mark.parametrize(
    ("request_", "message"),
    [("sroie", "'sroie'; one of chartqa, docvqa, textvqa, ocrvqa"), ("chartqa=/nowhere", "no such folder: /nowhere")],
)
def test_requests_that_cannot_be_served(request_: str, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "data", data_dir=tmp_path, from_hub=(request_,))
    with pytest.raises(UserError, match="from_hub: .*needs data_dir"):
        prepare(tmp_path / "data", from_hub=("chartqa",))
