"""The trained parts as a LaViDa checkpoint."""

from __future__ import annotations

import torch

from shirg.nano.recipe.export import as_lavida, export, nano_config
from shirg.nano.recipe.reader import Reader


def test_export_keeps_every_weight():
    torch.manual_seed(0)
    reader = Reader()
    model = as_lavida(reader)
    pixels = torch.rand(1, 3, 384, 384) * 2 - 1
    patches = reader.tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    ours = reader.tower.encoder(inputs_embeds=patches + reader.tower.embeddings.position_embedding.weight)
    with torch.no_grad():
        assert torch.allclose(model.tower(pixels), ours.last_hidden_state, atol=1e-4)
    assert model.config.mask_token_id == nano_config(reader)["mask_token_id"] == reader.mask_id


def test_a_checkpoint_fits_into_the_package(tmp_path):
    export(Reader(), tmp_path / "nano")
    assert sum(path.stat().st_size for path in (tmp_path / "nano").iterdir()) < 12e6


def test_no_relevance_is_claimed_that_was_not_measured():
    assert nano_config(Reader())["shirg"]["relevance"] == "none"
