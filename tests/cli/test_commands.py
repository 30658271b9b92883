"""The commands by their flags: help, defaults, and what reaches the library."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest
import tyro

from shirg import cli
from shirg.cli import (
    answer,
    assemble,
    components,
    convert,
    demo,
    describe,
    doctor,
    evaluate,
    prepare,
    report,
    run,
    select,
    sweep,
    train,
)
from shirg.errors import UserError

MODULES = {
    "doctor": doctor,
    "run": run,
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "select": select,
    "sweep": sweep,
    "answer": answer,
    "demo": demo,
    "describe": describe,
    "assemble": assemble,
    "convert": convert,
    "components": components,
}


POSITIONAL = ("image", "question", "model", "source", "target", "folder")
"""Told apart by place: help shows them by what they are."""


def parse(module, *arguments: str):
    return tyro.cli(module.Flags, args=list(arguments))


def test_defaults_of_the_whole_run_are_the_promised_ones():
    flags = parse(run)
    assert dataclasses.asdict(flags) == {
        "dataset_size": 1000,
        "ocr_samples": 200,
        "image_resolution": None,
        "enable_augmentation": False,
        "loader_workers": None,
        "lora_rank": 16,
        "lora_alpha": 32,
        "learning_rate": 1e-4,
        "token_budgets": (512, 768),
        "batch_size": 4,
        "grad_accumulation": False,
        "accumulation_steps": 4,
        "epochs": 1,
        "mixed_precision": "auto",
        "eval_datasets": (),
        "eval_samples": 60,
        "timing_repeats": 3,
        "skip_training": False,
        "skip_evaluation": False,
        "output_dir": Path("./shirg_lora_output"),
        "model": "nano",
        "adapter": None,
        "data_dir": None,
        "allow_fewer": False,
        "render_missing": False,
        "eval_data_dir": None,
        "resume": False,
        "fit": None,
        "revision": None,
        "seed": 0,
        "include_pooled": True,
        "ratio_sampling": "uniform",
        "preset": None,
        "objective": "packed",
        "share_prefix": None,
        "gradient_checkpointing": False,
        "tensorboard": False,
        "wandb": False,
        "trackio": False,
        "save_steps": 100,
        "relevance": None,
        "relevance_sign": None,
        "text_tower": None,
        "debug": False,
    }


@pytest.mark.parametrize("name", ["enable-augmentation", "grad-accumulation", "skip-training", "skip-evaluation"])
def test_switches_turn_on_and_off(name):
    field = name.replace("-", "_")
    assert getattr(parse(run, f"--{name}"), field) is True
    assert getattr(parse(run, f"--{name}", f"--no-{name}"), field) is False


@pytest.mark.parametrize("name", MODULES)
def test_help_explains_every_flag(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as stop:
        MODULES[name].main(["--help"], prog=f"shirg {name}")
    text = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert stop.value.code == 0
    for field in dataclasses.fields(MODULES[name].Flags):
        assert field.name.replace("_", "-") in text or field.name in POSITIONAL
    for kind in MODULES[name].Flags.__mro__:
        for field in vars(kind).get("__annotations__", {}):
            assert documented(kind, field), f"{kind.__module__}.{kind.__name__}.{field}"


def documented(kind: type, field: str) -> bool:
    """Whether a string stands under the field, where tyro and readers find it."""
    lines = inspect.getsource(kind).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith(f"    {field}: "))
    return '"""' in "".join(lines[place : place + 5])


def test_grad_accumulation_decides_about_the_steps():
    assert train.training_config(parse(train), "nano", Path("x")).gradient_accumulation_steps == 1
    flags = parse(train, "--grad-accumulation", "--accumulation-steps", "8")
    assert train.training_config(flags, "nano", Path("x")).gradient_accumulation_steps == 8


def test_flags_reach_the_configurations(tmp_path):
    flags = parse(
        run, "--dataset-size", "8", "--ocr-samples", "2", "--token-budgets", "64", "--seed", "5", "--epochs", "2"
    )
    data = prepare.dataset_config(flags, 336, tmp_path)
    assert (data.base_dataset_size, data.ocr_enhancement_size, data.image_resolution, data.seed) == (8, 2, 336, 5)
    training = train.training_config(flags, "folder", tmp_path)
    assert (training.token_budgets, training.num_epochs, training.seed, training.base_model) == ([64], 2, 5, "folder")
    evaluation = evaluate.evaluation_config(flags, tmp_path)
    assert (evaluation.datasets, evaluation.token_budgets, evaluation.sample_size, evaluation.seed) == (
        None,
        [64],
        60,
        5,
    )


@pytest.mark.parametrize("resolution", ["0", "-14", "670", "7"])
def test_resolution_is_a_multiple_of_the_patch(resolution):
    with pytest.raises(UserError, match="multiple of 14"):
        parse(run, "--image-resolution", resolution).check_resolution()
    parse(run, "--image-resolution", "336").check_resolution()
    with pytest.raises(UserError, match="at most 1792"):
        parse(run, "--image-resolution", "14000").check_resolution()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "usage: shirg COMMAND"),
        (["--help"], 0, "usage: shirg COMMAND"),
        (["--version"], 0, "shirg "),
        (["evalute"], 2, "did you mean 'evaluate'?"),
        (["x"], 2, "there are doctor, run, prepare"),
        (["run", "--skip-training", "--skip-evaluation"], 2, "nothing is left to do"),
        (["run", "--token-budgets", "0"], 2, "--token-budgets: "),
        (["run", "--mixed-precision", "fp8"], 2, "mixed-precision"),
        (["answer", "missing.png", "What?"], 2, "missing.png"),
    ],
)
def test_exit_codes(arguments, code, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert stop.value.code == code
    assert says in captured.out + captured.err


def test_an_older_report_is_kept(tmp_path):
    report = tmp_path / "REPORT.md"
    for expected in ("REPORT.old-1.md", "REPORT.old-2.md"):
        report.write_text("x")
        assert run.free_name(report).name == expected
        report.rename(run.free_name(report))
