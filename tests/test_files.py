"""Writing that is complete or absent."""

from __future__ import annotations

import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from shirg import files
from shirg.errors import UserError
from shirg.files import atomic_path, clear_leftovers, remove_folder, write_json, write_text


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with pytest.raises(RuntimeError), atomic_path(target) as fresh:
        fresh.write_text("half")
        raise RuntimeError
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]
    write_text(target, "one")
    with pytest.raises(RuntimeError), atomic_path(target) as fresh:
        fresh.write_text("half")
        raise RuntimeError
    assert target.read_text() == "one"
    write_text(target, "two")
    assert target.read_text() == "two" and [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_a_folder_takes_the_place_of_another(tmp_path):
    for name in ("one", "two"):
        with atomic_path(tmp_path / "folder") as fresh:
            (fresh / "inner").mkdir(parents=True)
            (fresh / "inner" / name).write_text(name)
    assert [path.name for path in (tmp_path / "folder" / "inner").iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_stopped_between_the_renames_the_old_folder_stays(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "folder") as fresh:
        fresh.mkdir()
    assert len(calls) == 3
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "old"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_permissions_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "folder") as fresh:
            fresh.mkdir()
            save_file({"a": torch.zeros(2)}, fresh / "a.safetensors")
            (fresh / "a.safetensors").chmod(0o600)  # as safetensors leaves it, in the versions that do
        with atomic_path(tmp_path / "b.safetensors") as fresh:
            save_file({"b": torch.zeros(2)}, fresh)
    finally:
        os.umask(before)
    assert mode(tmp_path / "folder") == 0o777 & ~umask
    for path in (tmp_path / "folder" / "a.safetensors", tmp_path / "b.safetensors"):
        assert mode(path) == 0o666 & ~umask


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "a.json", {"a": "\u00e9"})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "a": "\u00e9"\n}\n'.encode()


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    """Killed between the two renames that replace a folder: the old one comes back, and nothing temporary stays."""
    killed = tmp_path / ".best.abcd1234"
    (killed / "best.replaced").mkdir(parents=True)
    (killed / "best.replaced" / "weights").write_text("old")
    (killed / "best").mkdir()
    half = tmp_path / ".other.12_45678"
    (half / "other").mkdir(parents=True)
    foreign = tmp_path / ".foreign.12345678"
    (foreign / "something").mkdir(parents=True)
    clear_leftovers(tmp_path)
    assert (tmp_path / "best" / "weights").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".foreign.12345678", "best"]


def test_a_successor_that_came_stays(tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / ".best.abcd1234" / "best.replaced").mkdir(parents=True)
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_folder_is_removed_whole(tmp_path):
    (tmp_path / "old" / "inside").mkdir(parents=True)
    remove_folder(tmp_path / "old")
    assert not list(tmp_path.iterdir())


def test_an_output_folder_is_tried_before_work_begins(tmp_path):
    files.check_writable(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir() and not any((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").write_text("")
    for folder, says in (
        (tmp_path / "file", "is a file; give a folder"),
        (tmp_path / "file" / "in", "cannot be written"),
    ):
        with pytest.raises(UserError, match=f"output_dir: .* {says}"):
            files.check_writable(folder)
