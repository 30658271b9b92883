"""What docs/data.md shows is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shirg.data import SHIRGDatasetConfig, SHIRGDatasetProcessor
from shirg.data.shards import COLUMNS

PAGE = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text(encoding="utf-8")


def test_pandas_reads_a_prepared_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    config = SHIRGDatasetConfig(
        16, 4, tmp_path / "shirg_data", num_workers=0, image_resolution=336, text_px=(8.0, 12.0)
    )
    SHIRGDatasetProcessor(config).prepare_full_dataset()
    (snippet,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "pandas" in block]
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    assert re.search(r"rendered +20 +336\.0 +336\.0", capsys.readouterr().out)


def test_every_column_is_explained():
    table = PAGE.split("| column | holds |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:]))) == set(COLUMNS)
