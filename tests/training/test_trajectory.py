"""The same trajectory however the batch is cut: into micro-batches, over processes, or by images.

Several processes make one run after the other, since starting them takes longer than a run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from shirg.errors import UserError
from shirg.lavida import adapter
from shirg.process_group import shut_down_process_group
from shirg.training import SHIRGLoRATrainer
from tests.forked import TORCHRUN, Ended, launched
from tests.tiny import printed_page, tiny_model
from tests.training.helpers import (
    RESOLUTION,
    FakeRecord,
    Interrupting,
    Records,
    fake_records,
    loader,
    losses_of,
    small_config,
    small_trainer,
    steps_of,
    validations_of,
)

ROOT = Path(__file__).resolve().parents[2]
STEPS = 2


def wide_trainer(folder, accumulation: int, **overrides) -> SHIRGLoRATrainer:
    """A trainer in float64 throughout, adapter included."""
    settings = {"gradient_accumulation_steps": accumulation, "max_answer_tokens": 12, **overrides}
    trainer = small_trainer(folder, **settings)
    trainer.model.double()
    return trainer


def trajectory(trainer, batch_size: int) -> dict[str, list]:
    """Losses, gradient norms and budgets of a run over two optimizer steps of eight records."""
    trainer.train(loader(fake_records(8 * STEPS), batch_size=batch_size, shuffle=False))
    assert len(steps_of(trainer)) == STEPS
    return trajectory_of(trainer)


def trajectory_of(trainer) -> dict[str, list]:
    entries = steps_of(trainer)
    return {name: [entry[name] for entry in entries] for name in ("loss", "grad_norm", "budget")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, list]:
    return trajectory(wide_trainer(tmp_path_factory.mktemp("whole"), 1), 8)


def check_equal(found: dict[str, list], whole: dict[str, list], within: float = 1e-9) -> None:
    assert found["budget"] == whole["budget"]
    for name in ("loss", "grad_norm"):
        assert found[name] == pytest.approx(whole[name], abs=within), name


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 2), (2, 4)])
def test_micro_batches_do_not_change_the_trajectory(tmp_path, whole, batch_size, accumulation):
    check_equal(trajectory(wide_trainer(tmp_path, accumulation), batch_size), whole)


class Printed(FakeRecord):
    """A record whose page has more print the higher its image's number: `auto` keeps another number of tokens of each."""

    def open_image(self):
        return printed_page(lines=6 * int(self.image_id.removeprefix("page ")) + 2)


def test_micro_batches_of_unequal_budgets_do_not_change_the_trajectory(tmp_path):
    """A step of each component, four records at once and two at a time, whose rows of unequal length are padded."""
    records, found = [Printed(**vars(record)) for record in fake_records(4)], {}
    for accumulation in (1, 2):
        model = tiny_model(shirg={"resolution": 336})
        settings = {"token_budgets": ["auto", 8], "num_epochs": 2, "gradient_accumulation_steps": accumulation}
        trainer = SHIRGLoRATrainer(small_config(tmp_path / str(accumulation), **settings), model)
        model.double()
        results = trainer.train(
            loader(records, batch_size=4 // accumulation, shuffle=False), loader(records[:3], shuffle=False)
        )
        found[accumulation] = trajectory_of(trainer)
    check_equal(found[2], found[1])
    assert results["steps_per_ratio"] == {"auto": 1, "8": 1}
    assert results["validation_after"]["losses"].keys() == {"auto", "8"}
    assert sorted(map(str, found[1]["budget"])) == ["8", "auto"]
    log = (trainer.folder / "logs" / "training.log").read_text()
    assert "auto -> at most 1025" in log and "auto counts as its upper bound 1024" in log
    settings = json.loads((trainer.checkpoints / "best_model" / "shirg_settings.json").read_text())
    assert settings["token_budgets"] == ["auto", 8] and settings["validation_loss"].keys() == {"auto", "8"}


ACCELERATE = ("accelerate.commands.launch", "--config_file", str(ROOT / "configs" / "accelerate" / "multi_gpu.yaml"))


def make_runs(runs: dict[str, Path]) -> None:
    """What each of two processes does: name -> folder of each of its `RUNS`, in order."""
    for name, out in runs.items():
        found = RUNS[name](out)
        if os.environ["RANK"] == "0":
            (out / "trajectory.json").write_text(json.dumps(found))
    shut_down_process_group()


@pytest.fixture(scope="module")
def accelerated(tmp_path_factory) -> tuple[Path, Ended]:
    """Folder and end of two processes under accelerate's launcher, which a SIGTERM stops in their second run."""
    folder = tmp_path_factory.mktemp("accelerate")
    runs = {name: folder / name for name in ("whole", "stopped")}
    return folder, launched((*ACCELERATE, "--num_processes", "2"), make_runs, runs)


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory, accelerated) -> Path:
    """Folder of two processes under torchrun; the last of their runs goes on in a copy of the folder of the stopped one."""
    folder = tmp_path_factory.mktemp("torchrun")
    shutil.copytree(accelerated[0] / "stopped", folder / "resumed")
    run = launched(TORCHRUN, make_runs, {name: folder / name for name in ("whole", "divided", "resumed")})
    assert run.code == 0, run.err[-3000:]
    return folder


def written(folder: Path) -> dict[str, list]:
    """What the first process wrote of a run."""
    return json.loads((folder / "trajectory.json").read_text())


def check_whole(folder: Path, whole: dict[str, list]) -> None:
    check_equal(written(folder), whole)
    assert "x 2 processes = 8 per optimizer step" in (folder / "logs" / "training.log").read_text()


def test_two_processes_of_accelerate_do_not_change_the_trajectory(accelerated, whole):
    folder, run = accelerated
    assert (folder / "whole" / "trajectory.json").exists(), run.err[-3000:]
    check_whole(folder / "whole", whole)


def test_two_processes_of_torchrun_do_not_change_the_trajectory(torchrun, whole):
    check_whole(torchrun / "whole", whole)


def test_a_divided_body_does_not_change_the_trajectory(tmp_path, torchrun):
    """Two processes with half of every block each; the second has a broken record alone in its first micro-batch, and an
    empty share of the validation records."""
    whole = wide_trainer(tmp_path, 4)
    whole.train(*broken_loaders(2))
    divided = written(torchrun / "divided")
    check_equal(divided, trajectory_of(whole))
    assert divided["validation"] == pytest.approx([entry["mean"] for entry in validations_of(whole)], abs=1e-9)
    assert divided["local"] == 0.5


def broken_loaders(batch_size: int):
    """Eight records, two of which cannot be opened, and two to validate on."""
    records = fake_records(8)
    for record in (records[1], records[5]):
        record.broken, record.image_id = True, f"lost {record.id}"  # an image of its own, which no cache knows
    return loader(records, batch_size=batch_size, shuffle=False), loader(fake_records(2), batch_size=2, shuffle=False)


def test_nobody_to_share_with(tmp_path):
    with pytest.raises(UserError, match="shard_body: there is one process"):
        small_trainer(tmp_path, shard_body=True).train(loader(fake_records(2)))


def sharing_trainer(folder, share_prefix: bool) -> SHIRGLoRATrainer:
    model = tiny_model(shirg={"resolution": RESOLUTION, "relevance": "none"})
    return SHIRGLoRATrainer(small_config(folder, share_prefix=share_prefix), model)


def test_questions_of_one_image_share_its_tokens(tmp_path):
    records = Records(fake_records(8, images=2))
    runs = {share: sharing_trainer(tmp_path / str(share), share) for share in (True, False)}
    for run in runs.values():
        run.train(loader(records, batch_size=4))
    shared, alone = (steps_of(run)[0]["tokens"] for run in (runs[True], runs[False]))
    assert shared < 0.5 * alone
    assert all(value.abs().sum() > 0 for value in adapter.lora_parameters(runs[True].model).values())


def test_one_question_per_image_shares_nothing_but_its_own_mask(tmp_path):
    """Sharing among one: image and question are then two blocks, which changes the loss, but not what it is of."""
    records = Records(fake_records(4, images=4))
    runs = [sharing_trainer(tmp_path / str(share), share) for share in (True, False)]
    for run in runs:
        run.train(loader(records, shuffle=False, batch_size=4))
    assert losses_of(runs[0])[0] == pytest.approx(losses_of(runs[1])[0], rel=0.2)
    assert losses_of(runs[0]) != losses_of(runs[1])
    assert steps_of(runs[0])[0]["tokens"] == steps_of(runs[1])[0]["tokens"]


def divided_run(out: Path) -> dict[str, list]:
    """What one of two processes sees of a run whose body is divided; batches of one record, four of them a step."""
    trainer = wide_trainer(out, 4, shard_body=True)
    trainer.train(*broken_loaders(1))
    weights = list(trainer.model.language.layers.parameters())
    local = sum(weight.to_local().numel() for weight in weights) / sum(weight.numel() for weight in weights)
    validation = [entry["mean"] for entry in validations_of(trainer)]
    return {**trajectory_of(trainer), "validation": validation, "local": local}


def test_a_divided_run_that_was_stopped_goes_on(tmp_path, accelerated, torchrun):
    """SIGTERM to one of two processes: both save, leave and go on with the losses of one process that nothing stopped.

    In float32, in which adapters are saved."""
    folder, run = accelerated
    assert run.code != 0
    assert (folder / "stopped" / "checkpoints" / "checkpoint-1").is_dir()
    assert not (folder / "stopped" / "trajectory.json").exists()
    whole = small_trainer(tmp_path)
    whole.train(loader(fake_records(8), batch_size=4))
    check_equal(written(torchrun / "resumed"), trajectory_of(whole), within=1e-5)


def run_with_a_stop(out: Path, resume: bool) -> dict[str, list]:
    """Two processes, two steps of four records in random order; the first process gets a SIGTERM in its first step."""
    trainer = small_trainer(out, gradient_accumulation_steps=2, shard_body=True, resume=resume)
    records = fake_records(8)
    if os.environ["RANK"] == "0" and not resume:
        records = Interrupting(records, count=2, number=signal.SIGTERM)
    trainer.train(loader(records, batch_size=1))
    return trajectory_of(trainer)


RUNS = {
    "whole": lambda out: trajectory(wide_trainer(out, 1), 4),
    "divided": divided_run,
    "stopped": lambda out: run_with_a_stop(out, resume=False),
    "resumed": lambda out: run_with_a_stop(out, resume=True),
}
