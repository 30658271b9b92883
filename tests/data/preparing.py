"""Small files, preparations of them, and what came of those."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from shirg.data import SHIRGDatasetConfig, SHIRGDatasetProcessor
from shirg.data.images import encode_png
from shirg.data.records import Record
from shirg.data.shards import ShardReader


def config(folder: Path, **changes: object) -> SHIRGDatasetConfig:
    small = {
        "base_dataset_size": 50,
        "ocr_enhancement_size": 20,
        "shard_size": 30,
        "num_workers": 0,
        "image_resolution": 336,
    }
    return SHIRGDatasetConfig(**{**small, "text_px": (8.0, 12.0), "output_dir": folder, **changes})


def prepare(folder: Path, **changes: object) -> dict[str, bytes]:
    """Every file of the prepared folder."""
    result = SHIRGDatasetProcessor(config(folder, **changes)).prepare_full_dataset()
    assert result == folder
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def records(folder: Path, split: str) -> list[Record]:
    return [record for path in sorted(folder.glob(f"{split}-*.parquet")) for record in ShardReader(path)]


def put_captions(folder: Path, entries: list[tuple[str, Image.Image]], name: str = "captions.json") -> Path:
    """A file in LLaVA's form, one caption per image."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (file, image) in enumerate(entries):
        image.save(folder / file)
        turns = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": f"caption {number}"}]
        lines.append({"id": str(number), "image": file, "conversations": turns})
    (folder / name).write_text(json.dumps(lines), encoding="utf-8")
    return folder / name


def picture(number: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Noise of a seed, soft enough to survive JPEG."""
    coarse = np.random.default_rng(number).integers(0, 256, (12, 12), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def put_image(path: Path, grey: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(Image.new("RGB", (20, 10), (grey, grey, grey))))


def put_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
