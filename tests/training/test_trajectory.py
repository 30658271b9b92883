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
import torch

from shirg.errors import UserError
from shirg.lavida import adapter
from shirg.process_group import part
from shirg.training import SHIRGLoRATrainer
from shirg.training.loss_model import Example, LossModel
from tests.forked import TORCHRUN, Ended, launched
from tests.tiny import name_a_token, tiny_model, tiny_page
from tests.training.helpers import (
    RESOLUTION,
    Interrupting,
    Records,
    fake_records,
    loader,
    losses_of,
    small_config,
    small_trainer,
)

ROOT = Path(__file__).resolve().parents[2]
STEPS = 2


def wide_trainer(folder, accumulation: int, **overrides) -> SHIRGLoRATrainer:
    """A trainer in float64 throughout, adapter included."""
    trainer = small_trainer(folder, gradient_accumulation_steps=accumulation, **overrides)
    trainer.model.double()
    return trainer


def trajectory(trainer, batch_size: int) -> dict[str, list]:
    """Losses, gradient norms and budgets of a run over two optimizer steps of eight records."""
    trainer.train(loader(fake_records(8 * STEPS), batch_size=batch_size, shuffle=False))
    assert len(trainer.metrics.read()) == STEPS
    return trajectory_of(trainer)


def trajectory_of(trainer) -> dict[str, list]:
    entries = trainer.metrics.read()
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


ACCELERATE = ("accelerate.commands.launch", "--config_file", str(ROOT / "configs" / "accelerate" / "multi_gpu.yaml"))


def make_runs(runs: dict[str, Path]) -> None:
    """What each of two processes does: name -> folder of each of its `RUNS`, in order."""
    for name, out in runs.items():
        found = RUNS[name](out)
        if os.environ["RANK"] == "0":
            (out / "trajectory.json").write_text(json.dumps(found))
    part()


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
    assert divided["validation"] == pytest.approx([entry["mean"] for entry in whole.validations.read()], abs=1e-9)
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
    shared, alone = (run.metrics.read()[0]["tokens"] for run in (runs[True], runs[False]))
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
    assert runs[0].state.tokens == runs[1].state.tokens


def test_shared_tokens_are_chosen_by_the_image_alone(tmp_path):
    """With relevance on, where the same question changes what is kept if nothing is shared."""
    model = small_trainer(tmp_path).model
    features, prompt = model.image_features(tiny_page(), "shirg"), model.prompt_ids("Which total?")
    question, nothing = model.question_ids(prompt), torch.zeros(6, dtype=torch.long)
    name_a_token(model, features, question[-2:], 5)
    example = Example("r", "page", features, prompt, question, nothing, nothing.bool())
    kept = {share: LossModel(model, "packed", share)._image(example, 16) for share in (True, False)}
    assert torch.equal(kept[True], model.image_embeds(features, "shirg", 16))
    assert torch.equal(kept[False], model.image_embeds(features, "shirg", 16, question))
    assert not torch.equal(kept[True], kept[False])


def divided_run(out: Path) -> dict[str, list]:
    """What one of two processes sees of a run whose body is divided; batches of one record, four of them a step."""
    trainer = wide_trainer(out, 4, shard_body=True)
    trainer.train(*broken_loaders(1))
    weights = list(trainer.model.language.layers.parameters())
    local = sum(weight.to_local().numel() for weight in weights) / sum(weight.numel() for weight in weights)
    validation = [entry["mean"] for entry in trainer.validations.read()]
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
