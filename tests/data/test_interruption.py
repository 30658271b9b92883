"""A preparation that may be stopped anywhere, and what it does about folders that it did not finish."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from shirg.data import preparation
from shirg.data.records import Record
from shirg.data.sources.rendered import RenderedPages
from shirg.errors import UserError
from tests.data.preparing import picture, prepare, put_captions
from tests.forked import started


@pytest.mark.parametrize("stop_at", [1, 2, 7])
def test_stopped_and_continued_equals_one_go(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
):
    folder, rendered = tmp_path / "data", []
    render = RenderedPages.page_records

    def stops(self: RenderedPages, number: int) -> list[Record]:
        rendered.append(number)
        if len(rendered) == stop_at:
            raise KeyboardInterrupt
        return render(self, number)

    monkeypatch.setattr(RenderedPages, "page_records", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder)
    assert not (folder / "manifest.json").exists()
    finished = {path.name for path in folder.iterdir() if path.is_file()}
    assert not any(path.name.startswith((".train", ".validation")) for path in folder.iterdir())
    before = {name: (folder / name).stat().st_mtime_ns for name in finished if name.endswith(".parquet")}
    assert prepare(folder) == {path.name: path.read_bytes() for path in whole.iterdir()}
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before


def test_stopped_among_broken_images_and_continued(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = {"data_dir": lab, "base_dataset_size": 22, "ocr_enhancement_size": 3, "shard_size": 4, "allow_fewer": True}
    whole = prepare(tmp_path / "whole", **asked)
    write, written = preparation.write_shard, []

    def fails(path: Path, stream: object) -> int:
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        return write(path, stream)

    monkeypatch.setattr(preparation, "write_shard", fails)
    with pytest.raises(UserError, match="No space left on device; finished shards are kept"):
        prepare(tmp_path / "parts", **asked)
    monkeypatch.setattr(preparation, "write_shard", write)
    assert prepare(tmp_path / "parts", **asked) == whole


def test_killed_and_continued_equals_one_go(tmp_path: Path):
    """The process is killed as a power cut would, its workers end by themselves, and the next run takes over."""
    file = put_captions(tmp_path / "own", [(f"{number}.jpg", picture(number)) for number in range(60)])
    folder = tmp_path / "killed"
    size = {"base_dataset_size": 60, "ocr_enhancement_size": 30, "shard_size": 10}
    asked = size | {"base_json": (file,), "render_missing": True}
    process = started(lambda: prepare(folder, num_workers=2, **asked))
    until = time.monotonic() + 120
    while len(list(folder.glob("*.parquet"))) < 3 and process.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.join()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert len(before) >= 3
    assert process.exitcode == -signal.SIGKILL and not (folder / "manifest.json").exists()
    continued = prepare(folder, **asked)
    again = [name for name, when in before.items() if (folder / name).stat().st_mtime_ns != when]
    assert len(again) <= 1  # a shard that was finished, and the note about it not yet
    assert continued == prepare(tmp_path / "whole", **asked)


def test_finished_folder_is_left_alone(whole: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preparation, "write_shard", lambda *_: pytest.fail("a shard was written"))
    prepare(whole)


def test_damaged_shard_is_made_again(tmp_path: Path):
    first = prepare(tmp_path)
    (tmp_path / "train-00001.parquet").write_bytes(b"half")
    (tmp_path / ".train-00002.parquet.k1ll3d").mkdir()
    assert prepare(tmp_path) == first


def test_other_configuration_replaces_our_shards_only(tmp_path: Path):
    prepare(tmp_path, shard_size=10)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    files = prepare(tmp_path, shard_size=70)
    expected = {"train-00000.parquet", "validation-00000.parquet", "manifest.json", ".progress.json", "notes.txt"}
    assert set(files) == expected


def test_foreign_shards_are_not_overwritten(tmp_path: Path):
    (tmp_path / "train-00000.parquet").write_bytes(b"somebody else's")  # and no journal beside it
    with pytest.raises(UserError, match=r"SHIRG did not write train-00000\.parquet"):
        prepare(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_damaged_journal_is_named(tmp_path: Path, content: str):
    (tmp_path / ".progress.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"\.progress\.json: damaged"):
        prepare(tmp_path)
