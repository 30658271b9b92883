"""What a resumed run shares with the run it goes on with: restored where nothing is given, refused where it differs."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from dataclasses import replace

import pytest
import torch

from shirg.errors import ItemError, UserError
from shirg.gate import GateConfig
from shirg.identity import OtherRunError
from shirg.lavida.settings import FIELDS
from shirg.training import SHIRGLoRATrainer
from shirg.training.checkpoints import STATE_FILE, stored_run
from shirg.training.config import EARLIER
from tests.tiny import tiny_model
from tests.training.helpers import (
    RESOLUTION,
    FakeRecord,
    Interrupting,
    fake_records,
    loader,
    losses_of,
    small_config,
    small_trainer,
    steps_of,
    validations_of,
)

SETTINGS = {"num_epochs": 2, "save_steps": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The trainer of a whole run of four steps, whose model sees otherwise than its checkpoint says."""
    model = tiny_model(shirg={"resolution": RESOLUTION})
    model.vision = replace(model.vision, resolution=168, fit="pad", gate=GateConfig.preset("ocr"), relevance="none")
    trainer = SHIRGLoRATrainer(small_config(tmp_path_factory.mktemp("run"), **SETTINGS), model)
    trainer.train(loader(fake_records(4)), loader(fake_records(2), shuffle=False))
    return trainer


@pytest.fixture
def half(whole, tmp_path):
    """A copy of its folder as it was after two steps."""
    folder = shutil.copytree(whole.folder, tmp_path / "half")
    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    return folder


def test_a_resumed_run_sees_as_the_run_did_before_anything_reads_it(whole, half):
    resumed = small_trainer(half, resume=True, **SETTINGS)
    resumed.train(loader(fake_records(4)), loader(fake_records(2), shuffle=False))
    assert losses_of(resumed) == losses_of(whole) and validations_of(resumed) == validations_of(whole)
    assert stored_run(half / "checkpoints" / "checkpoint-4") == stored_run(whole.checkpoints / "checkpoint-4")
    rows = [rows_of(trainer) for trainer in (whole, resumed) for rows_of in (steps_of, validations_of)]
    assert len({row["run"] for row in itertools.chain(*rows)}) == 1
    assert "144 before selection" in (half / "logs" / "training.log").read_text().split("from step 2")[0][-500:]
    stored = json.loads((half / "checkpoints" / "checkpoint-4" / "shirg_settings.json").read_text())
    assert (stored["resolution"], stored["fit"], stored["relevance"]) == (168, "pad", "none")


CHANGES = {
    "resolution": {"resolution": 224},
    "fit": {"fit": "stretch"},
    "gate.beta": {"gate": replace(GateConfig.preset("ocr"), beta=0.01)},
    "relevance": {"relevance": "llm"},
    "relevance_sign": {"relevance_sign": -1},
    "relevance_floor": {"relevance_floor": 0.5},
    "weights": lambda model: model.language.norm.weight.data.mul_(2),
    "dtype": lambda model: model.language.double(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_losses_depend_on_is_refused_by_name_where_it_differs(name, half):
    trainer = small_trainer(half, resume=True, **SETTINGS)
    change = CHANGES[name]
    if isinstance(change, dict):
        trainer.model.vision = replace(trainer.model.vision, **change)
    else:
        change(trainer.model)
    before = (half / "logs" / "metrics.jsonl").read_bytes()
    with pytest.raises(
        OtherRunError, match=f"resume: {name} is .*, but .*checkpoint-2 was made with .*; use that value"
    ):
        trainer.train(loader(fake_records(4)), loader(fake_records(2), shuffle=False))
    assert (half / "logs" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", [{"answers": ("8",)}, {"question": "What?"}, {"image_id": "page 9"}, {"id": "r9"}])
@pytest.mark.parametrize("name", ["training_data", "validation_data"])
def test_other_data_of_the_same_size_is_refused(name, change, half):
    records = {"training_data": fake_records(4), "validation_data": fake_records(2)}
    records[name][1] = replace(records[name][1], **change)
    trainer = small_trainer(half, resume=True, **SETTINGS)
    with pytest.raises(OtherRunError, match=f"resume: {name} is"):
        trainer.train(loader(records["training_data"]), loader(records["validation_data"], shuffle=False))


def test_a_folder_of_an_earlier_version_goes_on_and_says_what_it_lacks(whole, half, caplog):
    state = half / "checkpoints" / "checkpoint-2" / STATE_FILE
    content = json.loads(state.read_text())
    known = {*small_config(half).trajectory(), "batch_size", "records", "processes"}
    content["run"] = {name: value for name, value in content["run"].items() if name in known}
    state.write_text(json.dumps(content))
    with caplog.at_level("INFO", "shirg"):
        resumed = small_trainer(half, resume=True, **SETTINGS)
        resumed.train(loader(fake_records(4)), loader(fake_records(2), shuffle=False))
    assert losses_of(resumed) == losses_of(whole)
    (said,) = [line for line in caplog.messages if "is of an earlier version and lacks" in line]
    assert "training_data" in said and "weights" in said
    assert not [name for name in FIELDS if f" {name}," in said]  # those are the adapter's to tell
    content["run"] |= {"seed": 1}
    (half / "checkpoints" / "checkpoint-4").rename(half / "gone")
    state.write_text(json.dumps(content))
    with pytest.raises(OtherRunError, match="resume: seed is 0"):
        small_trainer(half, resume=True, **SETTINGS).train(loader(fake_records(4)))


def test_a_run_of_before_the_objectives_settings_keeps_its_objective(tmp_path):
    """However often it is resumed, and whatever this version's defaults are."""
    whole = small_trainer(tmp_path / "whole", save_steps=1, **EARLIER)
    whole.train(loader(fake_records(6)), loader(fake_records(2), shuffle=False))
    half = shutil.copytree(whole.folder, tmp_path / "half")
    for step in (2, 3):
        shutil.rmtree(half / "checkpoints" / f"checkpoint-{step}")
    state = half / "checkpoints" / "checkpoint-1" / STATE_FILE
    content = json.loads(state.read_text())
    content["run"] = {name: value for name, value in content["run"].items() if name not in EARLIER}
    content["state"] = {
        name: value for name, value in content["state"].items() if name not in ("start", "best_relative")
    }
    content["state"]["best_loss"] = validations_of(whole)[0]["mean"]
    state.write_text(json.dumps(content))
    for records in (Interrupting(fake_records(6), count=2), fake_records(6)):
        resumed = small_trainer(half, save_steps=1, resume=True)
        with pytest.raises(KeyboardInterrupt) if isinstance(records, Interrupting) else contextlib.nullcontext():
            resumed.train(loader(records), loader(fake_records(2), shuffle=False))
    assert losses_of(resumed) == losses_of(whole)
    last, expected = validations_of(resumed)[-1], validations_of(whole)[-1]
    assert last["losses"] == expected["losses"] and "relative" not in last
    assert not EARLIER.keys() & stored_run(half / "checkpoints" / "checkpoint-3").keys()
    assert "keeps its settings: padding_weight 1.0, answer_padding full" in (half / "logs/training.log").read_text()


def test_another_adapter_than_the_runs_is_refused(half):
    with pytest.raises(OtherRunError, match="resume: lora_rank is 8"):
        small_trainer(half, resume=True, **SETTINGS, lora_rank=8).train(loader(fake_records(4)))


def test_records_longer_than_the_model_are_dropped_and_listed(tmp_path):
    """With the larger budget the long question does not fit, with the smaller it would: it is dropped from both."""
    model = tiny_model(shirg={"resolution": RESOLUTION}, max_sequence_length=700)
    long = FakeRecord("long", "page 1", "long " * 60)
    length = len(model.prompt_ids(long.question)) - 1 + 6
    config = small_config(tmp_path, token_budgets=[8, 64], num_epochs=2)
    model.config.raw["max_sequence_length"] = length + 40
    results = SHIRGLoRATrainer(config, model).train(loader([*fake_records(3), long], batch_size=4))
    assert results["steps_per_ratio"] == {"8": 1, "64": 1}
    assert list(results["skipped_records"]) == ["long"]
    assert f"more than this model's {length + 40} positions; 25 fewer would fit" in results["skipped_records"]["long"]
    log = (tmp_path / "logs" / "training.log").read_text()
    assert "left out: 1 of the records, the first long:" in log
    clean = SHIRGLoRATrainer(
        replace(config, output_dir=str(tmp_path / "clean")), tiny_model(shirg={"resolution": RESOLUTION})
    )
    clean.train(loader(fake_records(3), batch_size=4, shuffle=False))
    assert losses_of(clean)[0] == pytest.approx(losses_of_folder(tmp_path)[0], rel=0.1)
    model.config.raw["max_sequence_length"] = length + 65
    fits = SHIRGLoRATrainer(replace(config, output_dir=str(tmp_path / "fits")), model)
    assert not fits.train(loader([long]))["skipped_records"]


def losses_of_folder(folder) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), TypeError("ours"), UserError("a run's")]
)
def test_only_an_items_error_drops_a_record(error, tmp_path, monkeypatch):
    trainer = small_trainer(tmp_path)

    def failing(*_):
        raise error

    monkeypatch.setattr(type(trainer.model.tower), "forward", failing)
    with pytest.raises((type(error), UserError)) as found:
        trainer.train(loader(fake_records(2)))
    assert not isinstance(found.value, ItemError)


def test_a_budget_is_measured_by_the_grid_that_the_run_uses(tmp_path):
    """More than the checkpoint's 64 tokens, fewer than the run's 256, and the forecast counts these."""
    model = tiny_model(shirg={"resolution": RESOLUTION})
    model.vision = replace(model.vision, resolution=224)
    SHIRGLoRATrainer(small_config(tmp_path, token_budgets=[200]), model).train(loader(fake_records(2)))
    assert "256 before selection" in (tmp_path / "logs" / "training.log").read_text()
    model.unload_adapter()
    with pytest.raises(UserError, match="token_budgets: 257 exceeds the 256 tokens of a 224-pixel image"):
        SHIRGLoRATrainer(small_config(tmp_path / "new", token_budgets=[257]), model)
    assert not (tmp_path / "new").exists()


def test_a_refused_training_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="train_loader"):
        small_trainer(tmp_path / "new").train([])
    assert not (tmp_path / "new").exists()
