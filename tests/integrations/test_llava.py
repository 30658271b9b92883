"""SHIRG around one model that has the attribute names of the official code base."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from shirg.errors import UserError
from shirg.integrations.llava import disable_shirg, enable_shirg, pixels_for_shirg


class Tower(nn.Module):
    """Wraps a SigLIP as the official tower does and, like it, knows one size only."""

    def __init__(self):
        super().__init__()
        config = SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        )
        self.vision_tower = SiglipVisionModel(config)

    def forward(self, images):
        return self.vision_tower(images, output_hidden_states=True).hidden_states[-1]


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision_tower = Tower()
        self.mm_projector = nn.Sequential(nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 24))

    def get_vision_tower(self):
        return self.vision_tower


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Inner()

    def get_model(self):
        return self.model

    def encode_images(self, images):
        return self.get_model().mm_projector(self.get_model().get_vision_tower()(images))

    def get_2dPool(self, image_feature, stride=2):
        return image_feature[:, ::stride]


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 672, 672, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_enabled_gives_budget_plus_summary_and_no_pooling(model, pixels):
    assert enable_shirg(model, budget=64) is model
    embeds = model.encode_images(pixels)
    assert embeds.shape == (2, 65, 24)
    assert model.get_2dPool(embeds) is embeds


@torch.no_grad()
def test_disabled_again_is_the_model_as_it_was(model):
    views = torch.rand(1, 3, 384, 384)
    before, attributes = model.encode_images(views), set(vars(model))
    disable_shirg(enable_shirg(model))
    assert set(vars(model)) == attributes
    assert torch.equal(model.encode_images(views), before)
    assert model.get_2dPool(before).shape[1] == 365
    disable_shirg(model)  # twice is no mistake


@torch.no_grad()
def test_only_this_instance_is_wrapped_and_a_copy_uses_its_own_weights(model, pixels):
    other, state = Model(), set(model.state_dict())
    enable_shirg(model, budget=16)
    assert "encode_images" not in vars(other) and Model.encode_images is type(other).encode_images
    assert set(model.state_dict()) == state
    twin = copy.deepcopy(model)
    for parameter in twin.get_model().mm_projector.parameters():
        parameter.zero_()
    assert twin.encode_images(pixels).abs().max() == 0
    assert model.encode_images(pixels).abs().max() > 0


@torch.no_grad()
def test_at_full_budget_every_token_of_the_tower_is_there(model, pixels):
    tower = model.get_model().get_vision_tower().vision_tower
    tokens = tower.encoder(inputs_embeds=tower.embeddings(pixels, interpolate_pos_encoding=True)).last_hidden_state
    expected = model.get_model().mm_projector(tokens)
    assert torch.allclose(enable_shirg(model, budget=2304).encode_images(pixels)[:, :-1], expected, atol=1e-5)


def test_enabling_again_changes_the_budget(model, pixels):
    with torch.no_grad():
        assert enable_shirg(enable_shirg(model, budget=64), budget=10).encode_images(pixels).shape[1] == 11


def test_gradients_reach_the_projector(model, pixels):
    enable_shirg(model, budget=16).encode_images(pixels[:1]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.get_model().mm_projector.parameters())


@pytest.mark.parametrize(
    ("shape", "says"),
    [((5, 3, 384, 384), "672x672"), ((1, 5, 3, 384, 384), "must be"), ((1, 3, 680, 680), "multiples")],
)
def test_other_images_are_refused_with_what_would_work(model, shape, says):
    with pytest.raises(UserError, match=says):
        enable_shirg(model).encode_images(torch.zeros(shape))


def test_wrong_use_names_what_is_missing(model):
    with pytest.raises(UserError, match="budget"):
        enable_shirg(model, budget=0)
    with pytest.raises(UserError, match="encode_images"):
        enable_shirg(nn.Linear(1, 1))
    model.model.mm_projector = None
    with pytest.raises(UserError, match="mm_projector"):
        enable_shirg(model)


def test_pixels_for_shirg_are_normalised_squares():
    pixels = pixels_for_shirg([Image.new("L", (300, 100), 255), Image.new("RGB", (50, 90))])
    assert pixels.shape == (2, 3, 672, 672)
    assert pixels[0].unique().tolist() == [1.0] and pixels[1].unique().tolist() == [-1.0]
    with pytest.raises(UserError, match="multiple of 14"):
        pixels_for_shirg([], resolution=670)
