"""`shirg prepare`: the list of sources, a folder of one's own images, and checking what was made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from shirg import cli
from shirg.data.sources import OCR_SOURCES


def shirg(*arguments: object) -> int:
    with pytest.raises(SystemExit) as leaving:
        cli.main(["prepare", *map(str, arguments)])
    return leaving.value.code


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Three captioned images in LLaVA's form, in two files of one and two entries."""
    entries = []
    for number in range(3):
        Image.effect_noise((40 + number, 30), 60).save(tmp_path / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": "noise"}]
        entries.append({"id": number, "image": f"{number}.png", "conversations": turns})
    (tmp_path / "general.json").write_text(json.dumps(entries[:1]), encoding="utf-8")
    (tmp_path / "reading.jsonl").write_text("\n".join(map(json.dumps, entries[1:])), encoding="utf-8")
    return tmp_path


def flags(folder: Path, *more: object) -> list[object]:
    files = ["--base-json", folder / "general.json", "--ocr-json", folder / "reading.jsonl"]
    return [*files, "--num-workers", 0, "--output-dir", folder / "data", *more]


def test_list_names_every_source_with_licence_size_and_needs(capsys: pytest.CaptureFixture[str]):
    assert shirg("--list") == 0
    blocks = dict(block.split("\n", 1) for block in capsys.readouterr().out.strip().split("\n\n"))
    assert blocks.keys() == {"llava_pretrain", "llava_json", "rendered", *(source.name for source in OCR_SOURCES)}
    for name, block in blocks.items():
        titles = re.findall(r"^  (\w+) +\S", block, re.MULTILINE)
        assert titles == ["licence", "size", "needs", "from", "use"], name
    assert "blip_laion_cc_sbu_558k.json" in blocks["llava_pretrain"]


def test_prepare_link_and_check(captions: Path, capsys: pytest.CaptureFixture[str]):
    sizes = ("--dataset-size", 1, "--ocr-samples", 2, "--validation-fraction", 0, "--images", "link")
    assert shirg(*flags(captions, *sizes)) == 0
    assert "3 records (3 for training on 3 images" in capsys.readouterr().out
    assert shirg("--check", captions / "data") == 0
    assert re.search(r"data is intact: 3 records \(3 for training", capsys.readouterr().out)
    (captions / "1.png").unlink()
    assert shirg("--check", captions / "data") == 2
    assert re.search(r"error: .*data: 1 problems: .*1\.png: No such file", capsys.readouterr().err)
    assert shirg("--check", captions) == 2
    assert "manifest.json: No such file" in capsys.readouterr().err


def test_too_few_records_end_in_one_line(captions: Path, capsys: pytest.CaptureFixture[str]):
    sizes = ("--dataset-size", 2, "--ocr-samples", 5)
    assert shirg(*flags(captions, *sizes)) == 2
    error = capsys.readouterr().err
    assert "base part: 2 records requested, 1 found; ocr part: 5 records requested, 2 found" in error
    assert "--dataset-size 1 --ocr-samples 2" in error
    assert shirg(*flags(captions, *sizes, "--allow-fewer")) == 0
    assert "3 records" in (said := capsys.readouterr().out) and "4 fewer than requested" in said


def test_shares_say_what_comes_next(captions: Path, capsys: pytest.CaptureFixture[str]):
    sizes = ("--dataset-size", 1, "--ocr-samples", 2)
    for index in (0, 1, 0, 1):
        assert shirg(*flags(captions, *sizes, "--num-shards", 2, "--shard-index", index)) == 0
    assert "a run without --shard-index completes the folder" in capsys.readouterr().err
    assert not (captions / "data/manifest.json").exists()
    assert shirg(*flags(captions, *sizes)) == 0
    assert shirg("--check", captions / "data") == 0
