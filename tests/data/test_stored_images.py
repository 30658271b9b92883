"""How images lie in the shards: as they are, linked, or converted."""

from __future__ import annotations

from pathlib import Path

import pytest

from shirg.data import preparation
from shirg.data.records import image_id
from shirg.data.shards import SPLITS
from shirg.data.sources.rendered import RECORDS_PER_SLOT
from shirg.errors import UserError
from tests.data.preparing import picture, prepare, put_captions, records


def test_several_questions_about_an_image_store_it_once(whole: Path):
    train = records(whole, "train")
    images = {r.image_id: len(r.image) for r in train}
    assert len(images) < len(train) / (RECORDS_PER_SLOT - 2)
    stored = sum(path.stat().st_size for path in whole.glob("train-*.parquet"))
    assert stored < 1.5 * sum(images.values()) + 60_000


def test_linked_images_are_read_from_where_they_are(lab: Path, tmp_path: Path):
    asked = {"data_dir": lab, "base_dataset_size": 20, "ocr_enhancement_size": 3}
    embedded, linked = tmp_path / "embedded", tmp_path / "linked"
    assert sum(map(len, prepare(linked, **asked, images="link").values())) < 40_000
    prepare(embedded, **asked)
    for split in SPLITS:
        pairs = zip(records(embedded, split), records(linked, split), strict=True)
        for ours, theirs in pairs:
            assert (ours.id, ours.image_id, ours.image) == (theirs.id, theirs.image_id, theirs.image)
            assert Path(theirs.path).read_bytes() == theirs.image and not ours.path
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset("parquet", data_dir=str(linked), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"][0]["image"].size == (16, 8)


def test_what_cannot_be_kept_as_it_is_gets_converted(tmp_path: Path):
    """A large JPEG is shrunk, a GIF called .png becomes one; both are held even where images are linked."""
    file = put_captions(tmp_path / "own", [("large.jpg", picture(1, (400, 100))), ("b.png", picture(2))])
    picture(3).convert("P").save(tmp_path / "own/b.png", "GIF")
    asked = {"base_dataset_size": 2, "ocr_enhancement_size": 0, "validation_fraction": 0.0, "base_json": (file,)}
    prepare(tmp_path / "data", **asked, images="link", max_image_side=200)
    found = {r.id: r for r in records(tmp_path / "data", "train")}
    large, gif = found["captions:large.jpg:0"], found["captions:b.png:0"]
    assert (large.width, large.height, large.image[:2]) == (200, 50, b"\xff\xd8")
    assert (gif.width, gif.height, gif.image[1:4]) == (96, 64, b"PNG")
    assert all(r.open_image().size == (r.width, r.height) and not r.path for r in found.values())
    assert all(image_id(r.image) == r.image_id for r in found.values())


def test_image_that_changes_meanwhile_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = put_captions(tmp_path / "own", [("a.png", picture(1))])
    write = preparation.write_shard

    def changed(path: Path, stream: object) -> int:
        picture(2).save(tmp_path / "own/a.png")
        return write(path, stream)

    monkeypatch.setattr(preparation, "write_shard", changed)
    asked = {"base_dataset_size": 1, "ocr_enhancement_size": 0, "validation_fraction": 0.0, "base_json": (file,)}
    with pytest.raises(UserError, match=r"a\.png: changed since the scan"):
        prepare(tmp_path / "data", **asked)
