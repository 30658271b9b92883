"""From shards to batches: order, augmentation and what is refused."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from shirg.data import Record, RecordDataset, build_loaders
from shirg.data.augmentation import augment_image, augment_record
from shirg.data.images import encode_png, open_image
from shirg.data.loader import ShuffleSampler
from shirg.data.records import image_id
from shirg.data.shards import ROWS_PER_GROUP, ShardReader, write_shard
from shirg.errors import UserError


def record(number: int, split: str = "train") -> Record:
    data = encode_png(Image.new("RGB", (30, 20), (number % 256, 0, 0)))
    about = {"source": "s", "licence": "l", "width": 30, "height": 20, "kind": "k", "text_px": 8.5, "split": split}
    return Record(f"s:{split}:{number}", data, image_id(data), f"question {number}", (str(number), "other"), **about)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training shards, the first of several row groups, and one for validation."""
    path = tmp_path_factory.mktemp("shards")
    many = 2 * ROWS_PER_GROUP + 5
    assert write_shard(path / "train-00000.parquet", map(record, range(many))) == many
    write_shard(path / "train-00001.parquet", map(record, range(many, many + 3)))
    write_shard(path / "validation-00000.parquet", (record(number, "validation") for number in range(4)))
    return path


def test_records_come_back_as_they_went(folder: Path):
    dataset = RecordDataset(folder)
    expected = [record(number) for number in range(2 * ROWS_PER_GROUP + 8)]
    assert [dataset[number] for number in range(len(dataset))] == expected
    assert dataset[ROWS_PER_GROUP] == expected[ROWS_PER_GROUP]
    with pytest.raises(IndexError, match="record 72 of 72"):
        dataset[len(dataset)]


def test_dataset_travels_to_workers(folder: Path):
    dataset = RecordDataset(folder, augment=True, seed=4)
    dataset.set_epoch(2)
    assert pickle.loads(pickle.dumps(dataset))[40] == dataset[40]


def test_order_follows_from_seed_and_epoch(folder: Path):
    train, held = build_loaders(folder, batch_size=10, seed=1)

    def order(epoch: int) -> list[str]:
        train.set_epoch(epoch)
        return [r.id for batch in train for r in batch]

    first, second = order(0), order(1)
    assert sorted(first) == sorted(second)
    assert len(set(first)) == len(first) == 72
    assert first != second
    assert order(0) == first
    assert [r.id for batch in held for r in batch] == [f"s:validation:{number}" for number in range(4)]


def test_workers_change_nothing(folder: Path):
    def content(num_workers: int) -> list[list[Record]]:
        return list(build_loaders(folder, 16, seed=2, augment=True, num_workers=num_workers)[0])

    assert content(2) == content(0)


def test_sampler_needs_no_global_random_state():
    import torch

    torch.manual_seed(1)
    first = list(ShuffleSampler(20, seed=3))
    torch.manual_seed(2)
    assert list(ShuffleSampler(20, seed=3)) == first != list(ShuffleSampler(20, seed=4))


def test_iterating_leaves_the_global_random_state_alone(folder: Path):
    import torch

    before = torch.get_rng_state()
    for loader in build_loaders(folder):
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)


def test_folder_without_validation(tmp_path: Path):
    write_shard(tmp_path / "train-00000.parquet", [record(0)])
    assert build_loaders(tmp_path)[1] is None


def test_augmentation_follows_from_seed_epoch_and_index():
    page = record(3)
    first = augment_record(page, seed=0, epoch=1, index=2)
    assert first == augment_record(page, seed=0, epoch=1, index=2)
    variants = [augment_record(page, *key) for key in ((1, 1, 2), (0, 2, 2), (0, 1, 3))]
    assert len({first.image_id, page.image_id, *(variant.image_id for variant in variants)}) == 5
    assert first.image_id == image_id(first.image)
    assert (first.question, first.answers, first.id) == (page.question, page.answers, page.id)


def test_augmentation_keeps_size_and_never_flips():
    image = Image.new("RGB", (120, 90), "white")
    ImageDraw.Draw(image).rectangle((10, 10, 40, 25), fill="black")  # dark at the top left only
    for seed in range(40):
        changed = open_image(augment_image(image, random.Random(seed)))
        assert changed.size == image.size
        grey = np.asarray(changed.convert("L"), dtype=float)
        dark = np.median(grey) - grey  # against the paper, whose brightness changes too
        top, left = dark[:45].sum() / dark.sum(), dark[:, :60].sum() / dark.sum()
        assert top > 0.6
        assert left > 0.6


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: folder / "gone", "no such folder"),
        (lambda folder: folder, r"no train-\*\.parquet"),
        (lambda folder: (folder / "train-00000.parquet").write_bytes(b"PAR1 not") and folder, "not a readable Parquet"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path: Path, spoil: Callable[[Path], Path], message: str):
    with pytest.raises(UserError, match=message):
        RecordDataset(spoil(tmp_path))


def test_damaged_row_group_is_named(folder: Path, tmp_path: Path):
    data = bytearray((folder / "train-00000.parquet").read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)  # the footer at the end is whole
    (tmp_path / "train-00000.parquet").write_bytes(data)
    with pytest.raises(UserError, match="damaged in row group 0"):
        RecordDataset(tmp_path)[0]


def test_broken_image_reaches_training_as_it_is(tmp_path: Path):
    """Training lists what it cannot open; a loader that raised would end the run."""
    broken = replace(record(0), image=b"no image")
    write_shard(tmp_path / "train-00000.parquet", [broken])
    assert RecordDataset(tmp_path, augment=True)[0] == broken


def test_parquet_of_another_make_names_the_missing_column(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "train-00000.parquet")
    with pytest.raises(UserError, match="column 'image' is missing"):
        ShardReader(tmp_path / "train-00000.parquet")


def test_wrong_arguments_are_named(folder: Path):
    with pytest.raises(UserError, match="split: 'test'; one of train, validation"):
        RecordDataset(folder, "test")
    with pytest.raises(UserError, match="batch_size: 0"):
        build_loaders(folder, 0)
