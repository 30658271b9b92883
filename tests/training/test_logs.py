"""Where a run can be watched: log file, bar, trackers."""

from __future__ import annotations

import logging

import pytest

from shirg.errors import UserError
from shirg.training import checkpoints
from shirg.training.logs import (
    log_file,
    log_folder,
    progress_bar,
    size_text,
    step_text,
    step_values,
    time_text,
    validation_values,
)
from tests.training.helpers import fake_records, loader, small_config, small_trainer, steps_of

ENTRY = {
    "step": 3,
    "loss": 1.5,
    "budget": 8,
    "component": "8",
    "lr": 1e-4,
    "grad_norm": None,
    "tokens": 500,
    "seconds": 2.0,
}
ENTRY["memory"] = 3 * 10**9


def test_log_file_takes_what_the_package_says_and_only_then(tmp_path):
    package = logging.getLogger("shirg")
    before = (package.level, list(package.handlers))
    with log_file(tmp_path / "a.log"):
        logging.getLogger("shirg.training.test").info("inside")
    logging.getLogger("shirg.training.test").warning("outside")
    assert (package.level, package.handlers) == before
    assert (tmp_path / "a.log").read_text().count("inside") == 1
    assert "outside" not in (tmp_path / "a.log").read_text()


def test_the_bar_shows_loss_budget_rate_speed_memory(capsys):
    line = step_text({**ENTRY, "tokens": 24690, "budget": "pooled"})
    assert line == "loss 1.5000 budget pooled lr 1.0e-04 12,345 tok/s 3.0 GB"
    with progress_bar(shown=True) as bar:
        bar.update(bar.add_task("training", total=10, line=""), completed=3, line=line)
    captured = capsys.readouterr()
    assert f" 3/10 {line} -:--:--" in captured.err and not captured.out  # all of it in 80 columns


def test_sizes_and_durations_are_readable():
    assert [size_text(size) for size in (640e6, 12.34e9)] == ["640 MB", "12.3 GB"]
    assert [time_text(seconds) for seconds in (45, 720, 13000)] == ["45 s", "12 min", "3.6 h"]


def test_what_trackers_get():
    values = step_values(ENTRY)
    assert values["train/loss"] == values["loss_by_ratio/8"] == 1.5
    assert values["train/tokens_per_second"] == 250 and "train/grad_norm" not in values
    parts = {"answers": {"8": 1.0}, "padding": {"8": None}}
    assert validation_values({"step": 1, "losses": {"8": 2.0}, "mean": 2.0, **parts, "relative": 0.5}) == {
        "validation/8": 2.0,
        "validation/mean": 2.0,
        "validation_answers/8": 1.0,
        "validation/relative": 0.5,
    }


def test_trackers_that_are_not_there_are_refused_before_anything_runs(tmp_path):
    from accelerate.tracking import get_available_trackers

    with pytest.raises(UserError, match="trackers: 'mlflow' is unknown; choose from tensorboard, wandb, trackio"):
        small_config(tmp_path, trackers=["mlflow"])
    missing = {"tensorboard", "wandb", "trackio"} - {str(name) for name in get_available_trackers()}
    for name in missing:
        with pytest.raises(UserError, match=f"{name} is not installed; `pip install {name}`"):
            small_config(tmp_path, trackers=[name])


class Unplugged(list):
    """Records of which the `count`-th one read ends the run."""

    def __init__(self, records, count):
        super().__init__(records)
        self.count = count

    def __getitem__(self, index):
        self.count -= 1
        if self.count == 0:
            raise UserError("pulled the plug")
        return super().__getitem__(index)


def test_tensorboard_holds_every_step_once_over_a_resume(tmp_path):
    """The first session is a step ahead of its last checkpoint when it ends; they are logged again, and shown once."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    records = fake_records(8)
    first = small_trainer(tmp_path, trackers=["tensorboard"], save_steps=2, num_epochs=2)
    with pytest.raises(UserError, match="plug"):
        first.train(loader(Unplugged(records, count=7), shuffle=False), loader(records[:2]))
    assert checkpoints.find_latest(first.checkpoints).name == "checkpoint-2"
    second = small_trainer(tmp_path, trackers=["tensorboard"], save_steps=2, num_epochs=2, resume=True)
    second.train(loader(records, shuffle=False), loader(records[:2]))
    found = accumulator.EventAccumulator(str(log_folder(tmp_path) / "shirg")).Reload()
    steps = [event.step for event in found.Scalars("train/loss")]
    assert steps == list(range(1, 9))
    losses = {entry["step"]: entry["loss"] for entry in steps_of(second)}
    assert [event.value for event in found.Scalars("train/loss")] == pytest.approx([losses[step] for step in steps])
    assert found.Scalars("validation/mean")[0].step == 0
