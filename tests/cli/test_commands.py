"""The commands by their flags: help, defaults, and what reaches the library."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import tyro
from tyro.conf import Positional

from shirg import cli, ranges
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
    runner,
    select,
    sweep,
    train,
)
from shirg.cli.flags import flag_names
from shirg.errors import UserError
from shirg.evaluation.config import BenchmarkSettings

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
    """Those that users were told of."""
    flags = parse(run)
    assert (flags.base_dataset_size, flags.ocr_enhancement_size, flags.sample_size) == (1000, 200, 60)
    assert (flags.lora_rank, flags.lora_alpha, flags.learning_rate) == (16, 32, 1e-4)
    assert (flags.token_budgets, flags.include_pooled, flags.ratio_sampling) == ([512, 768], True, "uniform")
    assert (flags.batch_size, flags.num_epochs, flags.mixed_precision) == (4, 1, "auto")
    assert (flags.model, flags.output_dir) == ("nano", Path("./shirg_lora_output"))


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
    for field, flag in flag_names(MODULES[name].Flags).items():
        assert f"--{flag}" in text or field in POSITIONAL
        assert any(documented(kind, field) for kind in MODULES[name].Flags.__mro__[:-1]), field


def documented(kind: type, field: str) -> bool:
    """Whether a class declares the field with a string under it, where tyro and readers find it."""
    lines = inspect.getsource(kind).splitlines()
    for place, line in enumerate(lines):
        if line.startswith(f"    {field}: "):
            return '"""' in "".join(lines[place : place + 5])
    return False


def test_grad_accumulation_decides_about_the_steps():
    assert train.training_config(parse(train), "nano", Path("x")).gradient_accumulation_steps == 1
    flags = parse(train, "--grad-accumulation", "--accumulation-steps", "8")
    assert train.training_config(flags, "nano", Path("x")).gradient_accumulation_steps == 8


def test_flags_reach_the_configurations(tmp_path):
    flags = parse(
        run, "--dataset-size", "8", "--ocr-samples", "2", "--token-budgets", "64", "--seed", "5", "--epochs", "2"
    )
    data = run.data_config(dataclasses.replace(flags, output_dir=tmp_path, image_resolution=336))
    assert (data.base_dataset_size, data.ocr_enhancement_size, data.image_resolution, data.seed) == (8, 2, 336, 5)
    training = train.training_config(flags, "folder", tmp_path)
    assert (training.token_budgets, training.num_epochs, training.seed, training.base_model) == ([64], 2, 5, "folder")
    evaluation = evaluate.evaluation_config(flags, BenchmarkSettings, tmp_path)
    assert (evaluation.datasets, evaluation.token_budgets, evaluation.sample_size, evaluation.seed) == (
        None,
        [64],
        60,
        5,
    )


DOORS = {name: importlib.import_module(f"shirg.cli.{name}") for name in [*cli.COMMANDS, "components", "lmms_task"]}
"""Everything that the runner parses."""


def numeric_flags() -> list[tuple[str, str, list[ranges.Range]]]:
    """(command, flag, ranges in its annotation) of everything that a command or script reads as a number."""
    found = []
    for name, module in DOORS.items():
        for field, hint in get_type_hints(module.Flags, include_extras=True).items():
            plain = hint.__origin__ if hasattr(hint, "__metadata__") else hint
            kinds = {plain, *get_args(plain), *(one for inner in get_args(plain) for one in get_args(inner))}
            if kinds & {int, float}:
                found.append(
                    (name, field, [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, ranges.Range)])
                )
    return found


NUMERIC = numeric_flags()


def test_every_number_has_one_range_and_its_default_is_in_it():
    assert len(NUMERIC) > 60 and {len(allowed) for _, _, allowed in NUMERIC} == {1}
    for module in DOORS.values():
        ranges.check_fields(module.Flags(**dict.fromkeys(needed(module), "x")))


@pytest.mark.parametrize(
    ("name", "field", "allowed"), NUMERIC, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_number_is_checked_before_work_begins(name, field, allowed, capsys):
    """Too large, negative, NaN, infinite, on every flag of every command; the first through the parser and the runner."""
    module, wanted, began = DOORS[name], allowed[0], []
    flag = f"--{flag_names(module.Flags)[field]}"
    by_place = Positional[str].__metadata__[0]
    hints = get_type_hints(module.Flags, include_extras=True)
    required = [one if by_place in getattr(hints[one], "__metadata__", ()) else f"--{one}=x" for one in needed(module)]
    flags = module.Flags(**dict.fromkeys(needed(module), "x"))
    listed = isinstance(getattr(flags, field), list | tuple)
    with pytest.raises(SystemExit, match="2"):
        given = [flag, str(10**30), str(10**30)] if listed else [f"{flag}={10**30}"]
        runner.run_command(began.append, module.Flags, [*required, *given], prog="shirg")
    said = capsys.readouterr().err
    assert not began and said.count("\n") == 1 and f"{flag}: got " in said and f"must be {wanted}" in said
    for value in (-7, 10**30, float("nan"), float("inf"), -float("inf")):
        with pytest.raises(UserError, match=f"^{flag}: got .*, must be {re.escape(str(wanted))}"):
            ranges.check_fields(dataclasses.replace(flags, **{field: (5, value) if listed else value}), {field: flag})


def needed(module) -> list[str]:
    """Arguments without which a command does not begin."""
    return [
        field.name
        for field in dataclasses.fields(module.Flags)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


@pytest.mark.parametrize(
    ("given", "inside", "outside", "says"),
    [
        (ranges.RESOLUTION, [14, 336, 1792], [0, -14, 7, 670, 1806, 336.0, True], "a multiple of 14 from 14 to 1,792"),
        (ranges.STEP_RATIO, [1, 0.5, 1e-9], [0, 0.0, 1.1, float("nan"), "0.5"], "a number above 0 and at most 1"),
        (ranges.SHARE, [0, 0.999], [1, 1.0, -0.1], "a number from 0 to below 1"),
        (ranges.SEED, [0, 2**63 - 1], [-1, 2**63, 1e3, None], "a whole number from 0 to 9.22337e+18"),
    ],
)
def test_ranges_hold_what_they_say(given, inside, outside, says):
    assert all(map(given.contains, inside)) and not any(map(given.contains, outside)) and str(given) == says


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
    run.keep_report(tmp_path)  # there is none
    for text in ("first", "second"):
        (tmp_path / "SHIRG_TRAINING_REPORT.md").write_text(text)
        run.keep_report(tmp_path)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"SHIRG_TRAINING_REPORT.old-1.md": "first", "SHIRG_TRAINING_REPORT.old-2.md": "second"}
