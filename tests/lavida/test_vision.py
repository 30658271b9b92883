"""Tower, projector and the five vision paths."""

from __future__ import annotations

import pytest
import torch

from shirg.errors import UserError
from shirg.lavida import MODES, paths
from shirg.lavida.images import square_view, tile_grid, to_pixels
from shirg.siglip_encoder import SigLipVisionTower
from tests.tiny import tiny_model, tiny_page


def assert_near(ours, theirs, atol=2e-5):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def vision(reference):
    return reference.arrays("vision")


@torch.no_grad()
@pytest.mark.parametrize("name", ["square", "land5", "wide", "tall", "small"])
def test_hd_path_equals_the_official_code(reference, llada, vision, name):
    features = llada.image_features(reference.image(name), "hd")
    if name == "square":
        assert_near(features.tokens, vision["tower_square"])
        assert_near(llada.mm_projector(features.tokens), vision["projected_square"])
    else:
        assert_near(features.tokens[1], vision[f"tower_{name}_view1"])
    pooled = paths.pool_views(llada.mm_projector(features.tokens), features.grid)
    assert_near(pooled, vision[f"pooled_{name}"])
    assert_near(llada.image_embeds(features, "hd"), vision[f"tokens_hd_{name}"])


@torch.no_grad()
def test_other_poolings_and_merges_equal_the_official_code(reference, llada, vision):
    projected = vision["projected_square"]
    for mode in ("average", "max"):
        assert_near(paths.pool_views(projected, (27, 27), mode)[1], vision[f"pooled_square_view1_{mode}"])
    flat = paths.merge_views(vision["pooled_square"], "flat", (440, 440), (2, 2), None)
    assert len(flat) == vision["tokens_hd_flat_square_count"] == 980
    view = to_pixels([square_view(reference.image("wide"), 384, "pad")])
    lowres = llada.mm_projector(llada.tower(view))
    assert_near(lowres[0], vision["tokens_lowres_wide_729"])
    with_newline = paths.merge_views(lowres, "spatial_unpad", (700, 260), (1, 1), llada.image_newline)
    assert_near(with_newline[729], vision["tokens_lowres_wide_newline"])
    pooled = paths.merge_views(
        paths.pool_views(lowres, (27, 27)), "spatial_unpad", (700, 260), (1, 1), llada.image_newline
    )
    assert_near(pooled, vision["tokens_lowres_wide_pooled_197"])


def test_token_counts_are_the_official_ones(reference):
    geometry = reference.json("anyres_geometry")
    pinpoints = tuple(map(tuple, geometry["pinpoints"]))
    newline = torch.zeros(1)
    for entry in geometry["entries"]:
        size, tiles = tuple(entry["size_wh"]), tile_grid(tuple(entry["size_wh"]), pinpoints, 384)
        views = torch.zeros(entry["num_views"], 196, 1)
        assert list(paths.unpad(torch.zeros(tiles[0] * 14, tiles[1] * 14), size).shape) == entry["unpadded_hw"]
        assert len(paths.merge_views(views, "flat", size, tiles, None)) == entry["tokens_flat"]
        assert len(paths.merge_views(views, "spatial_unpad", size, tiles, newline)) == entry["tokens_spatial_unpad"]


def test_spatial_merge_stitches_tiles_in_reading_order():
    views = torch.arange(5 * 4, dtype=torch.float32).reshape(5, 4, 1)  # base 0..3, tiles 2 x 2 of 2 x 2 tokens
    page = paths.merge_views(views, "spatial", (10, 10), (2, 2), None).flatten().tolist()
    assert page == [0, 1, 2, 3] + [4, 5, 8, 9, 6, 7, 10, 11] + [12, 13, 16, 17, 14, 15, 18, 19]


@pytest.mark.parametrize(
    ("mode", "budget", "count"),
    [("lowres", None, 729), ("hd", None, 980), ("highres", None, 2304), ("shirg", 50, 51), ("multiview", 60, 61)],
)
@torch.no_grad()
def test_number_of_embeddings_per_mode(mode, budget, count):
    model = tiny_model()
    (embeds,) = model.encode_images([tiny_page(500, 480)], mode, budget, ["What is the total?"])
    assert embeds.shape == (count, model.config.hidden_size)
    assert embeds.isfinite().all()


def test_shirg_and_highres_share_features_and_others_do_not():
    model = tiny_model()
    features = model.image_features(tiny_page(), "highres")
    kept = model.select(features, 40)
    with torch.no_grad():
        chosen = model.image_embeds(features, "highres")[kept.indices[0]]
        torch.testing.assert_close(model.image_embeds(features, "shirg", 40)[:-1], chosen)
    with pytest.raises(UserError, match="do not serve mode='hd'"):
        model.image_embeds(features, "hd")


def test_gradient_reaches_the_projector_but_not_the_tower():
    model = tiny_model()
    features = model.image_features(tiny_page(), "shirg")
    model.image_embeds(features, "shirg", 30).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.mm_projector.parameters())
    assert all(parameter.grad is None for parameter in model.tower.parameters())


def test_relevance_uses_the_base_projector_whatever_adapter_is_on():
    from peft import LoraConfig, inject_adapter_in_model

    model = tiny_model()
    features = model.image_features(tiny_page(), "shirg")
    ids = model.question_ids(model.prompt_ids("What is the total?"))
    before, alone = model.select(features, 60, ids), model.select(features, 60)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["mm_projector.0", "mm_projector.2"]), model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert torch.equal(model.select(features, 60, ids).scores, before.scores)
    assert not torch.equal(alone.scores, before.scores)
    assert not torch.equal(
        model.mm_projector(features.tokens), model.base_projection(features.tokens)
    )  # the adapter does act


def test_list_of_images_gives_list_of_features():
    model = tiny_model()
    features = model.image_features([tiny_page(), tiny_page(200, 300)], "lowres")
    assert [one.image_size for one in features] == [(300, 200), (200, 300)]
    assert {one.path for one in features} == {"lowres"}


@pytest.mark.parametrize("mode", MODES)
def test_float64_is_float64_all_the_way(mode):
    model = tiny_model().double()
    (embeds,) = model.encode_images([tiny_page()], mode, 20)
    assert embeds.dtype == torch.float64


def test_resolution_and_fit_are_followed():
    model = tiny_model()
    model.resolution, model.fit = 448, "pad"
    features = model.image_features(tiny_page(), "highres")
    assert features.grid == (32, 32)
    assert features.pixels[0, :, 10, 200].unique().tolist() == pytest.approx([127 / 127.5 - 1], abs=1e-6)
    model.resolution = 450
    with pytest.raises(UserError, match="450"):
        model.image_features(tiny_page(), "shirg")


@pytest.mark.parametrize("budget", [0, -3, 2305, 2.5, True])
def test_impossible_budgets_are_refused(budget):
    model = tiny_model()
    with pytest.raises(UserError, match="budget"):
        model.image_embeds(model.image_features(tiny_page(), "shirg"), "shirg", budget)


def test_unknown_mode_and_uneven_questions_are_refused():
    model = tiny_model()
    with pytest.raises(UserError, match="'lowres', 'hd'"):
        model.image_features(tiny_page(), "middle")
    with pytest.raises(UserError, match="2 questions for 1 images"):
        model.encode_images([tiny_page()], "shirg", 9, ["a", "b"])


@pytest.fixture(scope="module")
def tower() -> SigLipVisionTower:
    return tiny_model().tower.requires_grad_(False)


class TestTower:
    def test_one_layer_fewer_than_published(self, tower):
        assert len(tower.vision_model.encoder.layers) == 2

    def test_shapes(self, tower):
        assert tower(torch.randn(2, 3, 384, 384)).shape == (2, 729, 16)
        assert tower(torch.randn(1, 3, 28, 70)).shape == (1, 10, 16)
        assert tower.get_multiview_tokens_for_shirg(torch.randn(1, 3, 672, 672)).shape == (1, 2304, 16)
        assert tower.get_multiview_tokens_for_shirg(torch.randn(1, 5, 3, 384, 384)).shape == (1, 3645, 16)

    def test_views_are_joined_in_order(self, tower):
        views = torch.randn(1, 5, 3, 384, 384)
        joined = tower.get_multiview_tokens_for_shirg(views)
        torch.testing.assert_close(joined[0, 729:1458], tower(views[0, 1:2])[0])

    def test_small_image_is_enlarged_with_a_warning(self, tower):
        with pytest.warns(UserWarning, match="no detail") as caught:
            tokens = tower.forward_with_shirg(torch.randn(1, 3, 384, 384), target_tokens=20)
        assert tokens.shape == (1, 21, 16)
        assert len(caught) == 1

    def test_selection_in_one_or_two_calls(self, tower):
        images, words = torch.randn(2, 3, 672, 672), torch.randn(2, 4, 16)
        tokens = tower.get_multiview_tokens_for_shirg(images)
        two_calls = tower.shirg_token_selection(tokens, 64, words, images)
        torch.testing.assert_close(tower.forward_with_shirg(images, 64, words), two_calls)
        assert tower.shirg_token_selection(torch.randn(1, 3645, 16), 64).shape == (1, 65, 16)

    @pytest.mark.parametrize("shape", [(3, 384, 384), (1, 1, 384, 384), (1, 3, 383, 384), (1, 3, 0, 14)])
    def test_wrong_shapes_are_refused(self, tower, shape):
        with pytest.raises(UserError):
            tower(torch.zeros(shape))

    def test_errors_name_the_numbers(self, tower):
        for count, message in ((1000, "1000 tokens are neither"), (4 * 729, "2916 tokens are both"), (0, "0 tokens")):
            with pytest.raises(UserError, match=message):
                tower.shirg_token_selection(torch.zeros(1, count, 16), 10)
        with pytest.raises(ValueError, match="16"):
            tower.shirg_token_selection(torch.randn(1, 729, 16), 10, torch.randn(1, 3, 24))
        with pytest.raises(UserError, match="at least 2"):
            SigLipVisionTower({"num_hidden_layers": 1})
