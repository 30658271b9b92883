"""The reference outputs of the official code, and models with its tiny weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shirg.lavida import Lavida


class Reference:
    """The folder of reference outputs, read as tensors."""

    def __init__(self, folder: Path):
        self.folder = folder

    def arrays(self, name: str) -> dict[str, torch.Tensor]:
        with np.load(self.folder / f"{name}.npz") as archive:
            return {key: torch.from_numpy(archive[key]) for key in archive.files}

    def json(self, name: str):
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))

    def image(self, name: str) -> Image.Image:
        return Image.open(self.folder / "images" / f"{name}.png")


@pytest.fixture(scope="session")
def reference(shared: Path) -> Reference:
    return Reference(shared / "fixtures" / "lavida_tiny")


@pytest.fixture(scope="session")
def llada(reference: Reference) -> Lavida:
    """LLaDA with the reference weights; tests must not change it."""
    return Lavida.from_pretrained(reference.folder / "llada")


@pytest.fixture(scope="session")
def dream(reference: Reference) -> Lavida:
    """Dream with the reference weights; tests must not change it."""
    return Lavida.from_pretrained(reference.folder / "dream")
