"""What is decided before the first step: rates, processes, precision."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from shirg import precision
from shirg.errors import UserError
from shirg.training.plan import cosine_with_warmup
from tests.training.helpers import fake_records, loader, small_trainer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_rate_warms_up_from_above_zero_and_falls_to_zero():
    rates = [cosine_with_warmup(step, 100, 2.0, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(2 / 11)
    assert rates[10] == max(rates) == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0)
    assert cosine_with_warmup(0, 1, 2.0, 0.03) == pytest.approx(1.0)


def test_a_resumed_run_keeps_its_precision(tmp_path, monkeypatch):
    """Whatever "auto" would choose on the machine that goes on with it."""
    small_trainer(tmp_path, mixed_precision="bf16").train(loader(fake_records(2)))
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda: 0.1)
    again = small_trainer(tmp_path, mixed_precision="auto", resume=True)
    assert again.train(loader(fake_records(2)))["mixed_precision"] == "bf16"


def test_the_slurm_example_is_a_script_with_the_code_to_requeue_on():
    script = CONFIGS / "slurm" / "train.sbatch"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert "-eq 75 ]" in script.read_text() and "--signal=TERM@" in script.read_text()


def test_a_way_to_run_that_shards_what_is_trained_is_refused(tmp_path, monkeypatch):
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(UserError, match=r"FSDP shards the trained weights.*shard_body"):
        small_trainer(tmp_path).train(loader(fake_records(2)))
