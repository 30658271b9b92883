"""Everything that a folder of downloads may hold: each image and entry is used or listed with a reason, none ends a run."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shirg.data import SHIRGDatasetConfig, SHIRGDatasetProcessor
from shirg.data.image_scan import scan_image
from shirg.data.manifest import check_folder
from shirg.data.records import Record, image_id
from shirg.data.shards import SPLITS, ShardReader


def noise(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose few bytes claim many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def palette_with_transparency() -> bytes:
    image = noise().convert("P")
    return encoded(image, "PNG", transparency=3)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(), "JPEG", exif=exif)


USABLE = {
    "plain.jpg": (encoded(noise(), "JPEG"), (40, 30)),
    "gif.png": (encoded(noise(), "GIF"), (40, 30)),
    "jpeg.png": (encoded(noise(), "JPEG"), (40, 30)),
    "cmyk.jpg": (encoded(noise().convert("CMYK"), "JPEG"), (40, 30)),
    "deep.png": (encoded(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50), "PNG"), (40, 30)),
    "palette.png": (palette_with_transparency(), (40, 30)),
    "rotated.jpg": (rotated(), (30, 40)),
    "exif.jpg": (encoded(noise(), "JPEG", dpi=(72, 72), exif=b"Exif\0\0http://ns.adobe.com/"), (40, 30)),
    "dot.png": (encoded(noise(1, 1), "PNG"), (1, 1)),
    "long.png": (encoded(noise(30_000, 2), "PNG"), (4096, 1)),
    "noname": (encoded(noise(), "WEBP"), (40, 30)),
}
BROKEN = {
    "cut.png": encoded(noise(), "PNG")[:800],
    "cut.jpg": encoded(noise(200, 200), "JPEG")[:2000],
    "text.png": b"<html>404</html>",
    "empty.jpg": b"",
    "bomb.png": bomb(30_000, 30_000),
    "lie.png": bomb(5_000, 5_000),
}
NAMES = ["gone.jpg", "/etc/hostname", "../outside.png", "a/../../outside.png", "C:\\outside.png", "folder", ""]


def prepare(tmp_path: Path, lines: list[str], size: int, **more: object) -> dict:
    (tmp_path / "own").mkdir(exist_ok=True)
    (tmp_path / "own/mix.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = SHIRGDatasetConfig(
        size, 0, tmp_path / "data", base_json=(tmp_path / "own/mix.jsonl",), num_workers=0, allow_fewer=True, **more
    )
    folder = SHIRGDatasetProcessor(config).prepare_full_dataset()
    assert check_folder(folder) == []
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def records(folder: Path) -> list[Record]:
    return [r for split in SPLITS for path in sorted(folder.glob(f"{split}-*.parquet")) for r in ShardReader(path)]


def line(name: object, question: object = "<image>\nq", answer: object = "a", **more: object) -> str:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return json.dumps({"id": "same", "image": name, "conversations": turns} | more)


def test_every_kind_of_invalid_input_is_used_or_rejected(tmp_path: Path):
    own = tmp_path / "own"
    (own / "folder").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(USABLE["plain.jpg"][0])
    for name, data in (BROKEN | {name: data for name, (data, _) in USABLE.items()}).items():
        (own / name).write_bytes(data)
    lines = [line(name) for name in (*USABLE, *BROKEN, *NAMES)]
    lines += ["{broken", line("plain.jpg", answer=""), line("plain.jpg", question=" "), line("plain.jpg")]
    result = prepare(tmp_path, lines, len(lines), max_image_side=4096)
    found = {r.id.split(":")[1]: r for r in records(tmp_path / "data")}
    assert {name: (r.width, r.height) for name, r in found.items()} == {
        name: size for name, (_, size) in USABLE.items()
    }
    assert all(r.open_image().size == (r.width, r.height) and r.image_id == image_id(r.image) for r in found.values())
    reasons = [(entry["item"], entry["reason"]) for entry in result["rejected"]]
    assert len(reasons) == len(lines) - len(USABLE)
    listed = dict(reasons)
    assert "not a PNG" in listed["text.png"] and "not a PNG" in listed["empty.jpg"]
    assert "pixels" in listed["bomb.png"] and "truncated" in listed["cut.jpg"]
    assert all("not a path inside" in listed[name] for name in NAMES[1:5])
    assert "No such file" in listed["gone.jpg"] and "Is a directory" in listed["folder"]
    assert "not JSON" in listed["mix.jsonl line 25"]
    plain = [reason for item, reason in reasons if item == "plain.jpg"]
    assert [reason.split()[0] for reason in plain] == ["answer", "question", "duplicate"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(NAMES),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["from", "value", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "id": ANYTHING,
        "image": st.sampled_from(["plain.jpg", "cut.png", *NAMES]) | ANYTHING,
        "conversations": ANYTHING
        | st.tuples(ANYTHING, ANYTHING).map(
            lambda said: [{"from": "human", "value": said[0]}, {"from": "gpt", "value": said[1]}]
        ),
    },
)


@settings(max_examples=40, deadline=None)
@given(entries=st.lists(ENTRY | ANYTHING, max_size=6))
def test_records_of_any_form_never_end_a_run(entries: list[object], tmp_path_factory: pytest.TempPathFactory):
    tmp_path = tmp_path_factory.mktemp("fuzz")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/plain.jpg").write_bytes(USABLE["plain.jpg"][0])
    (tmp_path / "own/cut.png").write_bytes(BROKEN["cut.png"])
    result = prepare(tmp_path, [line("plain.jpg"), *map(json.dumps, entries)], 50, validation_fraction=0.0)
    kept = records(tmp_path / "data")
    assert len(kept) == result["total_samples"] >= 1
    assert {r.image_id for r in kept} == {image_id(USABLE["plain.jpg"][0])}  # nothing from outside the folder


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(USABLE)), seed=st.integers(0, 2**32), count=st.integers(1, 12))
def test_flipped_bytes_are_used_or_rejected(name: str, seed: int, count: int, tmp_path_factory: pytest.TempPathFactory):
    source, data = random.Random(seed), bytearray(USABLE[name][0])
    for _ in range(count):
        data[source.randrange(len(data))] = source.randrange(256)
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(data)
    info = scan_image(path, "flipped")
    assert bool(info.reason) != bool(info.sha256)
    if not info.reason:
        assert info.sha256 == image_id(bytes(data)) and info.width >= 1 <= info.height
