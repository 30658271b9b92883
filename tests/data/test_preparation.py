"""Preparing a data set: exact counts, equal bytes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from shirg.data import SHIRGDatasetConfig, SHIRGDatasetProcessor
from shirg.data.manifest import check_folder
from shirg.data.records import image_id
from shirg.data.shards import SPLITS, sha256_of
from shirg.errors import UserError
from tests.data.preparing import config, manifest, prepare, records


def test_defaults_are_the_promised_numbers():
    defaults = SHIRGDatasetConfig()
    assert (defaults.base_dataset_size, defaults.ocr_enhancement_size, defaults.total_samples) == (
        558_000,
        50_000,
        608_000,
    )


def test_counts_are_exact_and_in_the_manifest(whole: Path):
    train, held = records(whole, "train"), records(whole, "validation")
    assert (len(train), len(held)) == (66, 4)  # 5% of 70, rounded
    result = manifest(whole)
    assert result["splits"]["train"] == {"records": 66, "images": len({r.image_id for r in train})}
    assert result["sources"] == {"rendered": 70}
    assert result["parts"]["base"] == {"asked": 50, "records": 50, "real": 0, "rendered": 50}
    assert [shard["records"] for shard in result["shards"]] == [4, 30, 30, 6]
    assert all(sha256_of(whole / shard["file"]) == shard["sha256"] for shard in result["shards"])
    assert {r.split for r in train} == {"train"}
    assert len({r.id for r in train + held}) == 70
    assert all(r.image_id == image_id(r.image) for r in train)


def test_same_seed_gives_equal_bytes_and_workers_change_nothing(whole: Path, tmp_path: Path):
    first = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert prepare(tmp_path / "again", num_workers=2) == first
    other = prepare(tmp_path / "other", seed=1)
    assert other["train-00000.parquet"] != first["train-00000.parquet"]


def test_preparing_leaves_the_global_random_state_alone(tmp_path: Path):
    import torch

    before = torch.get_rng_state()
    prepare(tmp_path / "data", base_dataset_size=5, ocr_enhancement_size=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_opens_with_datasets(whole: Path):
    import datasets

    datasets.disable_progress_bars()
    cache = str(whole.parent / "cache")
    loaded = datasets.load_dataset("parquet", data_dir=str(whole), cache_dir=cache)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 66, "validation": 4}
    row, record = loaded["train"][0], records(whole, "train")[0]
    assert row["image"].size == (336, 336)
    assert row["conversations"] == record.conversations
    assert tuple(row["answers"]) == record.answers


def test_real_sets_in_the_layouts_of_their_releases(shared: Path, tmp_path: Path):
    """Charts, tables and forms as they are published, but called the training parts; the pages of DocVQA kept out."""
    lab = tmp_path / "lab"
    for name, link, target in (
        ("opencqa", "chart_images", "opencqa/chart_images"),
        ("opencqa", "etc/data/train.json", "opencqa/etc/data/val.json"),
        ("tabmwp", "tables", "tabmwp/tables"),
        ("tabmwp", "problems_train.json", "tabmwp/problems_dev1k.json"),
        ("funsd", "training_data", "funsd/training_data"),
        ("funsd", "testing_data/annotations", "sroie/box"),
        ("docvqa", "documents", "docvqa_samples/documents"),
        ("docvqa", "val_v1.0.json", "docvqa_samples/val_v1.0.json"),
    ):
        (lab / name / link).parent.mkdir(parents=True, exist_ok=True)
        (lab / name / link).symlink_to(shared / "data" / target)
    asked = {"data_dir": lab, "base_dataset_size": 0, "ocr_enhancement_size": 300, "exclude_datasets": ("DocVQA",)}
    folder = tmp_path / "data"
    prepare(folder, **asked, images="link", shard_size=100)
    result = manifest(folder)
    assert result["total_samples"] == sum(result["sources"].values()) == 300
    assert result["sources"].keys() == {"opencqa", "tabmwp", "funsd"}
    assert result["excluded"]["images"] == {"docvqa": 7}
    assert check_folder(folder) == []
    found = [r for split in SPLITS for r in records(folder, split) if r.source == "opencqa"]
    suffixes = {Path(r.path).suffix for r in found}
    assert suffixes == {".png", ""}  # files called .png that are GIF inside had to be converted
    assert all(r.open_image().size == (r.width, r.height) for r in found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_dataset_size": -1}, "base_dataset_size: got -1, must be a whole number from 0"),
        ({"base_dataset_size": 0, "ocr_enhancement_size": 0}, "total_samples: 0; at least 1"),
        ({"image_resolution": 670}, "image_resolution: got 670, must be a multiple of 14"),
        ({"validation_fraction": 1.0}, "validation_fraction: got 1.0, must be a number from 0 to below 1"),
        ({"shard_size": 0}, "shard_size: got 0, must be a whole number from 1"),
        ({"text_px": (9.0, 8.0)}, "text_px: "),
        ({"text_px": (3.0, 8.0)}, "text_px: got 3.0, must be a number from 4"),
        ({"image_resolution": 112}, "image_resolution: 112; at least 128"),
        ({"num_workers": -1}, "num_workers: got -1"),
        ({"data_dir": "/nowhere/at/all"}, "data_dir: /nowhere/at/all; an existing folder"),
        ({"exclude_data_dir": "/nowhere/at/all"}, "exclude_data_dir: /nowhere/at/all; an existing folder"),
        ({"base_json": ("/nowhere.json",)}, "base_json: .*existing .json"),
        ({"allow_fewer": True, "render_missing": True}, "allow_fewer: True; not together with render_missing"),
        ({"images": "copy"}, "images: got 'copy', must be one of embed, link"),
        ({"max_image_side": 10}, "max_image_side: got 10, must be a whole number from 64"),
        ({"num_shards": 0}, "num_shards: got 0"),
        ({"shard_index": 2, "num_shards": 2}, "shard_index: 2; from 0 to below num_shards"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        SHIRGDatasetProcessor(config(tmp_path, **changes))


def test_output_that_cannot_be_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"output_dir: .*file/data cannot be written"):
        prepare(tmp_path / "file" / "data")
