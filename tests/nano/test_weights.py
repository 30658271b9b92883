"""The embedded model: what ships, and that it reads."""

from __future__ import annotations

import pytest
from safetensors import safe_open

from shirg.data.render import render_page
from shirg.lavida import Lavida
from shirg.lavida.checkpoint import NANO_FOLDER
from shirg.nano.recipe.score import score


@pytest.fixture(scope="module")
def nano() -> Lavida:
    return Lavida.from_pretrained("nano")


def test_small_complete_and_with_a_card():
    assert sum(path.stat().st_size for path in NANO_FOLDER.iterdir()) < 20 * 1024**2
    names = {path.name for path in NANO_FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)


def test_geometry_of_the_real_thing(nano):
    page = render_page("receipt", 5, split="heldout")
    counts = {mode: len(nano.encode_images([page.image], mode)[0]) for mode in ("lowres", "hd", "highres")}
    assert counts == {"lowres": 729, "hd": 980, "highres": 2304}
    assert len(nano.encode_images([page.image], "shirg", 768)[0]) == 769


def test_official_names_are_the_file_format(nano):
    with safe_open(NANO_FOLDER / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert "model.transformer.wte.weight" in names and "model.transformer.blocks.0.ff_proj.weight" in names
    assert "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight" in names
    assert {"model.mm_projector.0.weight", "model.mm_projector.2.bias"} <= names


def test_reads_large_print_better_than_chance(nano):
    """Intervals over pages apart: the page that was asked about against another page of its kind."""
    found = score(nano, 4)["all"]  # fewer pages, wider intervals
    assert found["right"]["exact match"][1] > found["another"]["exact match"][2]
    assert found["right"]["ANLS"][1] > found["another"]["ANLS"][2]
