"""Several processes on one folder: those that share the work, and those that must not meet."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator
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
    assert "when all are, give the same commands again" in caplog.text and not list(shared.glob("*.parquet"))
    share(0)  # looks at its share, and then everything is looked at
    share(1)
    assert len(list(shared.glob("*.parquet"))) == len([name for name in whole if name.endswith(".parquet")])
    assert not (shared / "manifest.json").exists()
    with pytest.raises(UserError, match="holds another data set"):
        asked["seed"] = 5
        share(0)
    del asked["seed"]
    assert prepare(shared, **asked) == whole


HOLD = """
import contextlib, sys
from pathlib import Path
from shirg.data.locks import locked
with contextlib.ExitStack() as held:
    for path in sys.argv[1:]:
        held.enter_context(locked(Path(path), "folder", shared=path.endswith("lock") and len(sys.argv) > 2))
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_refuse_each_other(tmp_path: Path):
    work = tmp_path / ".work"
    work.mkdir()

    @contextlib.contextmanager
    def other(*names: str) -> Iterator[int]:
        command = [sys.executable, "-c", HOLD, *(str(work / name) for name in names)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"held\n"
            yield process.pid
            process.communicate()

    with other("lock") as pid, pytest.raises(UserError, match=rf"being prepared by process {pid} on"):
        prepare(tmp_path)
    with other("lock", "lock-0-of-2"):
        with pytest.raises(UserError, match="being prepared by"):
            prepare(tmp_path)
        with pytest.raises(UserError, match="share 0: being prepared by"):
            prepare(tmp_path, num_shards=2)
    prepare(tmp_path)
