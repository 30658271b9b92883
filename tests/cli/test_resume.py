"""`--resume` of train and run: what the flags do not say the run says, and what they say otherwise is refused by its flag."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from shirg import cli
from shirg.cli import config_file
from shirg.files import read_lines
from tests.tiny import tiny_model

ASKED = ("--token-budgets", 64, "--no-include-pooled", "--mixed-precision", "no", "--save-steps", 1, "--batch-size", 3)
PAGES = ("--dataset-size", 6, "--ocr-samples", 1, "--seed", 3)


def shirg(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and what went to stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return stop.value.code, capsys.readouterr().err


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A checkpoint whose own resolution is not the one that the runs take."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model(shirg={"answer_tokens": 4, "resolution": 420}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> Path:
    """The folder of a run of two steps at 392 pixels, padded, by the `ocr` preset."""
    folder = tmp_path_factory.mktemp("run") / "output"
    sees = ("--image-resolution", 392, "--fit", "pad", "--preset", "ocr")
    with pytest.raises(SystemExit) as stop:
        cli.main(
            list(
                map(str, ("run", "--model", model, *ASKED, *PAGES, *sees, "--skip-evaluation", "--output-dir", folder))
            )
        )
    assert stop.value.code == 0
    return folder


@pytest.fixture
def half(whole, tmp_path) -> Path:
    """A copy as it was after the first step."""
    folder = shutil.copytree(whole, tmp_path / "half")
    shutil.rmtree(folder / "checkpoints" / "checkpoint-2")
    return folder


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_lines(folder / "logs" / "metrics.jsonl")]


def same_run(folder: Path, whole: Path) -> bool:
    stored = [json.loads((one / "checkpoints/checkpoint-2/shirg_settings.json").read_text()) for one in (folder, whole)]
    keys = ("resolution", "fit", "gate", "relevance")
    return losses(folder) == losses(whole) and all(stored[0][key] == stored[1][key] for key in keys)


@pytest.mark.parametrize("command", ["train", "run"])
def test_settings_that_are_not_repeated_are_the_runs(command, model, whole, half, capsys):
    pages = {path.name: path.read_bytes() for path in (half / "data").iterdir()}
    own = ("--prepared-dir", half / "data", "--seed", 3) if command == "train" else (*PAGES, "--skip-evaluation")
    code, said = shirg(capsys, command, "--model", model, *ASKED, *own, "--resume", "--output-dir", half)
    assert code == 0, said
    assert "replacing a data set" not in said and same_run(half, whole)
    assert {path.name: path.read_bytes() for path in (half / "data").iterdir()} == pages


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            ("--image-resolution", 420),
            "--image-resolution differs: resolution is 420, but .* was made with 392",
        ),
        (("--fit", "stretch"), "--fit differs: fit is 'stretch', but .* was made with 'pad'"),
        (("--preset", "default"), "--preset differs: gate.alpha is 0.0, but .* was made with 0.1"),
        (("--relevance", "none"), "--relevance differs: relevance is 'none', but .* was made with 'llm'"),
        (
            ("--enable-augmentation",),
            "--enable-augmentation differs: augment is True, but .* was made with False",
        ),
        (("--lora-rank", 8), "--lora-rank differs: lora_rank is 8, but .* was made with 16"),
    ],
)
def test_settings_that_differ_are_refused_by_their_flags(given, says, model, half, capsys):
    """The checkpoint's own resolution, too, which is what a flag that is left out would give."""
    common = ("train", "--model", model, *ASKED, "--prepared-dir", half / "data", "--seed", 3, "--resume")
    before = losses(half)
    code, said = shirg(capsys, *common, *given, "--output-dir", half)
    (line,) = [line for line in said.splitlines() if "error" in line]
    assert code == 2 and re.search(says, line), line
    assert losses(half) == before and not (half / "checkpoints" / "checkpoint-2").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--dataset-size", 7), "--dataset-size differs: base_dataset_size is 7"),
        (
            ("--image-resolution", 420),
            "--image-resolution differs: image_resolution is 420, but .* with 392",
        ),
        (("--adapter", "another"), "--adapter differs: started_from is '.*', but .* was made with None"),
    ],
)
def test_a_run_that_would_replace_its_data_or_its_start_is_refused(given, says, model, whole, half, capsys):
    shutil.copytree(whole / "checkpoints" / "best_model", half / "another")
    given = [half / "another" if word == "another" else word for word in given]
    pages = {path.name: path.read_bytes() for path in (half / "data").iterdir()}
    common = ("run", "--model", model, *ASKED, *PAGES, "--skip-evaluation", "--resume", "--output-dir", half)
    code, said = shirg(capsys, *common, *given)
    assert code == 2 and re.search(says, said), said
    assert {path.name: path.read_bytes() for path in (half / "data").iterdir()} == pages


def test_budgets_beyond_the_grid_are_refused_before_any_folder(model, whole, tmp_path, capsys):
    new = tmp_path / "new"
    for command in (("run", "--skip-evaluation"), ("train", "--prepared-dir", whole / "data"), ("evaluate",)):
        asked = ("--model", model, "--token-budgets", 800, "--image-resolution", 392, "--output-dir", new)
        code, said = shirg(capsys, *command, *asked)
        assert code == 2 and "--token-budgets" in said and "784" in said and not new.exists(), said


def test_a_refused_training_leaves_no_folder(model, whole, tmp_path, capsys):
    for given in (("--prepared-dir", tmp_path), ("--prepared-dir", whole / "data", "--body-bits", 4)):
        code, said = shirg(capsys, "train", "--model", model, *ASKED, *given, "--output-dir", tmp_path / "new")
        assert code == 2 and not (tmp_path / "new").exists(), said


def test_a_budget_that_only_the_larger_view_has_trains(model, whole, tmp_path, capsys):
    """At 420 pixels there are 900 tokens, at the model's own, too; at 448 there are 1024."""
    asked = ("--token-budgets", 1000, "--no-include-pooled", "--image-resolution", 448, "--batch-size", 7)
    code, said = shirg(
        capsys, "train", "--model", model, *asked, "--prepared-dir", whole / "data", "--output-dir", tmp_path / "new"
    )
    assert code == 0 and "1024 before selection" in said and "expected: computed peak of a training step" in said
    assert config_file.read(tmp_path / "new" / "config.yaml")["image_resolution"] == 448
