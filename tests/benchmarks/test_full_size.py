"""The full-size measurements at their tiny size, on a CPU."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

import shirg
from scripts import tables
from tests import forked

BENCHMARKS = Path(shirg.__file__).resolve().parents[1] / "benchmarks"
SPARED = ("datasets", "pyarrow", "tyro", "rapidfuzz", "faker", "pandas")
"""Packages that a rented GPU need not have."""


@pytest.fixture(scope="module")
def script():
    """The script as a module, with fewer shapes than its tiny size has, on a CPU wherever it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import full_size

        patch.setattr(torch.cuda, "is_available", lambda: False)
        tiny = dataclasses.replace(full_size.SIZES["tiny"], budgets=(12,), micro_batches=(1,), batches=(1,))
        patch.setitem(full_size.SIZES, "tiny", tiny)
        yield full_size


@pytest.fixture(scope="module")
def run(script, tmp_path_factory):
    """A complete record, and the arguments that made it."""
    path = tmp_path_factory.mktemp("full_size") / "made" / "record.json"
    arguments = ["--size", "tiny", "--json", str(path)]
    assert script.main(arguments) == 0
    return path, arguments


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_path_is_measured(run):
    paths = {row["key"]: row for row in read(run[0])["paths"]}
    # 16 tokens a view; pooled 4 of each of five views, with newlines 4 + 4 x (4 + 1)
    pooled = {"hd-flat": 20, "hd": 24}
    wanted = {"lowres": 16, "highres": 36, "shirg-12": 13, "multiview-all": 80, "multiview-12": 13} | pooled
    assert {key: row["tokens"] for key, row in paths.items()} == wanted
    for row in paths.values():
        assert row["outcome"] == "measured" and row["total_ms"] > 0 and row["steps"] == 2
        assert row["kv_bytes"] == row["prefix_tokens"] * 2 * 2 * 32 * 2  # keys and values, layers, width, bytes


def test_training_rows_follow_from_their_times(run):
    rows = {row["key"]: row for row in read(run[0])["train"]}
    assert len(rows) == 2 * 2 * 2  # objective, component, checkpointing
    for row in rows.values():
        whole = row["step_ms"] + row["tower_ms_per_image"]
        assert row["hours_for_all"] == pytest.approx(608_000 / 8 * whole / 3.6e6, abs=1e-3)
    assert rows["packed 12 x1 plain"]["language_tokens"] == 13 + 8 + 2 * 4
    assert rows["two-row 12 x1 plain"]["language_tokens"] == 2 * (13 + 8 + 4)


def test_every_selector_is_measured(run):
    rows = {row["key"]: row for row in read(run[0])["gate"]}
    assert len(rows) == 16 * 3  # selectors and a preset, at three grids
    for row in rows.values():
        assert row["outcome"] == "measured" and row["eager_ms"] > 0 and row["captured_ms"] is None


def test_the_table_is_made_from_the_record(run):
    *rows, mark = tables.full_size(read(run[0]))
    assert [row[:2] for row in rows][:2] == [["shirg-12", "13"], ["lowres", "16"]]
    assert {len(row) for row in (*rows, mark)} == {10} and "cpu" in mark[0] and "torch" in mark[0]
    assert rows[1][3] == "-" and rows[1][-1] == "-"  # nothing is selected; memory needs CUDA


def test_a_resumed_call_measures_nothing_twice(script, run):
    before = run[0].read_bytes()
    assert script.main(run[1]) == 0 and run[0].read_bytes() == before


def test_no_minutes_measure_nothing(script, tmp_path, capsys):
    path = tmp_path / "none.json"
    assert script.main(["--size", "tiny", "--json", str(path), "--minutes", "0"]) == 0
    assert not path.exists() and "paths: 0 of 7 rows" in capsys.readouterr().out


def test_an_interrupted_call_keeps_its_rows_and_failed_ones_are_repeated(script, tmp_path, monkeypatch):
    path, measure = tmp_path / "record.json", script.path_row
    found = {"lowres": torch.OutOfMemoryError("full"), "hd-flat": ValueError("odd"), "hd": KeyboardInterrupt()}

    def failing(timing, variant):
        if variant.name in found:
            raise found[variant.name]
        return measure(timing, variant)

    monkeypatch.setattr(script, "path_row", failing)
    arguments = ["--size", "tiny", "--parts", "paths", "--json", str(path)]
    assert script.main(arguments) == 130
    rows = read(path)["paths"]
    assert [row["outcome"] for row in rows] == ["measured", "out of memory", "failed: ValueError: odd"]
    monkeypatch.setattr(script, "path_row", lambda timing, variant: {})
    assert script.main(arguments) == 0
    after = {row["key"]: row for row in read(path)["paths"]}
    assert after["shirg-12"] == rows[0] and after["lowres"] == rows[1]  # a row, and a result
    assert after["hd-flat"]["outcome"] == "measured" and len(after) == 7


def test_another_size_or_device_needs_another_file(script, run, tmp_path, capsys):
    path = tmp_path / "other.json"
    record = read(run[0])
    record["machine"]["device"] = "NVIDIA H200"
    path.write_text(json.dumps(record))
    assert script.main(["--size", "tiny", "--json", str(path)]) == 2
    assert "is of tiny, NVIDIA H200, " in capsys.readouterr().err
    path.write_text("{}")
    assert script.main(["--size", "tiny", "--json", str(path)]) == 2
    assert script.main(["--json", str(path)]) == 2 and "needs a CUDA device" in capsys.readouterr().err


def test_full_size_is_that_of_lavida(script):
    full = script.SIZES["full"]
    assert [rows * columns * views for views, rows, columns in full.grids] == [729, 2304, 3645]
    assert full.config.vision_hidden_size == 1152 and full.main_budget == 768


class Spared(importlib.machinery.PathFinder):
    """Finds what is installed, but for `SPARED`."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in SPARED else super().find_spec(name, path, target)


def help_without_what_is_spared() -> None:
    forked.forget("shirg", "transformers", "peft", "accelerate", *SPARED)
    sys.meta_path[:] = [Spared if one is importlib.machinery.PathFinder else one for one in sys.meta_path]
    sys.path[:0] = [str(BENCHMARKS.parent), str(BENCHMARKS)]
    sys.argv = ["full_size.py", "--help"]
    runpy.run_path(str(BENCHMARKS / "full_size.py"), run_name="__main__")


def test_a_gpu_machine_needs_few_packages():
    ended = forked.run(help_without_what_is_spared)
    assert ended.code == 0 and "--minutes" in ended.out, ended.err
