"""A finished folder is whole, and whatever is changed in it is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from shirg.data import SHIRGDatasetConfig, SHIRGDatasetProcessor
from shirg.data.manifest import check_folder
from shirg.data.shards import sha256_of
from shirg.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five linked images: `own/` and `data/`, which holds two shards for training and one for validation."""
    root = tmp_path_factory.mktemp("prepared")
    (root / "own").mkdir()
    entries = []
    for number in range(5):
        Image.effect_noise((20 + number, 20), 60).save(root / f"own/{number}.png")
        turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
        entries.append({"image": f"{number}.png", "conversations": turns})
    (root / "own/list.json").write_text(json.dumps(entries), encoding="utf-8")
    config = SHIRGDatasetConfig(
        5, 0, root / "data", base_json=(root / "own/list.json",), num_workers=0, shard_size=2, images="link"
    )
    assert check_folder(SHIRGDatasetProcessor(config).prepare_full_dataset()) == []
    return root


def content(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def forge(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Changes the first training shard, and the manifest with it."""
    path, manifest = folder / "train-00000.parquet", content(folder)
    pq.write_table(change(pq.read_table(path)), path)
    (shard,) = (shard for shard in manifest["shards"] if shard["file"] == path.name)
    shard |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def same_image_as_validation(folder: Path) -> None:
    held = pq.read_table(folder / "validation-00000.parquet")

    def change(table: pa.Table) -> pa.Table:
        for name in ("image", "image_id"):
            column = pa.chunked_array([held[name].combine_chunks()[:1], table[name].combine_chunks()[1:]])
            table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
        return table

    forge(folder, change)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: (data / "train-00001.parquet").unlink(), "train-00001.parquet: missing"),
        (lambda data: (data / "train-00000.parquet").write_bytes(b"x"), "train-00000.parquet: 1 bytes, not "),
        (
            lambda data: shutil.copy(data / "train-00000.parquet", data / "train-00007.parquet"),
            "train-00007.parquet: not",
        ),
        (lambda data: forge(data, lambda table: table.slice(1)), "train-00000.parquet: 1 records, not 2"),
        (same_image_as_validation, "1 images are in both splits"),
        (lambda data: (data.parent / "own/3.png").unlink(), "No such file"),
        (lambda data: Image.new("L", (9, 9)).save(data.parent / "own/3.png"), "own/3.png has changed"),
    ],
)
def test_changes_are_found(prepared: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str):
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    if "own" in message or "file" in message:  # links lead to the original
        copy = prepared
    kept = (prepared / "own/3.png").read_bytes()
    spoil(copy / "data")
    problems = check_folder(copy / "data")
    (prepared / "own/3.png").write_bytes(kept)
    assert any(message in problem for problem in problems), problems


def test_flipped_bit_is_found(prepared: Path, tmp_path: Path):
    shutil.copytree(prepared / "data", tmp_path / "data")
    path = tmp_path / "data/train-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert check_folder(tmp_path / "data") == ["train-00000.parquet: its checksum differs"]


def test_unfinished_folder_cannot_be_checked(tmp_path: Path):
    with pytest.raises(UserError, match=r"manifest\.json: No such file .*writes it when the folder is complete"):
        check_folder(tmp_path)
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="entries are missing"):
        check_folder(tmp_path)
