"""A run: the same twice, the same when resumed or split otherwise, and honest about what went wrong."""

from __future__ import annotations

import json
import os
import signal
import statistics

import pytest
import torch

from shirg.errors import UserError
from shirg.lavida import adapter
from shirg.precision import choose_precision
from shirg.training import SHIRGLoRATrainer, checkpoints
from shirg.training.loss_model import LossModel
from shirg.training.trainer import Session
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

STEP_KEYS = {"run", "step", "loss", "budget", "component", "lr", "grad_norm", "tokens", "seconds", "memory", "cached"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole run of two epochs with validation, shared by the tests that only look at it."""
    trainer = small_trainer(tmp_path_factory.mktemp("run"), num_epochs=2, save_steps=2, lora_dropout=0.1)
    results = trainer.train(loader(fake_records(8)), loader(fake_records(3), shuffle=False))
    return trainer, results


def test_a_run_learns_and_leaves_what_it_promises(finished):
    trainer, results = finished
    assert results["steps"] == results["updates"] == 8
    assert results["steps_per_ratio"] == {"8": 4, "16": 4}
    assert results["validation_after"]["mean"] < results["validation_before"]["mean"]
    validations = validations_of(trainer)
    best = min(validations, key=lambda entry: entry["relative"])
    assert (results["best_step"], results["best_validation"]) == (best["step"], best)
    assert results["best_validation_loss"] == statistics.fmean(best["answers"].values())
    for entry in validations:
        ratios = [loss / validations[0]["answers"][name] for name, loss in entry["answers"].items()]
        assert entry["relative"] == pytest.approx(statistics.fmean(ratios), abs=1e-12)
        assert entry["step"] == 0 or entry["low"] < entry["relative"] < entry["high"]
    assert results["parameters"]["projector"]["trainable"] == 4 * (16 + 32) + 4 * (32 + 32)
    assert results["parameters"]["vision"]["trainable"] == results["parameters"]["language"]["trainable"] == 0
    for entry in steps_of(trainer):
        assert entry.keys() == STEP_KEYS
    watched = {check["name"]: check["passed"] for check in results["watched"]}
    assert watched["budgets drawn as configured"] and watched["gradients reach all LoRA tensors"]
    assert watched["training loss falls"] is watched["memory stays"] is None  # eight steps tell nothing
    log = (trainer.folder / "logs" / "training.log").read_text()
    assert "expected: computed peak of a training step" in log
    assert "projector trainable" in log and "64 before selection" in log and "step 8: validation loss" in log
    assert json.loads((trainer.folder / "logs" / "training_results.json").read_text()) == results


def test_checkpoints_are_adapters_and_old_ones_go(finished):
    trainer, results = finished
    names = sorted(path.name for path in trainer.checkpoints.iterdir())
    assert names == ["best_model", "checkpoint-4", "checkpoint-6", "checkpoint-8"]
    fresh = tiny_model(shirg={"resolution": RESOLUTION})
    fresh.load_adapter(trainer.checkpoints / "checkpoint-8")
    for name, value in adapter.lora_parameters(trainer.model).items():
        assert torch.equal(adapter.lora_parameters(fresh)[name], value)
    settings = json.loads((trainer.checkpoints / "best_model" / "shirg_settings.json").read_text())
    assert settings["token_budgets"] == [8, 16]
    assert settings["training"]["step"] == results["best_step"]
    assert settings["trained"] is True and settings["validation_loss"].keys() == {"8", "16"}
    assert settings["validation_loss_relative_to_start"]["relative"] < 1


def test_the_same_run_twice_gives_the_same_losses(finished, tmp_path):
    trainer, results = finished
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = small_trainer(tmp_path, num_epochs=2, lora_dropout=0.1, feature_cache_mb=0)
    other = again.train(loader(fake_records(8)), loader(fake_records(3), shuffle=False))
    assert losses_of(again) == losses_of(trainer)
    assert other["validation_after"] == results["validation_after"]
    assert other["feature_cache"]["hits"] == 0 < results["feature_cache"]["hits"]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_early_is_trained_beside_shirg(tmp_path, family):
    trainer = small_trainer(tmp_path, family=family, token_budgets=[8], include_early=True, num_epochs=2)
    results = trainer.train(loader(fake_records(4)), loader(fake_records(2), shuffle=False))
    assert results["steps_per_ratio"] == {"8": 2, "early-8": 2}
    assert {entry["component"] for entry in steps_of(trainer)} == {"8", "early-8"}
    start, end = (entry["answers"] for entry in (results["validation_before"], results["validation_after"]))
    assert start.keys() == end.keys() == {"8", "early-8"} and start["8"] != start["early-8"]
    assert end["early-8"] < start["early-8"]
    settings = json.loads((trainer.checkpoints / "best_model" / "shirg_settings.json").read_text())
    assert settings["include_early"] is True


def test_ctrl_c_saves_and_resume_gives_the_losses_of_the_whole_run(finished, tmp_path):
    trainer, results = finished
    validation = loader(fake_records(3), shuffle=False)
    settings = {"num_epochs": 2, "lora_dropout": 0.1}
    stopped = small_trainer(tmp_path, **settings)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(loader(Interrupting(fake_records(8), count=11)), validation)
    assert signal.getsignal(signal.SIGINT) is handler
    assert checkpoints.find_latest(stopped.checkpoints).name == "checkpoint-6"
    half = stopped.checkpoints / "checkpoint-7"  # as a crash of another program might leave one
    half.mkdir()
    (half / "adapter_config.json").write_text("{}")
    with open(tmp_path / "logs" / "metrics.jsonl", "a") as handle:
        handle.write('{"step": 7, "loss": 0.0}\n{"step": 8, "lo')
    resumed = small_trainer(tmp_path, resume=True, **settings)
    other = resumed.train(loader(fake_records(8)), validation)
    assert losses_of(resumed) == losses_of(trainer)
    assert validations_of(resumed) == validations_of(trainer)
    assert other["steps_per_ratio"] == results["steps_per_ratio"]
    for name, value in adapter.lora_parameters(trainer.model).items():
        assert torch.equal(adapter.lora_parameters(resumed.model)[name], value)


def test_ctrl_c_while_the_last_files_are_written_is_not_lost(tmp_path, monkeypatch):
    finish = Session.finish

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGINT)
        return finish(self)

    monkeypatch.setattr(Session, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small_trainer(tmp_path).train(loader(fake_records(2)))
    assert (tmp_path / "logs" / "training_results.json").is_file()


def test_sigterm_saves_and_leaves_with_the_code_to_requeue_on(tmp_path):
    trainer = small_trainer(tmp_path)
    with pytest.raises(SystemExit) as left:
        trainer.train(loader(Interrupting(fake_records(8), count=3, number=signal.SIGTERM)))
    assert left.value.code == 75
    assert checkpoints.find_latest(trainer.checkpoints).name == "checkpoint-2"


def test_resume_where_there_is_nothing_begins_anew_and_says_so(tmp_path, caplog):
    small_trainer(tmp_path, resume=True).train(loader(fake_records(2)))
    assert f"no checkpoint in {tmp_path / 'checkpoints'} to resume from: starting over" in caplog.text


def test_resume_refuses_another_run(finished, tmp_path):
    trainer, _ = finished
    for overrides, count, message in (
        ({"learning_rate": 1e-3}, 8, "learning_rate is 0.001"),
        ({}, 6, "records is 6"),
    ):
        other = small_trainer(trainer.folder, **{"num_epochs": 2, "lora_dropout": 0.1, "resume": True, **overrides})
        with pytest.raises(UserError, match=message):
            other.train(loader(fake_records(count)))


def test_starting_anew_sets_the_old_run_aside(tmp_path):
    for _ in range(3):
        small_trainer(tmp_path).train(loader(fake_records(2)))
    assert (tmp_path / "checkpoints.old-2" / "checkpoint-1").is_dir()
    assert (tmp_path / "checkpoints" / "best_model" / "adapter_config.json").is_file()
    assert len((tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()) == 1


def test_split_of_the_batch_does_not_matter(tmp_path):
    """Eight records at once equal four micro-batches of two: the loss is a mean over targets, whatever holds them."""
    whole = small_trainer(tmp_path / "whole")
    whole.train(loader(fake_records(8), batch_size=8, shuffle=False))
    split = small_trainer(tmp_path / "split", gradient_accumulation_steps=4)
    split.train(loader(fake_records(8), batch_size=2, shuffle=False))
    assert losses_of(split) == pytest.approx(losses_of(whole), abs=1e-5)
    norms = [entry["grad_norm"] for trainer in (whole, split) for entry in steps_of(trainer)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_packed_and_prefix_runs_agree_and_packed_is_shorter(tmp_path):
    runs = {}
    for objective in ("packed", "prefix"):
        runs[objective] = small_trainer(tmp_path / objective, objective=objective)
        runs[objective].train(loader(fake_records(4)))
    assert losses_of(runs["packed"]) == pytest.approx(losses_of(runs["prefix"]), abs=1e-4)
    tokens = {name: sum(entry["tokens"] for entry in steps_of(run)) for name, run in runs.items()}
    assert tokens["packed"] < 0.6 * tokens["prefix"]


def test_loss_scale_does_not_depend_on_the_budget(tmp_path):
    """With a rate of nearly zero the model stays as it is; what a component costs must not grow with its tokens."""
    trainer = small_trainer(tmp_path, num_epochs=4, token_budgets=[2, 60], learning_rate=1e-9)
    trainer.train(loader([FakeRecord("a", "one"), FakeRecord("b", "two")], shuffle=False))
    losses = {entry["budget"]: entry["loss"] for entry in steps_of(trainer)}
    assert losses[2] == pytest.approx(losses[60], rel=0.2)


def test_the_loss_is_the_weighted_mean_of_answers_and_padding(tmp_path):
    """With the same noise, weights 0 and 1 give the losses of answers and padding, from which those of other weights follow."""

    def first_loss(weight: float) -> float:
        trainer = small_trainer(tmp_path / str(weight), padding_weight=weight, answer_padding="full")
        trainer.train(loader(records, batch_size=2, shuffle=False))
        return losses_of(trainer)[0]

    records = [FakeRecord("a", "one", answers=("1",)), FakeRecord("b", "two", answers=("123",))]
    answers, pads = 2 + 4, 4 + 2  # ids with the end of turn; the rest of six
    of_answers = answers * first_loss(0.0)
    of_padding = (answers + pads) * first_loss(1.0) - of_answers
    for weight in (0.1, 0.5):
        expected = (of_answers + weight * of_padding) / (answers + weight * pads)
        assert first_loss(weight) == pytest.approx(expected, rel=1e-5)


def test_budgets_from_a_range_small_large_and_random_in_one_step(tmp_path):
    settings = {"ratio_sampling": "continuous", "budget_range": (4, 60), "gradient_accumulation_steps": 3}
    trainer = small_trainer(tmp_path, token_budgets=[8, 16], include_pooled=True, num_epochs=3, **settings)
    results = trainer.train(loader(fake_records(6)), loader(fake_records(2), shuffle=False))
    assert results["steps_per_ratio"] == {"4-60": 2, "pooled": 1}
    for entry in steps_of(trainer):
        if entry["component"] == "4-60":
            assert {4, 60} < set(entry["budget"]) and len(entry["budget"]) == 3
        else:
            assert entry["budget"] == entry["component"] == "pooled"
    assert results["validation_after"]["answers"].keys() == {"8", "16", "pooled"}
    assert "drawn continuously from 4 to 60" in (tmp_path / "logs" / "training.log").read_text()
    with pytest.raises(UserError, match="budget_range: 65 exceeds the 64 tokens"):
        small_trainer(tmp_path / "large", **{**settings, "budget_range": (4, 65)})


@pytest.mark.parametrize("times", ["logit_normal", "mode"])
def test_other_noise_in_training_the_same_in_validation(times, tmp_path):
    runs = {}
    for name in ("uniform", times):
        runs[name] = small_trainer(tmp_path / name, noise_times=name, learning_rate=1e-9)
        runs[name].train(loader(fake_records(2), shuffle=False), loader(fake_records(2), shuffle=False))
    first, second = runs.values()
    assert losses_of(first) != losses_of(second)
    assert validations_of(first)[0]["answers"] == validations_of(second)[0]["answers"]


def test_an_adapter_that_no_step_improved_is_called_untrained(tmp_path):
    trainer = small_trainer(tmp_path, save_steps=1)
    for parameter in adapter.lora_parameters(trainer.model).values():
        parameter.register_hook(torch.neg)  # up the loss
    results = trainer.train(loader(fake_records(4)), loader(fake_records(3), shuffle=False))
    best = trainer.checkpoints / "best_model"
    assert results["best_step"] == 0 and results["best_validation"]["relative"] == 1
    assert json.loads((best / "shirg_settings.json").read_text())["trained"] is False
    assert "**Not trained**" in (best / "README.md").read_text()
    assert json.loads((trainer.checkpoints / "checkpoint-2" / "shirg_settings.json").read_text())["trained"] is True


@pytest.mark.parametrize("bad", [{"broken": True}, {"question": "  "}])
def test_broken_images_and_empty_questions_are_skipped_counted_and_listed(tmp_path, bad):
    records = [*fake_records(3), FakeRecord("bad", "bad page", **bad)]
    trainer = small_trainer(tmp_path, num_epochs=2)
    results = trainer.train(loader(records, batch_size=4))
    assert list(results["skipped_records"]) == ["bad"]
    assert results["steps"] == 2
    clean = small_trainer(tmp_path / "clean")
    clean.train(loader(records[:3], batch_size=4, shuffle=False))
    assert losses_of(trainer)[0] == pytest.approx(losses_of(clean)[0], rel=0.1)  # a mean over what is there
    assert "record bad is skipped" in (tmp_path / "logs" / "training.log").read_text()


def test_a_step_without_any_readable_image_changes_nothing(tmp_path):
    trainer = small_trainer(tmp_path)
    results = trainer.train(loader([FakeRecord("bad", "bad page", broken=True)]))
    assert (results["steps"], results["updates"]) == (1, 0)
    assert losses_of(trainer) == [None]


def test_a_loss_that_is_not_finite_names_the_records_and_keeps_checkpoints(tmp_path, monkeypatch):
    original = LossModel._image

    def poisoned(self, example, component):
        return original(self, example, component) * (float("nan") if example.record_id == "r3" else 1)

    monkeypatch.setattr(LossModel, "_image", poisoned)
    trainer = small_trainer(tmp_path, save_steps=1)
    with pytest.raises(UserError, match=r"not finite after 1 steps \(budget \d+\) for record\(s\) r3;"):
        trainer.train(loader(fake_records(4), shuffle=False))
    assert checkpoints.find_latest(tmp_path / "checkpoints").name == "checkpoint-1"
    saved = json.loads((tmp_path / "logs" / "not_finite_0.json").read_text())
    assert (saved["what"], saved["after_steps"], saved["not_finite"]) == ("loss", 1, ["r3"])
    assert [entry["record"] for entry in saved["batch"]] == ["r2", "r3"]


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path):
    trainer = small_trainer(tmp_path, gradient_accumulation_steps=2)
    lora = adapter.lora_parameters(trainer.model)
    before = {name: value.clone() for name, value in lora.items()}
    lora["mm_projector.2.lora_B.default.weight"].register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match=r"gradient is not finite after 0 steps .* r0, r1, r2, r3;"):
        trainer.train(loader(fake_records(4), shuffle=False))
    assert all(torch.equal(value, before[name]) for name, value in lora.items())
    assert len(json.loads((tmp_path / "logs" / "not_finite_0.json").read_text())["batch"]) == 4


def test_out_of_memory_says_what_to_change(tmp_path, monkeypatch):
    def full(*_arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LossModel, "forward", full)
    with pytest.raises(UserError, match=r"lower batch_size \(now 2.*step's was \d+.*gradient_checkpointing"):
        small_trainer(tmp_path).train(loader(fake_records(2)))


def test_tokens_that_cannot_be_ranked_name_the_record(tmp_path, monkeypatch):
    trainer = small_trainer(tmp_path)
    tower = trainer.model.tower.forward
    monkeypatch.setattr(trainer.model.tower, "forward", lambda pixels: tower(pixels) * float("nan"))
    with pytest.raises(UserError, match="record a: "):
        trainer.train(loader([FakeRecord("a", "one")]))


def test_gradients_are_checked_from_the_second_step(tmp_path):
    trainer = small_trainer(tmp_path)
    results = trainer.train(loader(fake_records(4)))
    assert not results["skipped_records"]
    assert {check["name"]: check["passed"] for check in results["watched"]}["gradients reach all LoRA tensors"]
    dead = small_trainer(tmp_path / "dead")
    weight = dead.model.mm_projector[2].base_layer.weight
    weight.data.zero_()
    lora = adapter.lora_parameters(dead.model)
    lora["mm_projector.2.lora_B.default.weight"].register_hook(torch.zeros_like)
    with pytest.raises(UserError, match="no gradient reaches .*mm_projector.0.lora_A"):
        dead.train(loader(fake_records(4)))


def test_a_target_that_no_loss_reaches_is_named(tmp_path):
    layer = "tower.vision_model.encoder.layers.0.self_attn.q_proj"  # the tower runs without gradients
    trainer = small_trainer(tmp_path, target_modules=["mm_projector.0", layer])
    with pytest.raises(UserError, match=rf"no gradient reaches {layer}.lora_A"):
        trainer.train(loader(fake_records(4)))


def test_dream_mixed_precision_pooled_path_and_checkpointed_blocks(tmp_path, caplog):
    trainer = small_trainer(
        tmp_path,
        family="dream",
        token_budgets=[8],
        include_pooled=True,
        mixed_precision="fp16",
        gradient_checkpointing=True,
        answer_padding="full",
        num_epochs=2,
    )
    results = trainer.train(loader(fake_records(2)))
    assert results["steps_per_ratio"] == {"8": 1, "pooled": 1}
    assert results["mixed_precision"] == choose_precision("auto", "cpu").mixed  # what is fast here
    assert "fp16 is for GPUs" in caplog.text
    tokens = {str(entry["budget"]): entry["tokens"] for entry in steps_of(trainer)}
    assert tokens["pooled"] - tokens["8"] == 2 * (3 * 196 - 9)  # a 300x200 page makes three views


def test_the_log_counts_the_newlines_of_the_pooled_path(tmp_path):
    model = tiny_model(shirg={"resolution": RESOLUTION}, mm_patch_merge_type="spatial_unpad")
    config = small_config(tmp_path, token_budgets=[8], include_pooled=True)
    SHIRGLoRATrainer(config, model).train(loader(fake_records(2)))
    assert "per budget (square image): 8 -> 9, pooled -> 1008;" in (tmp_path / "logs" / "training.log").read_text()


def test_recomputed_blocks_give_the_same_run(tmp_path):
    plain, recomputed = small_trainer(tmp_path / "a"), small_trainer(tmp_path / "b", gradient_checkpointing=True)
    for trainer in (plain, recomputed):
        trainer.train(loader(fake_records(4)))
    assert losses_of(plain) == pytest.approx(losses_of(recomputed), abs=1e-6)


def test_mistakes_are_named_before_training(tmp_path):
    with pytest.raises(UserError, match="65 exceeds the 64 tokens"):
        small_trainer(tmp_path, token_budgets=[65])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="output_dir: .* cannot be written"):
        small_trainer(blocked).train(loader(fake_records(2)))
    model = tiny_model(shirg={"resolution": RESOLUTION}, tokenizer=False)
    with pytest.raises(UserError, match="tokenizer"):
        SHIRGLoRATrainer(small_config(tmp_path), model)
    adapter.attach_lora(trainer_model := tiny_model(shirg={"resolution": RESOLUTION}), rank=2)
    with pytest.raises(UserError, match="lora_rank: got 4, but the model's adapter has 2"):
        SHIRGLoRATrainer(small_config(tmp_path), trainer_model)


def test_a_full_disk_while_saving_is_one_clear_line(tmp_path, monkeypatch):
    trainer = small_trainer(tmp_path, save_steps=1)
    original, calls = checkpoints.write_json, []

    def full(path, value):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        original(path, value)

    monkeypatch.setattr(checkpoints, "write_json", full)
    with pytest.raises(UserError, match="checkpoint-2 cannot be written .No space left"):
        trainer.train(loader(fake_records(4)))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-1"]
    assert checkpoints.find_latest(tmp_path / "checkpoints").name == "checkpoint-1"
