"""What a run says about itself."""

from __future__ import annotations

import pytest

from shirg.training import effort
from shirg.training.checkpoints import RunState
from shirg.training.report import best_text, step_line
from tests.training.helpers import fake_records, loader, small_trainer


@pytest.mark.parametrize(
    ("loss", "step", "says"),
    [
        (None, None, "no validation, the last adapter is kept"),
        (0.70616, 0, "best validation loss 0.7062 at step 0, before any training: it did not help"),
        (0.5, 20, "best validation loss 0.5000 at step 20"),
    ],
)
def test_the_kept_adapter_is_named(loss, step, says):
    assert best_text(RunState(best_loss=loss, best_step=step)) == says


def test_the_log_says_how_long_is_left():
    entry = {"step": 3, "loss": 1.5, "budget": "auto", "lr": 1e-4, "tokens": 500, "seconds": 2.0, "memory": 3 * 10**9}
    words = "step 3/10: loss 1.5000 budget auto lr 1.0e-04 250 tok/s 3.0 GB, about 14 min left"
    assert step_line(entry, 10, 360.0) == words


@pytest.mark.parametrize(("speed", "told"), [(1e15, False), (1e6, True)])
def test_an_absurd_forecast_is_told_before_the_first_step(speed, told, tmp_path, monkeypatch):
    monkeypatch.setattr(effort, "matmul_speed", lambda *_: speed)
    small_trainer(tmp_path).train(loader(fake_records(2)))
    log = (tmp_path / "logs" / "training.log").read_text(encoding="utf-8")
    assert ("times as long as docs/training.md states" in log.split("step 1")[0]) == told
