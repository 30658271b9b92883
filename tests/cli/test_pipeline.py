"""The whole road on a model with random weights: what it leaves, and what a second call does with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from shirg import cli
from shirg.evaluation.takeaway import RULE

LEFT = (
    "SHIRG_TRAINING_REPORT.md",
    "checkpoints/best_model/adapter_config.json",
    "checkpoints/best_model/adapter_model.safetensors",
    "checkpoints/checkpoint-2/adapter_model.safetensors",
    "config.yaml",
    "data/manifest.json",
    "evaluation/detailed_results.json",
    "evaluation/evaluation_report.md",
    "evaluation/evaluation_results.json",
    "evaluation/figures/accuracy_against_tokens.png",
    "evaluation/figures/kept_patches.png",
    "figures/loss_per_step.png",
    "logs/training.log",
)


def shirg(*arguments: object) -> int:
    """The console command's exit code."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def output(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "output"
    small = ["--image-resolution", 392, "--token-budgets", 64, "--dataset-size", 6, "--ocr-samples", 2]
    asked = ["--eval-datasets", "documents", "--eval-samples", 1, "--timing-repeats", 1]
    assert shirg("run", "--model", model, *small, *asked, "--output-dir", folder) == 0
    return folder


def variants(folder: Path) -> set[str]:
    results = json.loads((folder / "evaluation" / "evaluation_results.json").read_text(encoding="utf-8"))
    return {variant["variant"] for variant in results["variants"]}


def test_run_fills_the_folder(output):
    assert [name for name in LEFT if not (output / name).is_file()] == []
    paths = {"lowres", "hd", "shirg-64"}
    assert variants(output) == paths | {f"{path}+adapter" for path in paths}
    report = (output / "SHIRG_TRAINING_REPORT.md").read_text(encoding="utf-8")
    assert "Adapter saved and reloads with equal outputs | **met**" in report
    settings = json.loads((output / "checkpoints/best_model/shirg_settings.json").read_text(encoding="utf-8"))
    assert settings["resolution"] == 392


def test_skip_training_evaluates_the_adapter_that_is_there_and_keeps_the_older_report(output, model, capsys):
    trained = (output / "SHIRG_TRAINING_REPORT.md").read_text(encoding="utf-8")
    few = ["--eval-datasets", "charts", "--eval-samples", 1, "--token-budgets", 32, "--image-resolution", 392]
    few += ["--timing-repeats", 0]
    assert shirg("run", "--model", model, "--skip-training", *few, "--output-dir", output) == 0
    printed = capsys.readouterr()
    assert "best_model" in printed.err
    first, *others, took, report = printed.out.splitlines()
    assert first.startswith(
        "On 1 question about 1 page of charts, shirg with 32 of 784 visual tokens gave the exact answer to "
    )
    assert others[-1] == RULE and len(others) <= 4 and report.startswith("report: ")
    assert re.fullmatch(r"took \d+ s: model \d+ s, evaluation \d+ s, report \d+ s", took)
    assert {"shirg-32", "shirg-32+adapter", "highres"} <= variants(output)
    assert (output / "SHIRG_TRAINING_REPORT.old-1.md").read_text(encoding="utf-8") == trained
    assert "Nothing was trained" in (output / "SHIRG_TRAINING_REPORT.md").read_text(encoding="utf-8")


def test_select_draws_and_answer_answers(output, model, tmp_path, capsys):
    page = output / "figures" / "loss_per_step.png"
    assert shirg("select", page, "--model", model, "--budget", 100, "--output-dir", tmp_path) == 0
    assert "100 of 2,304 patches kept (4%)" in capsys.readouterr().out
    assert (tmp_path / "loss_per_step.kept.png").is_file()
    adapter = output / "checkpoints" / "best_model"
    assert shirg("answer", page, "What?", "--model", model, "--adapter", adapter, "--budget", 9) == 0
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--token-budgets", 3000], "3000 exceeds the 2304 tokens of a 672-pixel image"),
        (["--eval-datasets", "Foo"], "not a known benchmark"),
        (["--eval-datasets", "ChartQA", "--eval-data-dir", "/nowhere"], "--eval-data-dir: /nowhere is no folder"),
        (["--eval-data-dir", "/nowhere"], "--eval-data-dir: /nowhere is no folder"),
        (["--adapter", "/nowhere"], "adapter /nowhere"),
        (["--data-dir", "/nowhere"], "/nowhere"),
        (["--output-dir", __file__], "--output-dir: "),
    ],
)
def test_mistakes_are_found_before_any_work(arguments, says, model, tmp_path, capsys):
    started = ["run", "--model", model, "--eval-datasets", "documents", "--output-dir", tmp_path / "output"]
    assert shirg(*started, *arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.count("\n") == 1
    assert not (tmp_path / "output" / "data").exists()


def test_component_test_passes_and_fails_with_code_1(model, capsys, monkeypatch):
    from shirg.cli import components

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as stop:
            components.main(["--model", str(model), *arguments])
        return stop.value.code

    assert run("--budget", "2305") == 2
    assert (
        "--budget: got 2305, must be a whole number from 1 to the tokens of the image, here 2,304"
        in capsys.readouterr().err
    )
    assert run() == 0
    assert capsys.readouterr().out.endswith("7 passed, 0 failed\n")
    # One that fails and one behind it, which is tried all the same.
    monkeypatch.setattr(components, "CHECKS", {"gate": lambda bench: 1 / 0, "tower": components.CHECKS["tower"]})
    assert run() == 1
    out = capsys.readouterr().out
    assert "1 passed, 1 failed" in out and "729 tokens at 384 pixels" in out
