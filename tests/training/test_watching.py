"""What people see of a run: first lines, the bar, and the trackers."""

from __future__ import annotations

import pytest

from shirg import precision
from shirg.errors import UserError
from shirg.training import effort
from shirg.training.progress import Progress, in_units, in_words
from shirg.training.report import step_line
from shirg.training.trackers import log_folder, step_values, validation_values
from tests.training.helpers import fake_records, loader, small_config, small_trainer

ENTRY = {"step": 3, "loss": 1.5, "budget": 8, "lr": 1e-4, "grad_norm": None, "tokens": 500, "seconds": 2.0}
ENTRY["memory"] = 3 * 10**9


def test_the_bar_shows_loss_rate_ratio_speed_memory(capsys):
    with Progress(10, 2, shown=True) as progress:
        progress.step({**ENTRY, "tokens": 24690, "budget": "pooled"})
        assert progress.bar.tasks[0].completed == 3
        line = progress.bar.tasks[0].fields["line"]
    assert line == "loss 1.5000 lr 1.0e-04 ratio pooled 12,345 tok/s 3.0 GB"
    captured = capsys.readouterr()
    assert f" 3/10 {line} -:--:--" in captured.err and not captured.out  # all of it in 80 columns


def test_sizes_and_durations_are_readable():
    assert [in_units(size) for size in (640e6, 12.34e9)] == ["640 MB", "12.3 GB"]
    assert [in_words(seconds) for seconds in (45, 720, 13000)] == ["45 s", "12 min", "3.6 h"]


def test_what_trackers_get():
    values = step_values(ENTRY)
    assert values["train/loss"] == values["loss_by_ratio/8"] == 1.5
    assert values["train/tokens_per_second"] == 250 and "train/grad_norm" not in values
    assert validation_values({"step": 1, "losses": {"8": 2.0}, "mean": 2.0}) == {
        "validation/8": 2.0,
        "validation/mean": 2.0,
    }


def test_trackers_that_are_not_there_are_refused_before_anything_runs(tmp_path):
    from accelerate.tracking import get_available_trackers

    with pytest.raises(UserError, match="trackers: 'mlflow' is unknown; choose from tensorboard, wandb, trackio"):
        small_config(tmp_path, trackers=["mlflow"])
    missing = {"tensorboard", "wandb", "trackio"} - {str(name) for name in get_available_trackers()}
    for name in missing:
        with pytest.raises(UserError, match=f"{name} is not installed; `pip install {name}`"):
            small_config(tmp_path, trackers=[name])


def test_tensorboard_holds_every_step_once_over_a_resume(tmp_path):
    """The first part is two steps ahead of its last checkpoint when it ends; they are logged again, and shown once."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    records = fake_records(8)
    first = small_trainer(tmp_path, trackers=["tensorboard"], save_steps=2, num_epochs=2)
    first._save_original, kept = first._save, []
    first._save = lambda: (first._save_original(), kept.append(first.state.step))
    real = first._step

    def stopping(batches):
        if first.state.step == 3:
            raise UserError("pulled the plug")
        real(batches)

    first._step = stopping
    with pytest.raises(UserError, match="plug"):
        first.train(loader(records), loader(records[:2]))
    assert kept == [2]
    second = small_trainer(tmp_path, trackers=["tensorboard"], save_steps=2, num_epochs=2, resume=True)
    second.train(loader(records), loader(records[:2]))
    found = accumulator.EventAccumulator(str(log_folder(tmp_path) / "shirg")).Reload()
    steps = [event.step for event in found.Scalars("train/loss")]
    assert steps == list(range(1, 9))
    losses = {entry["step"]: entry["loss"] for entry in second.metrics.read()}
    assert [event.value for event in found.Scalars("train/loss")] == pytest.approx([losses[step] for step in steps])
    assert found.Scalars("validation/mean")[0].step == 0


def test_the_log_says_how_long_is_left():
    assert step_line({**ENTRY, "step": 3}, 10, 360.0).endswith("lr 1.00e-04, 2.00 s, about 14 min left")


@pytest.mark.parametrize(("speed", "told"), [(1e15, False), (1e6, True)])
def test_an_absurd_forecast_is_told_before_the_first_step(speed, told, tmp_path, monkeypatch):
    monkeypatch.setattr(effort, "matmul_speed", lambda *_: speed)
    small_trainer(tmp_path).train(loader(fake_records(2)))
    log = (tmp_path / "logs" / "training.log").read_text(encoding="utf-8")
    assert ("times as long as docs/training.md says" in log.split("step 1")[0]) == told


def test_a_resumed_run_keeps_its_precision(tmp_path, monkeypatch):
    """Whatever "auto" would choose on the machine that goes on with it."""
    small_trainer(tmp_path, mixed_precision="bf16").train(loader(fake_records(2)))
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda: 0.1)
    again = small_trainer(tmp_path, mixed_precision="auto", resume=True)
    assert again.train(loader(fake_records(2)))["mixed_precision"] == "bf16"
