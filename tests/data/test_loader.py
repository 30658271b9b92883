"""From shards to batches: order, augmentation and what is refused."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shirg.data import EpochOrder, Record, RecordDataset, build_loaders
from shirg.data.images import encode_png
from shirg.data.records import image_id
from shirg.data.samples import VIEWS, Sample
from shirg.data.shards import ROWS_PER_GROUP, ShardReader, write_shard
from shirg.errors import UserError
from shirg.lavida.views import ViewShapes
from tests.forked import started

SHAPES = ViewShapes(resolution=112, tile=56, pinpoints=((112, 112), (56, 112)), fit="stretch")
"""Of a small model."""


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


def test_every_epoch_is_another_order_of_all_records(folder: Path):
    train, held = build_loaders(folder, batch_size=10, seed=1)
    order = EpochOrder(train, seed=1)
    first, second = ([r.id for batch in order.batches(epoch) for r in batch] for epoch in (0, 1))
    assert sorted(first) == sorted(second)
    assert len(set(first)) == len(first) == 72
    assert first != second
    assert [r.id for batch in order.batches(0) for r in batch] == first
    assert [r.id for batch in held for r in batch] == [f"s:validation:{number}" for number in range(4)]


@pytest.mark.parametrize("augment", [False, True])
def test_workers_change_nothing(folder: Path, augment: bool):
    def content(num_workers: int) -> list[list[Sample]]:
        train, _ = build_loaders(folder, 16, seed=2, augment=augment, num_workers=num_workers, shapes=SHAPES)
        return list(EpochOrder(train, seed=2).batches(1))

    alone, ahead = content(0), content(2)
    assert ahead == alone
    for mine, theirs in zip(sum(alone, []), sum(ahead, []), strict=True):
        assert theirs.made.keys() == set(VIEWS) and not mine.made  # made ahead by workers, else when asked for
        for name in VIEWS:
            assert torch.equal(mine.view(name), theirs.view(name))
            assert mine.view(name) is mine.view(name)


def test_views_are_those_that_the_model_makes(folder: Path):
    sample = RecordDataset(folder, shapes=SHAPES)[5]  # 30 x 20: two tiles and the base view
    assert (sample.view("large").shape, sample.view("tiles").shape) == ((1, 112, 112, 3), (3, 56, 56, 3))
    assert sample.view("large").dtype == torch.uint8
    assert (sample.view("large") == torch.tensor([5, 0, 0], dtype=torch.uint8)).all()
    plain = RecordDataset(folder)[5]
    assert (sample.id, sample.image, sample.image_id, sample.width) == (plain.id, plain.image, plain.image_id, 30)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 6), st.integers(0, 2), st.integers(1, 2))
def test_a_run_that_was_stopped_reads_on_where_it_was(folder: Path, stop: int, workers: int, processes: int):
    """An augmented epoch, stopped after any batch while workers were ahead, continued by a new loader without workers."""

    def order(num_workers: int) -> EpochOrder:
        train, _ = build_loaders(folder, 13, seed=3, augment=True, num_workers=num_workers)
        return EpochOrder(train, seed=3, rank=processes - 1, processes=processes)

    read = list(itertools.islice(order(workers).batches(1), stop))
    assert read + list(order(0).batches(1, skip=len(read))) == list(order(0).batches(1))


def test_workers_leave_ctrl_c_to_the_trainer(folder: Path):
    _, held = build_loaders(folder, 1, num_workers=2)
    read = iter(held)
    first = [next(read), next(read)]  # one of each worker: both are there
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    assert [*first, *read] == list(build_loaders(folder, 1)[1])


def read_for_ever(folder: Path) -> None:
    """Print the first record of every batch that two workers read."""
    train, _ = build_loaders(folder, 2, num_workers=2)
    while True:
        for batch in train:
            print(batch[0].id, flush=True)


def test_ctrl_c_ends_everything_and_says_it_once(folder: Path):
    ours, theirs = os.pipe()
    with open(ours, encoding="utf-8") as out, tempfile.TemporaryFile("w+") as err:
        run = started(read_for_ever, folder, stdout=theirs, stderr=err.fileno())
        os.close(theirs)
        for _ in range(2):  # one of each worker: both are there
            assert out.readline().startswith("s:train:")
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        run.join(20)
        err.seek(0)
        said = err.read()
    assert run.exitcode == 1
    assert said.count("Traceback") == 1 and said.rstrip().endswith("KeyboardInterrupt")
    until = time.monotonic() + 10
    while time.monotonic() < until and _group_lives(run.pid):
        time.sleep(0.05)
    assert not _group_lives(run.pid)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_iterating_leaves_the_global_random_state_alone(folder: Path):
    before = torch.get_rng_state()
    for loader in build_loaders(folder):
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)


def test_folder_without_validation(tmp_path: Path):
    write_shard(tmp_path / "train-00000.parquet", [record(0)])
    assert build_loaders(tmp_path)[1] is None


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
    for num_workers in (0, 1):
        (sample,) = next(iter(build_loaders(tmp_path, 1, num_workers=num_workers, shapes=SHAPES)[0]))
        with pytest.raises(UserError, match="image of record s:train:0"):
            sample.view("large")


def test_parquet_of_another_make_names_the_missing_column(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "train-00000.parquet")
    with pytest.raises(UserError, match="column 'image' is missing"):
        ShardReader(tmp_path / "train-00000.parquet")


def test_wrong_arguments_are_named(folder: Path):
    with pytest.raises(UserError, match="split: 'test'; one of train, validation"):
        RecordDataset(folder, "test")
    for wrong, message in (
        ({"batch_size": 0}, "batch_size: 0; at least 1"),
        ({"num_workers": -1}, "num_workers: -1; 0 or more"),
    ):
        with pytest.raises(UserError, match=message):
            build_loaders(folder, **wrong)
