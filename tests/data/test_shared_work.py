"""Several processes that share the work on one folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from shirg.data import SHIRGDatasetProcessor
from shirg.errors import UserError
from tests.data.preparing import config, prepare


def test_shares_of_a_cluster_give_the_same_bytes(lab: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    asked = {"data_dir": lab, "base_dataset_size": 24, "ocr_enhancement_size": 20, "shard_size": 6}
    asked["render_missing"] = True
    whole = prepare(tmp_path / "whole", **asked)
    shared = tmp_path / "shared"

    def share(index: int) -> None:
        shape = {"shard_index": index, "num_shards": 2, "output_dir": shared}
        SHIRGDatasetProcessor(config(shared, **asked, **shape)).prepare_full_dataset()

    caplog.set_level(logging.INFO)
    share(1)
    assert "run all commands again when all shares are scanned" in caplog.text and not list(shared.glob("*.parquet"))
    share(0)  # looks at its share, and then everything is looked at
    share(1)
    assert len(list(shared.glob("*.parquet"))) == len([name for name in whole if name.endswith(".parquet")])
    assert not (shared / "manifest.json").exists()
    with pytest.raises(UserError, match="holds another data set"):
        asked["seed"] = 5
        share(0)
    del asked["seed"]
    assert prepare(shared, **asked) == whole
