"""The checkpoint that the command line's tests are run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A tiny LaViDa's folder, whose answers are short; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model(shirg={"answer_tokens": 4}).save_pretrained(folder)
    return folder
