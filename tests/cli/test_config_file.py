"""A run as a YAML file: what it decides, what overrides it, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from shirg import ranges
from shirg.cli import config_file, evaluate, prepare, run, runner, train

CONFIGS = Path(__file__).parents[2] / "configs"


def parsed(flags_type, *argv: object):
    return runner.parse(flags_type, [str(word) for word in argv], "shirg")


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_the_file_decides_and_the_command_line_overrides_it(tmp_path):
    text = "token_budgets: [300, 400]\nlearning-rate: 0.002\ngrad_accumulation: true\ninclude_pooled: false\nseed: 3\nrevision:\n"
    flags = parsed(train.Flags, "--config", written(tmp_path, text), "--seed", 4, "--no-grad-accumulation")
    assert flags.token_budgets == (300, 400) and flags.learning_rate == 0.002 and not flags.include_pooled
    assert flags.seed == 4 and not flags.grad_accumulation and flags.revision is None
    assert parsed(train.Flags, f"--config={tmp_path / 'run.yaml'}", "--token-budgets", 9).token_budgets == (9,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("token_budget: [1]", "'token_budget' is no setting of this command; did you mean token_budgets?"),
        ("resume: true", "'resume' is no setting"),
        ("- 1", "must hold lines like"),
        ("seed: {a: 1}", "seed must be a value or a list; got {'a': 1}"),
        ("a: [", "is no readable YAML"),
        ("seed: many", "--seed"),
        ("objective: fast", "--objective"),
    ],
)
def test_mistakes_in_a_file_end_in_one_line(text, says, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        parsed(train.Flags, "--config", written(tmp_path, text))
    error = capsys.readouterr().err
    assert left.value.code == 2 and error.startswith("shirg: error: ") and says in error and error.count("\n") == 1


def test_a_missing_file_is_named(capsys):
    with pytest.raises(SystemExit) as left:
        parsed(run.Flags, "--config", "nowhere.yaml")
    assert left.value.code == 2 and "--config: nowhere.yaml: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags_type", "changes"),
    [
        (run.Flags, {"token_budgets": (64, 512), "share_prefix": False, "data_dir": Path("a b"), "fit": "pad"}),
        (train.Flags, {"grad_accumulation": True, "include_pooled": False, "body_bits": 8}),
        (evaluate.Flags, {"variants": ("shirg", "random"), "shard_index": 1, "num_shards": 4}),
        (prepare.Flags, {"exclude_datasets": ("ChartQA",), "images": "link"}),
    ],
)
def test_what_a_run_writes_is_that_run_again(flags_type, changes, tmp_path):
    flags = dataclasses.replace(flags_type(), output_dir=tmp_path / "new", **changes)
    config_file.write(flags, tmp_path / "new")
    again = parsed(flags_type, "--config", tmp_path / "new" / "config.yaml")
    assert dataclasses.replace(again, config=None) == flags


def test_a_resumed_run_keeps_the_settings_that_it_began_with(tmp_path):
    config_file.write(dataclasses.replace(train.Flags(), seed=1), tmp_path)
    config_file.write(dataclasses.replace(train.Flags(), seed=2), tmp_path, resumed=True)
    assert config_file.read(tmp_path / "config.yaml")["seed"] == 1


def test_the_laptop_run_is_the_main_job():
    flags = parsed(run.Flags, "--config", CONFIGS / "laptop.yaml")
    assert dataclasses.replace(flags, config=None) == parsed(run.Flags)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_runs_are_taken(path):
    head = path.read_text().split("\nmodel:")[0]
    assert all(word in head for word in ("command", "hardware", "time"))
    flags = parsed(train.Flags if "prepared_dir" in path.read_text() else run.Flags, "--config", path)
    ranges.check_fields(flags, "--")
