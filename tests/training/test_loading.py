"""Training from a prepared folder: workers and ready-made views change no loss, stopping neither."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch

from shirg.data import Record, RecordDataset, build_loaders
from shirg.data.images import encode_png
from shirg.data.records import image_id
from shirg.data.shards import write_shard
from shirg.lavida.views import ViewShapes
from shirg.training.examples import FeatureCache
from tests.tiny import tiny_model, tiny_page
from tests.training.helpers import RESOLUTION, losses_of, small_trainer, validations_of


def record(number: int, split: str) -> Record:
    data = encode_png(tiny_page(text=f"{split} {number // 2}"))  # two questions about every page
    about = {"source": "s", "licence": "l", "width": 300, "height": 200, "split": split}
    return Record(f"s:{split}:{number}", data, image_id(data), "Total?", (str(number),), **about)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards")
    for split, count in (("train", 8), ("validation", 2)):
        write_shard(path / f"{split}-00000.parquet", [record(number, split) for number in range(count)])
    return path


@pytest.fixture(scope="module")
def shapes() -> ViewShapes:
    return tiny_model(shirg={"resolution": RESOLUTION}).view_shapes()


def test_ready_made_views_give_the_features_of_the_image(folder: Path, shapes: ViewShapes):
    model = tiny_model(shirg={"resolution": RESOLUTION})
    sample = RecordDataset(folder, shapes=shapes)[0]
    for path in ("shirg", "hd"):
        ready, fresh = FeatureCache(model, 0).get(sample, path), model.image_features(sample.open_image(), path)
        assert torch.equal(ready.tokens, fresh.tokens) and torch.equal(ready.pixels, fresh.pixels)
        assert (ready.views, ready.grid, ready.image_size) == (fresh.views, fresh.grid, fresh.image_size)
    other = tiny_model(shirg={"resolution": 2 * RESOLUTION})  # views of another model's shapes are made anew
    assert FeatureCache(other, 0).get(sample, "shirg").pixels.shape[-1] == 2 * RESOLUTION


def test_augmented_images_are_not_remembered(folder: Path, shapes: ViewShapes):
    cache = FeatureCache(tiny_model(shirg={"resolution": RESOLUTION}), 2**30)
    for augment, kept in ((True, 0), (False, 1)):
        cache.get(RecordDataset(folder, shapes=shapes, augment=augment)[0], "shirg")
        assert (cache.nbytes > 0) == kept


def losses(folder: Path, where: Path, **how: object) -> tuple[list[float], list[dict]]:
    trainer = small_trainer(where, num_epochs=2, include_pooled=True)
    trainer.train(*build_loaders(folder, 3, **how))
    return losses_of(trainer), validations_of(trainer)


def test_workers_and_views_change_no_loss(folder: Path, shapes: ViewShapes, tmp_path: Path):
    plain = losses(folder, tmp_path / "plain")
    assert losses(folder, tmp_path / "ahead", shapes=shapes, num_workers=2) == plain
    augmented = losses(folder, tmp_path / "augmented", shapes=shapes, augment=True)
    assert losses(folder, tmp_path / "both", shapes=shapes, augment=True, num_workers=2) == augmented != plain


class Interrupting(RecordDataset):
    """Presses Ctrl-C, as a terminal does in every process, while a worker reads ahead."""

    def __getitem__(self, index: int) -> Record:
        if self.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getppid(), signal.SIGINT)
        return super().__getitem__(index)


def test_ctrl_c_while_workers_read_ahead_is_resumed_exactly(folder: Path, shapes: ViewShapes, tmp_path: Path):
    how = {"shapes": shapes, "augment": True, "num_workers": 1}
    settings = {"num_epochs": 2, "include_pooled": True}
    whole = small_trainer(tmp_path / "whole", **settings)
    whole.train(build_loaders(folder, 1, **how)[0])
    stopped = small_trainer(tmp_path / "stopped", **settings)
    loader, _ = build_loaders(folder, 1, **how)
    loader.dataset.__class__ = Interrupting
    signals = []
    before = signal.signal(signal.SIGINT, lambda *_: signals.append(1))  # what a second Ctrl-C would meet
    try:
        with pytest.raises(KeyboardInterrupt):
            stopped.train(loader)
    finally:
        signal.signal(signal.SIGINT, before)
    assert 8 < len(losses_of(stopped)) < 16
    resumed = small_trainer(tmp_path / "stopped", resume=True, **settings)
    resumed.train(build_loaders(folder, 1, **how)[0])
    assert losses_of(resumed) == losses_of(whole)


def test_a_folder_is_known_by_its_content(folder: Path, tmp_path: Path):
    """The same records in other files are the same data; another answer, or augmentation, is not."""
    same, other = tmp_path / "same", tmp_path / "other"
    for place, answer in ((same, "7"), (other, "8")):
        place.mkdir()
        records = [record(number, "train") for number in range(8)]
        records[7] = dataclasses.replace(records[7], answers=(answer,))
        for number in (0, 1):
            write_shard(place / f"train-{number:05d}.parquet", records[4 * number : 4 * number + 4])
    known = RecordDataset(folder).fingerprint()
    assert RecordDataset(same).fingerprint() == known != RecordDataset(other).fingerprint()
    changed = {RecordDataset(folder, augment=True, seed=seed).fingerprint() for seed in (0, 1)}
    assert len(changed | {known}) == 3
