"""A run as a YAML file: what it decides, what overrides it, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from shirg import ranges
from shirg.cli import config_file, evaluate, prepare, run, runner, train
from shirg.cli.flags import flag_names
from shirg.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


def parsed(flags_type, *argv: object):
    return runner.parse(flags_type, [str(word) for word in argv], "shirg")[0]


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_the_file_decides_and_the_command_line_overrides_it(tmp_path):
    text = "token_budgets: [300, 400]\nlearning-rate: 0.002\ngrad_accumulation: true\ninclude_pooled: false\nseed: 3\nrevision:\n"
    flags = parsed(train.Flags, "--config", written(tmp_path, text), "--seed", 4, "--no-grad-accumulation")
    assert flags.token_budgets == [300, 400] and flags.learning_rate == 0.002 and not flags.include_pooled
    assert flags.seed == 4 and not flags.grad_accumulation and flags.revision is None
    assert parsed(train.Flags, f"--config={tmp_path / 'run.yaml'}", "--token-budgets", 9).token_budgets == [9]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("token_budget: [1]", "'token_budget' is no setting of this command; did you mean token_budgets?"),
        ("resume: true", "'resume' is no setting"),
        ("- 1", "must hold lines like"),
        ("seed: {a: 1}", "run.yaml: seed: got {'a': 1}, must be a value or a list"),
        ("a: [", "is not readable YAML"),
        ("seed: many", "run.yaml: seed: got many, must be a whole number"),
        ("learning-rate: fast", "run.yaml: learning-rate: got fast, must be a number"),
        ("objective: fast", "run.yaml: objective: got fast, must be one of packed"),
        ("token_budgets: [64, few]", "run.yaml: token_budgets: got "),
        ("wandb: 1", "run.yaml: wandb: got 1, must be true or false"),
    ],
)
def test_mistakes_in_a_file_end_in_one_line(text, says, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        parsed(train.Flags, "--config", written(tmp_path, text))
    error = capsys.readouterr().err
    assert left.value.code == 2 and error.startswith("shirg: error: ") and says in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "run.yaml: epochs: got 0, must be a whole number from 1 to "),
        (["--epochs", "-1"], "--epochs: got -1, must be a whole number from 1 to "),
        (["--no-wandb", "--epochs=1", "--batch-size", "2"], "--config {}: output_dir: "),
    ],
)
def test_a_value_is_named_by_what_gave_it(argv, says, tmp_path, capsys):
    """The file and its key; the flag, where it overrides the file. The last is found by the library."""

    def command(flags):
        raise UserError("output_dir: is full")

    file = written(tmp_path, "epochs: 0\nbatch_size: 0\nwandb: true\noutput_dir: there\n")
    with pytest.raises(SystemExit, match="2"):
        runner.run_command(command, train.Flags, ["--config", str(file), *argv], prog="shirg")
    assert says.format(file) in capsys.readouterr().err


def test_a_setting_at_none_is_written_and_read_back(tmp_path):
    flags = dataclasses.replace(run.Flags(), output_dir=tmp_path)
    config_file.write(flags, tmp_path)
    settings = config_file.read(tmp_path / "config.yaml")
    assert settings["share_prefix"] is None and settings["eval_datasets"] is None and settings["data_dir"] is None
    assert set(settings) == {flag.replace("-", "_") for flag in flag_names(run.Flags).values()} - {
        "config",
        "debug",
        "resume",
    }
    assert dataclasses.replace(parsed(run.Flags, "--config", tmp_path / "config.yaml"), config=None) == flags


def test_a_missing_file_is_named(capsys):
    with pytest.raises(SystemExit) as left:
        parsed(run.Flags, "--config", "nowhere.yaml")
    assert left.value.code == 2 and "--config: nowhere.yaml: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags_type", "changes"),
    [
        (run.Flags, {"token_budgets": [64, 512], "share_prefix": False, "data_dir": Path("a b"), "fit": "pad"}),
        (train.Flags, {"grad_accumulation": True, "include_pooled": False, "body_bits": 8}),
        (evaluate.Flags, {"modes": ["shirg", "random"], "shard_index": 1, "num_shards": 4}),
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
    ranges.check_fields(flags)
