"""Losses of validation records: of answers and of padding, on a fixed part of the data, compared with those at the start."""

from __future__ import annotations

import pytest

from shirg.training.validation import relative_interval, relative_loss
from tests.training.helpers import fake_records, loader, small_trainer, validations_of


def test_the_training_loss_follows_from_answers_and_padding(tmp_path):
    """Three answers of two, two and three ids with the end of turn, of six positions."""
    trainer = small_trainer(tmp_path, padding_weight=0.25)
    trainer.train(loader(fake_records(2)), loader(fake_records(3), shuffle=False))
    for entry in validations_of(trainer):
        for name, loss in entry["losses"].items():
            expected = (7 * entry["answers"][name] + 0.25 * 11 * entry["padding"][name]) / (7 + 0.25 * 11)
            assert loss == pytest.approx(expected, rel=1e-9)


def test_a_validation_is_a_part_of_the_data_and_the_same_each_time(tmp_path):
    """Of batches of two it takes so many as hold three records, spread over the data."""
    trainer = small_trainer(tmp_path, validation_records=3, learning_rate=1e-9)
    trainer.train(loader(fake_records(4)), loader(fake_records(9), shuffle=False))
    entries = validations_of(trainer)
    assert {entry["records"] for entry in entries} == {4}
    assert entries[0]["answers"] == pytest.approx(entries[-1]["answers"], rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"validation_interval": 0.5}, [0, 2, 4]),
        ({"validation_interval": 0.05}, [0, 1, 2, 3, 4]),  # a step at least
        ({"validation_interval": "epoch", "num_epochs": 2}, [0, 4, 8]),
        ({"num_epochs": 3}, [0, 2, 4, 6, 8, 10, 12]),  # 0.2 * 24 records * 2.5 passes / (1 record * 2 components) = 6
        ({"num_epochs": 20}, list(range(0, 84, 4))),
        ({"validation_steps": 3}, [0, 3, 4]),
    ],
)
def test_when_there_is_a_validation(settings, steps, tmp_path):
    trainer = small_trainer(tmp_path, **settings)
    trainer.train(loader(fake_records(8)), loader(fake_records(1), shuffle=False))
    assert [entry["step"] for entry in validations_of(trainer)] == steps


def test_components_count_alike_whatever_the_size_of_their_losses():
    assert relative_loss({"a": 0.5, "pooled": 20.0}, {"a": 1.0, "pooled": 20.0}) == 0.75


def test_interval_by_hand():
    """All images halve their loss: no resample says otherwise; images that differ spread it."""
    start = {"a": {"x": 1.0, "y": 3.0, "z": 2.0}}
    halved = {"a": {image: loss / 2 for image, loss in start["a"].items()}}
    found = relative_interval(halved, start, seed=0)
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
    mixed = {"a": {"x": 0.5, "y": 4.5, "z": 2.0, "w": 9.0}}  # "w" was not there at the start
    found = relative_interval(mixed, start, seed=0)
    assert found.mean == pytest.approx(7 / 6) and (found.low, found.high) == (0.5, 1.5)
    assert relative_interval({"a": {"x": 1.0}}, {"a": {"x": 2.0}}, seed=0).low is None
