"""What the doctor says of a sound machine, and of each thing that can be wrong with one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch

from shirg import cli
from shirg.cli import checkup, doctor
from shirg.data.preparation import SHIRGDatasetConfig, SHIRGDatasetProcessor
from shirg.lavida.shapes import published_config
from shirg.training.memory import Step
from tests.evaluation.conftest import RECORDS, adapted_model
from tests.tiny import tiny_config, tiny_model


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    config = SHIRGDatasetConfig(4, 0, tmp_path_factory.mktemp("data"), validation_fraction=0.0, num_workers=0)
    return SHIRGDatasetProcessor(config).prepare_full_dataset()


def look(model: Path | str, **flags: object) -> dict[str, checkup.Finding]:
    return {finding.name: finding for finding in doctor.findings(doctor.Flags(model=str(model), **flags))}


def test_a_sound_machine(model, prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["--model", model, "--prepared-dir", prepared, "--output-dir", tmp_path / "not" / "yet"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", *map(str, arguments)])
    said = capsys.readouterr().out
    assert stop.value.code == 0, said
    busy = "-> other programs keep" in said  # then nothing is said of the machine's speed
    assert said.endswith("9 ok, 0 failed, 1 not checked\n" if busy else "10 ok, 0 failed, 0 not checked\n")
    assert f"torch {metadata.version('torch')}" in said and "4 records in 1 shards, the first image opens" in said
    assert not (tmp_path / "not").exists()


def test_the_table_folds_in_a_narrow_window(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", "--model", str(model / "missing"), "--output-dir", str(tmp_path)])
    said = capsys.readouterr().out
    assert stop.value.code == 1 and "1 failed" in said and "FAILED" in said
    assert max(map(len, said.splitlines())) <= 50


@pytest.mark.parametrize(
    ("requirement", "says", "remedy"),
    [
        ("no-such-package>=1", "not installed", 'pip install "no-such-package>=1"'),
        ("torch>=99", "must be >=99", 'pip install "torch>=99"'),
    ],
)
def test_packages(requirement, says, remedy, model, monkeypatch):
    monkeypatch.setattr(checkup, "requirements", lambda: (">=3.11", [requirement, "absent; python_version < '3'"]))
    found = look(model)
    name = requirement.partition(">")[0]
    assert found[name].good is False and says in found[name].found and found[name].remedy == remedy
    assert found["Python"].good and {found[one].good for one in ("weights", "GPU", "data", "disk")} == {None}


def test_another_python(model, monkeypatch):
    monkeypatch.setattr(checkup, "requirements", lambda: ("<3", []))
    found = look(model)["Python"]
    assert found.good is False and "make demo" in found.remedy


def test_requirements_are_those_of_the_project():
    python, texts = checkup.requirements()
    assert python == ">=3.11,<3.14" and any(text.startswith("torch>=") for text in texts)


def test_a_pillow_with_other_pixels(model, monkeypatch):
    from PIL import Image

    resized = Image.Image.resize
    nearest = Image.Resampling.NEAREST
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *_, **__: resized(self, size, nearest))
    found = checkup.images()
    assert found.good is False and "other pixels" in found.found and "pillow>=12" in found.remedy
    monkeypatch.undo()
    assert checkup.images().good


def test_damaged_weights(model, tmp_path):
    broken = shutil.copytree(model, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    found = look(broken)
    assert found["weights"].good is False and "not a readable safetensors file" in found["weights"].found
    assert "the model's files again" in found["weights"].remedy
    assert found["memory"].good and found["peft"].good is None

    (broken / "config.json").write_text("{")
    found = look(broken)
    assert found["GPU"].good is found["memory"].good is None
    assert "not readable JSON" in found["weights"].found


def test_no_tokenizer(model, tmp_path):
    silent = shutil.copytree(model, tmp_path / "silent", ignore=shutil.ignore_patterns("token*", "chat*"))
    found = look(silent)
    assert found["weights"].good is False and "tokenizer" in found["weights"].remedy
    assert found["peft"].good


def test_a_model_of_the_hub_that_is_not_here(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = look("owner/name", revision="v1")
    assert found["weights"].good is False and found["weights"].remedy == "hf download owner/name --revision v1"


def test_memory_names_the_plainest_way_that_fits():
    config, step = published_config("llada-8b"), Step(dtype="bfloat16")
    plain = checkup.memory(config, step, 80 * 10**9)
    assert plain.good and "--gradient" not in plain.found
    tight = checkup.memory(config, step, 24 * 10**9)
    assert tight.good and tight.found.endswith("with --gradient-checkpointing")
    none = checkup.memory(config, step, 10**9)
    assert none.good is False and "GB" in none.remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_only_a_large_model_needs_a_gpu():
    small, large = checkup.device_and_memory(tiny_config()), checkup.device_and_memory(published_config("llada-8b"))
    assert small[0].good and large[0].good is False and "GPU with 2" in large[0].remedy


def test_data_cut_short(prepared, tmp_path):
    copy = shutil.copytree(prepared, tmp_path / "copy")
    shard = next(copy.glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    found = checkup.data(copy)
    assert found.good is False and shard.name in found.found and "shirg prepare" in found.remedy
    missing = look("nano", prepared_dir=tmp_path)["data"]
    assert missing.good is False and "shirg prepare" in missing.remedy


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    found = checkup.disk(Path("/proc/shirg"))
    assert found.good is False and "--output-dir" in found.remedy
    assert checkup.disk(tmp_path / "file" / "folder").good is False
    assert "GB free" in checkup.disk(tmp_path).found


def test_adapter_that_reloads(tmp_path):
    model, page = adapted_model(), RECORDS[0].open_image()
    model.save_adapter(tmp_path / "adapter", settings={})

    def load_base():
        base = tiny_model()
        base.vision = replace(base.vision, resolution=168)
        return base

    assert checkup.adapter_reloads(model, load_base, tmp_path / "adapter", page, [24, 48]).good
    model.mm_projector[0].lora_B["default"].weight.data += 1
    changed = checkup.adapter_reloads(model, load_base, tmp_path / "adapter", page, [24])
    assert changed.good is False and "largest difference" in changed.found
    missing = checkup.adapter_reloads(model, load_base, tmp_path / "none", page, [24])
    assert missing.good is False and "none" in missing.found
