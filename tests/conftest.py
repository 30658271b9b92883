"""What every test may ask for."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

gc.set_threshold(100_000, 50, 100)  # a collection walks all that torch and transformers loaded, which never goes


def pytest_collection_finish() -> None:
    """No later collection walks what the modules of the tests loaded, and no forked process copies it by doing so."""
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs and real pages that developers have beside the checkout."""
    folder = Path(os.environ.get("SHIRG_SHARED", Path(__file__).resolve().parents[1] / "../shared")).resolve()
    if not (folder / "fixtures").is_dir():
        pytest.skip("no developers' data: set SHIRG_SHARED to the folder that holds fixtures/ and data/")
    return folder


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, and processes started from here inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
