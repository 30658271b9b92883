"""A prepared folder, and a folder to prepare from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from shirg.data.images import encode_png
from tests.data.preparing import prepare


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder prepared in one go."""
    folder = tmp_path_factory.mktemp("whole") / "data"
    prepare(folder)
    return folder


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A lab's folder: captions with a broken and a missing image, and charts for training."""
    root = tmp_path / "lab"
    captions = root / "llava_pretrain"
    (captions / "00000").mkdir(parents=True)
    entries = []
    for number in range(24):
        name = f"00000/{number}.png"
        (captions / name).write_bytes(encode_png(Image.new("RGB", (16, 8), (number, 0, 0))))
        turns = [{"from": "human", "value": "Describe.\n<image>"}, {"from": "gpt", "value": f"red {number}"}]
        entries.append({"id": str(number), "image": name, "conversations": turns})
    (captions / "00000/3.png").write_bytes(b"broken")
    (captions / "00000/5.png").unlink()
    entries.append({"id": "up", "image": "../../secret.png", "conversations": entries[0]["conversations"]})
    (captions / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(entries), encoding="utf-8")
    charts = root / "ChartQA/train"
    (charts / "png").mkdir(parents=True)
    (charts / "png/1.png").write_bytes(encode_png(Image.new("RGB", (16, 8), "blue")))
    questions = [{"imgname": "1.png", "query": f"q{number}", "label": number} for number in range(3)]
    (charts / "train_human.json").write_text(json.dumps(questions), encoding="utf-8")
    return root
