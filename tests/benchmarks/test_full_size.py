"""The full-size measurements in their CPU form: complete rows, calls that go on, and no more imports than a GPU machine has."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import shirg
from scripts import tables
from shirg.gate import Kept

BENCHMARKS = Path(shirg.__file__).resolve().parents[1] / "benchmarks"
SPARED = ("PIL", "datasets", "pyarrow", "matplotlib", "rich", "tyro", "rapidfuzz", "psutil", "markdown_it", "pandas")


@pytest.fixture(scope="module")
def script():
    """The script as a module, with fewer shapes than its tiny size has, on a CPU wherever it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import full_size
        import full_size_gate

        patch.setattr(torch.cuda, "is_available", lambda: False)
        tiny = dataclasses.replace(full_size.SIZES["tiny"], budgets=(12,), micro_batches=(1,))
        patch.setitem(full_size.SIZES, "tiny", tiny)
        patch.setattr(full_size_gate, "STEPWISE", tuple(full_size_gate.SELECTORS))  # compile our own rule alone
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


# ---------------------------------------------------------------- rows


def test_all_rows_are_there_and_complete(run):
    record = read(run[0])
    assert {row["outcome"] for part in ("paths", "train", "gate") for row in record[part]} == {"measured"}
    paths = {row["key"]: row for row in record["paths"]}
    # 16 tokens a view; pooled 4 of each of five views, with newlines 4 + 4 x (4 + 1)
    wanted = {
        "lowres": 16,
        "hd-flat": 20,
        "hd": 24,
        "highres": 36,
        "shirg-12": 13,
        "multiview-all": 80,
        "multiview-12": 13,
    }
    assert {key: row["visual_tokens"] for key, row in paths.items()} == wanted
    for row in paths.values():
        assert row["kv_bytes"] == row["kv_bytes_computed"] == row["prefix_tokens"] * 2 * 2 * 32 * 2
        assert ("gate" in row["stages"]) == (row["budget"] is not None)
        for stage in row["stages"].values():
            assert stage["median_ms"] > 0 and stage["floor"]["bytes"] > 0 and stage["floor"]["flops"] > 0
        assert row["stages"]["answer"]["passes"] == row["stages"]["answer_uncached"]["passes"] == 2


def test_training_rows_follow_from_their_times(run):
    rows = {row["key"]: row for row in read(run[0])["train"]}
    assert len(rows) == 2 * 2 * 2  # objective, ratio, checkpointing
    for row in rows.values():
        whole = row["step"]["median_ms"] + row["look_per_image"]["median_ms"]
        assert row["hours_for_all"] == pytest.approx(608_000 / 8 * whole / 3.6e6, abs=1e-3)
        assert row["language_tokens"] == row["rows"] * row["row_tokens"]
    packed, pair = rows["packed 12 x1 plain"], rows["two-copy 12 x1 plain"]
    assert (packed["rows"], packed["row_tokens"]) == (1, 13 + 8 + 2 * 4) and (pair["rows"], pair["row_tokens"]) == (
        2,
        25,
    )


def test_gate_rows_say_what_a_cpu_cannot(run):
    rows = {row["key"]: row for row in read(run[0])["gate"]}
    assert len(rows) == 12 * 3 * 2  # rules and the preset, three grids, one image and two
    for row in rows.values():
        assert row["eager"]["median_ms"] > 0 and row["eager"]["runs"] == 2
        assert row["captured"] == row["choice"] == row["eager"]["peak_bytes"] == "not measured: no CUDA device"
    assert rows["shirg 36->12 x1 bfloat16"]["compiled"]["median_ms"] > 0
    ours = rows["shirg 36->12 x2 bfloat16"]
    assert ours["floor"]["ms"] is None
    # tokens, words and the kept in 2 bytes, pixels in 4
    assert ours["floor"]["bytes"] == 2 * (2 * 16 * (36 + 32 + 13) + 4 * 3 * 84 * 84)


def test_the_table_is_made_from_the_record(run):
    *rows, mark = tables.full_size(read(run[0]))
    assert [row[:2] for row in rows][:2] == [["shirg-12", "13"], ["lowres", "16"]]
    assert {len(row) for row in (*rows, mark)} == {11} and "cpu" in mark[0] and "torch" in mark[0]
    assert rows[1][3] == "-" and rows[1][-1] == "-"  # nothing is selected; memory needs CUDA


# ---------------------------------------------------------------- calls


def test_a_resumed_call_adds_nothing_twice(script, run, capsys):
    before = run[0].read_bytes()
    assert script.main(run[1]) == 0 and run[0].read_bytes() == before
    assert "all rows of paths, train, gate are in" in capsys.readouterr().out


def test_no_minutes_measure_nothing(script, tmp_path, capsys):
    path = tmp_path / "none.json"
    assert script.main(["--size", "tiny", "--json", str(path), "--minutes", "0"]) == 0
    assert not path.exists() and "left or failed: paths 7, train 8, gate 78" in capsys.readouterr().out


def test_an_interrupted_call_keeps_its_rows_and_failed_ones_come_again(script, tmp_path, monkeypatch, capsys):
    path, measure = tmp_path / "record.json", script.PathsPart.measure
    found = {"lowres": torch.OutOfMemoryError("full"), "hd-flat": ValueError("odd"), "hd": KeyboardInterrupt()}

    def failing(part, case):
        if case.key in found:
            raise found[case.key]
        return measure(part, case)

    monkeypatch.setattr(script.PathsPart, "measure", failing)
    arguments = ["--size", "tiny", "--parts", "paths", "--json", str(path)]
    assert script.main(arguments) == 130
    rows = read(path)["paths"]
    outcomes = ["measured", "out of memory", "failed: ValueError: odd"]
    assert [row["outcome"] for row in rows] == outcomes and rows[0]["key"] == "shirg-12"
    monkeypatch.setattr(script.PathsPart, "measure", lambda part, case: {})
    assert script.main(arguments) == 0
    after = {row["key"]: row for row in read(path)["paths"]}
    assert after["shirg-12"] == rows[0] and after["lowres"] == rows[1]  # measured, and a result
    assert after["hd-flat"] == {"key": "hd-flat", "outcome": "measured", "call": 1} and len(after) == 7
    capsys.readouterr()


def test_another_size_or_device_wants_another_file(script, run, tmp_path, capsys):
    path = tmp_path / "other.json"
    record = read(run[0])
    record["machine"]["device"] = "NVIDIA H200"
    path.write_text(json.dumps(record))
    assert script.main(["--size", "tiny", "--json", str(path)]) == 2
    assert "device 'NVIDIA H200', this is 'cpu'; use another file" in capsys.readouterr().err
    path.write_text("{}")
    assert script.main(["--size", "tiny", "--json", str(path)]) == 2
    assert script.main(["--json", str(path)]) == 2 and "needs a CUDA device" in capsys.readouterr().err


# ---------------------------------------------------------------- parts


def test_floors_by_hand(script):
    from full_size_clock import floor

    # 3.35 GB at 3.35 TB/s are 1 ms; 989 GFLOP at 989 TFLOP/s too
    assert floor("NVIDIA H100 80GB HBM3", 3_350_000_000, 1)["ms"] == 1.0
    assert floor("NVIDIA H100 80GB HBM3", 1, 2 * 989 * 10**9)["ms"] == 2.0
    assert floor("another", 1, 2) == {"bytes": 1, "flops": 2, "ms": None}


def test_ties_are_no_disagreement(script):
    from full_size_gate import compare

    def kept(indices, scores=(0.5, 0.4995, 0.1, 0.9)):
        tokens, clusters, assignment = torch.zeros(1, 3, 1), torch.zeros(1, 4).long(), torch.full((1, 4), -1)
        assignment[0, indices] = torch.arange(len(indices))
        return Kept(tokens, torch.tensor([indices]), torch.tensor([scores]), clusters, assignment)

    assert compare(kept([0, 3]), kept([0, 3])) == {"tokens": 2, "exchanged": 0, "largest_gap": 0.0, "agree": True}
    near = compare(kept([0, 3]), kept([1, 3]))
    assert near["exchanged"] == 1 and near["agree"] and near["largest_gap"] == pytest.approx(5e-4, rel=1e-3)
    assert not compare(kept([0, 3]), kept([2, 3]))["agree"]


def test_what_fits_under_the_limit(script):
    def row(micro_batch, reserved, hours):
        given = {"objective": "packed", "ratio": 768, "checkpointing": False, "micro_batch": micro_batch}
        return given | ({"reserved_bytes": reserved, "hours_for_all": hours} if reserved else {})

    rows = [row(1, 20 * 10**9, 4.0), row(2, 40 * 10**9, 3.0), row(4, 41 * 10**9, 2.0), row(8, None, None)]
    assert script.summary(rows) == {"packed 768 plain": {"largest_micro_batch": 2, "least_hours": 3.0}}


def test_full_size_is_what_lavida_is(script):
    full = script.SIZES["full"]
    assert [rows * columns * views for views, rows, columns in full.grids] == [729, 2304, 3645]
    assert full.config.vision_hidden_size == 1152 and full.main_budget == 768


def test_a_gpu_machine_needs_little(tmp_path):
    """Help is shown where only torch, numpy, transformers, safetensors, peft and accelerate are installed beside."""
    code = f"""
import importlib.machinery, runpy, sys
class Spared(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {SPARED!r} else super().find_spec(name, path, target)
sys.meta_path = [Spared if one is importlib.machinery.PathFinder else one for one in sys.meta_path]
sys.argv = ["full_size.py", *sys.argv[1:]]
runpy.run_path({str(BENCHMARKS / "full_size.py")!r}, run_name="__main__")
"""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{BENCHMARKS.parent}:{BENCHMARKS}"}
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--minutes" in done.stdout, done.stderr
