"""`shirg assemble`, `shirg convert`, and the flags about a model that is loaded."""

from __future__ import annotations

import huggingface_hub
import pytest
import torch
import tyro
from safetensors.torch import load_file

from shirg import cli
from shirg.cli import answer
from shirg.cli.models import load_model
from shirg.errors import UserError
from shirg.lavida import Lavida
from tests.lavida.test_assemble import Malicious, plain_language, projector_state, siglip
from tests.tiny import tiny_model


def run(capsys, *arguments: object) -> tuple[int, str]:
    """Exit code, and what was said on either stream."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out + captured.err


def test_from_a_pickled_projector_to_a_model(tmp_path, capsys):
    language, tower, output = plain_language(tmp_path / "llada"), siglip(tmp_path / "siglip"), tmp_path / "lavida"
    source, target = tmp_path / "mm_projector.bin", tmp_path / "mm_projector.safetensors"
    torch.save(projector_state(), source)
    assemble = ["assemble", "--language", language, "--tower", tower, "--output", output]
    code, said = run(capsys, *assemble, "--projector", source)
    last = said.splitlines()[-1]  # behind what is said of the special ids
    assert code == 2 and last.startswith("shirg: error: --projector: ")
    assert "`shirg convert mm_projector.bin mm_projector.safetensors`" in last and not output.exists()
    assert run(capsys, "convert", source, target) == (0, f"projector 16 -> 32 -> 32: {target}\n")
    code, said = run(capsys, *assemble, "--projector", target)
    assert code == 0 and f"in float32, projector {target}: {output}" in said
    model = Lavida.from_pretrained(output)
    assert torch.equal(model.mm_projector[0].weight, projector_state()["model.mm_projector.0.weight"])
    code, said = run(capsys, *assemble)
    assert code == 2 and f"--output: {output} is not empty" in said and said.count("\n") == 1


def test_a_random_projector_is_said_to_be_one(tmp_path, capsys):
    parts = ["--language", plain_language(tmp_path / "llada"), "--tower", siglip(tmp_path / "siglip")]
    code, said = run(capsys, "assemble", *parts, "--output", tmp_path / "lavida", "--seed", 7)
    assert code == 0 and "projector random, seed 7" in said


def test_convert_replaces_another_file_only_when_told(tmp_path, capsys):
    source, target = tmp_path / "p.bin", tmp_path / "p.safetensors"
    torch.save(projector_state(), source)
    assert run(capsys, "convert", source, target)[0] == 0
    before = target.read_bytes()
    assert run(capsys, "convert", source, target)[0] == 0  # the same again
    torch.save(projector_state(width=24), source)
    code, said = run(capsys, "convert", source, target)
    assert code == 2 and "--force" in said and said.count("\n") == 1
    assert target.read_bytes() == before
    assert run(capsys, "convert", source, target, "--force")[0] == 0
    assert load_file(target)["model.mm_projector.0.weight"].shape == (32, 24)


def test_mistakes_are_one_line(tmp_path, capsys):
    torch.save({"model.mm_projector.0.weight": Malicious(tmp_path / "it_ran")}, tmp_path / "evil.bin")
    for arguments, says in (
        (["convert", tmp_path / "evil.bin", tmp_path / "p"], "nothing in it was run"),
        (["convert", tmp_path / "absent.bin", tmp_path / "p"], "absent.bin: no such file or folder"),
        (["assemble", "--language", tmp_path, "--tower", tmp_path, "--output", tmp_path / "x"], "no config.json"),
        (["assemble", "--language", tmp_path / "y", "--tower", "z", "--output", tmp_path / "x"], "no such folder"),
    ):
        code, said = run(capsys, *arguments)
        assert code == 2 and says in said and said.count("\n") == 1, said
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    ("name", "explains"),
    [
        ("assemble", ("--projector", "cannot use images until", "shirg convert")),
        ("convert", ("weights_only=True", "--force")),
    ],
)
def test_help_teaches(name, explains, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    code, said = run(capsys, name, "--help")
    assert code == 0 and all(words in said for words in explains)


def test_revision_and_fit_reach_the_model(tmp_path, monkeypatch):
    tiny_model(image_aspect_ratio="pad").save_pretrained(tmp_path / "tiny")
    asked = []

    def download(_name, *, revision, allow_patterns):
        asked.append(revision)
        return str(tmp_path / "tiny")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    flags = tyro.cli(answer.Flags, args=["p.png", "What?", "--model", "a/b", "--revision", "v2"])
    assert load_model(flags).vision.fit == "pad" and asked == ["v2"]
    flags = tyro.cli(answer.Flags, args=["p.png", "What?", "--model", str(tmp_path / "tiny"), "--fit", "stretch"])
    assert load_model(flags).vision.fit == "stretch"
    flags = tyro.cli(answer.Flags, args=["p.png", "What?", "--revision", "v2"])
    with pytest.raises(UserError, match="revision='v2'"):
        load_model(flags)
