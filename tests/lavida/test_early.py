"""Path "early": patches are selected before the tower, which encodes those alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from shirg.errors import UserError
from shirg.gate import GateConfig, ShirgGate
from shirg.gate.distinct import distinct_patches
from shirg.lavida import Lavida
from shirg.lavida.positions import positions_for
from tests.tiny import tiny_model, tiny_page

GRID = (24, 24)
QUESTION = "What is the total?"


@pytest.fixture(scope="module", params=["llada", "dream"])
def model(request) -> Lavida:
    """336 pixels are 24 x 24 patches, fewer than those of the trained grid."""
    return tiny_model(request.param, shirg={"resolution": 336})


@torch.no_grad()
@pytest.mark.parametrize("budget", [576, 5000])
def test_a_budget_of_all_patches_is_highres_bit_for_bit(model, budget):
    page = tiny_page()
    early, whole = (model.image_features(page, mode) for mode in ("early", "highres"))
    assert torch.equal(model.image_embeds(early, "early", budget), model.image_embeds(whole, "highres"))
    assert model.answer(page, QUESTION, "early", budget) == model.answer(page, QUESTION, "highres")


@torch.no_grad()
def test_kept_patches_are_encoded_with_their_own_positions_and_the_mean_of_the_rest(model):
    features = model.image_features(tiny_page(), "early")
    kept = model.select(features, 50)
    table, patch = (
        getattr(model.tower.vision_model.embeddings, name).weight for name in ("position_embedding", "patch_embedding")
    )
    places, inputs = positions_for(table, *GRID), []
    for index in range(576):  # every patch alone: its pixels, its place
        row, column = divmod(index, 24)
        pixels = features.pixels[0, :, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14]
        bias = model.tower.vision_model.embeddings.patch_embedding.bias
        inputs.append((patch * pixels).sum((1, 2, 3)) + bias + places[index])
    inputs = torch.stack(inputs)
    chosen = torch.zeros(576, dtype=torch.bool).index_fill(0, kept.indices[0], True)
    assert chosen.sum() == 50
    expected = model.tower.encode(torch.cat([inputs[chosen], inputs[~chosen].mean(0)[None]])[None])[0]
    torch.testing.assert_close(model.encode_kept(kept, features), expected, rtol=0, atol=1e-4)
    embeds = model.image_embeds(features, "early", 50)
    assert torch.equal(embeds, model.mm_projector(model.encode_kept(kept, features)))


@torch.no_grad()
def test_the_tower_runs_on_the_kept_patches_alone(model):
    lengths = []
    layer = model.tower.vision_model.encoder.layers[0]
    hook = layer.register_forward_pre_hook(lambda _module, given: lengths.append(given[0].shape[1]))
    try:
        model.answer(tiny_page(), QUESTION, "early", 50)
        plain = replace(model.vision, gate=replace(model.vision.gate, summary=False))
        model.answer(tiny_page(), QUESTION, "early", 50, vision=plain)
    finally:
        hook.remove()
    assert lengths == [51, 50]


@torch.no_grad()
def test_the_patches_are_those_of_the_gate_on_pixels_whatever_is_asked(model):
    features = model.image_features(tiny_page(), "early")
    kept = model.select(features, 50)
    blind = torch.randn(1, 576, 7, generator=torch.Generator().manual_seed(0))
    expected = ShirgGate(model.vision.gate)(blind, 50, GRID, pixels=features.pixels)
    assert torch.equal(kept.indices, expected.indices)
    asked = model.select(features, 50, model.question_ids(model.prompt_ids(QUESTION)))
    assert torch.equal(asked.indices, kept.indices)


def test_training_needs_no_gradient_of_the_tower(model):
    embeds = model.image_embeds(model.image_features(tiny_page(), "early"), "early", 20)
    embeds.sum().backward()
    assert all(parameter.grad is None for parameter in model.tower.parameters())
    assert model.mm_projector[0].weight.grad.abs().sum() > 0
    model.zero_grad()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8))
IMAGES = {
    "one colour": (Image.new("RGB", (500, 300), (40, 90, 160)), 64),
    "one pixel": (Image.new("RGB", (1, 1), "white"), 64),
    "noise": (NOISE, 576),
}


@torch.no_grad()
@pytest.mark.parametrize("name", IMAGES)
def test_any_image_gets_a_sensible_budget(model, name):
    image, distinct = IMAGES[name]
    follows = replace(model.vision, gate=GateConfig(selector="distinct"))
    auto, copies = (len(model.encode_images([image], "early", "auto", vision=one)[0]) for one in (None, follows))
    assert 64 <= auto - 1 <= 576 and copies == distinct + (distinct < 576)  # nothing dropped, no summary
    for budget in (1, 300):
        assert len(model.encode_images([image], "early", budget)[0]) == budget + 1


@torch.no_grad()
def test_distinct_keeps_every_patch_that_is_no_copy(model):
    follows = replace(model.vision, gate=GateConfig(selector="distinct"))
    features = model.image_features(tiny_page(300, 120, "Total 12.50 and tax 1.50"), "early")
    distinct = distinct_patches(features.pixels[None], (1, *GRID))[0].nonzero().flatten().tolist()
    kept = model.select(features, "auto", vision=follows).indices[0].tolist()
    assert 64 < len(distinct) < 400 and set(distinct) <= set(kept) and len(kept) == -(-len(distinct) // 32) * 32


def test_selectors_of_the_towers_output_are_refused(model):
    features = model.image_features(tiny_page(), "early")
    needy = replace(model.vision, gate=GateConfig(selector="visionzip"))
    with pytest.raises(UserError, match="selector: got 'visionzip', which needs the tower's attention and keys"):
        model.select(features, 50, vision=needy)


def test_features_of_another_path_are_refused(model):
    with pytest.raises(UserError, match="early=True do not fit mode='shirg'"):
        model.image_embeds(model.image_features(tiny_page(), "early"), "shirg", 50)
    with pytest.raises(UserError, match="early=False do not fit mode='early'"):
        model.image_embeds(model.image_features(tiny_page(), "shirg"), "early", 50)


@pytest.mark.parametrize("budget", [0, -1, 2.5, True])
def test_wrong_budgets_are_refused(model, budget):
    with pytest.raises(UserError, match="budget: got"):
        model.answer(tiny_page(), QUESTION, "early", budget)


@torch.no_grad()
def test_it_compiles_into_one_graph():
    """Selection, tower and projector, from the patch embeddings on; the same to the last bit with the graph's own operations."""
    model = tiny_model(shirg={"resolution": 168})
    features = model.image_features(tiny_page(), "early")

    def embeds(tokens: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        return model.image_embeds(replace(features, tokens=tokens, pixels=pixels), "early", 48)

    torch.compiler.reset()
    compiled = torch.compile(embeds, fullgraph=True, backend="eager")
    assert torch.equal(compiled(features.tokens, features.pixels), model.image_embeds(features, "early", 48))
