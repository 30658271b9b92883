"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs and real pages that developers have beside the checkout."""
    folder = Path(os.environ.get("SHIRG_SHARED", Path(__file__).resolve().parents[1] / "../shared")).resolve()
    if not (folder / "fixtures").is_dir():
        pytest.skip("no developers' data: set SHIRG_SHARED to the folder that holds fixtures/ and data/")
    return folder
