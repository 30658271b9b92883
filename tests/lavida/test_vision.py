"""Tower, projector and the five vision pooling."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from shirg.errors import UserError
from shirg.gate import GateConfig, ShirgGate, page_budget
from shirg.lavida import MODES, Lavida, pooling
from shirg.lavida.chat import END_OF_TURN, question_end_ids
from shirg.lavida.positions import positions_for
from shirg.lavida.views import square_view, tile_grid, to_pixels
from shirg.siglip_encoder import SigLipVisionTower
from tests.tiny import counted_gates, name_a_token, tiny_model, tiny_page


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
    pooled = pooling.pool_views(llada.mm_projector(features.tokens), features.grid)
    assert_near(pooled, vision[f"pooled_{name}"])
    assert_near(llada.image_embeds(features, "hd"), vision[f"tokens_hd_{name}"])


@torch.no_grad()
@pytest.mark.parametrize("mode", ["shirg", "multiview"])
def test_the_budget_auto_is_the_page_budget(mode):
    model = tiny_model(shirg={"resolution": 336})
    features = model.image_features(tiny_page(600, 400), mode)
    grid = (len(features.tokens), *features.grid)
    assert len(model.image_embeds(features, mode, "auto")) == page_budget(features.pixels[None], grid) + 1
    assert (
        model.encode_images([tiny_page(600, 400)], mode, "auto")[0].shape[0]
        == page_budget(features.pixels[None], grid) + 1
    )


@torch.no_grad()
def test_other_poolings_and_merges_equal_the_official_code(reference, llada, vision):
    projected = vision["projected_square"]
    for mode in ("average", "max"):
        assert_near(pooling.pool_views(projected, (27, 27), mode)[1], vision[f"pooled_square_view1_{mode}"])
    flat = pooling.merge_views(vision["pooled_square"], "flat", (440, 440), (2, 2), None)
    assert len(flat) == vision["tokens_hd_flat_square_count"] == 980
    view = to_pixels([square_view(reference.image("wide"), 384, "pad")])
    lowres = llada.mm_projector(llada.tower(view))
    assert_near(lowres[0], vision["tokens_lowres_wide_729"])
    with_newline = pooling.merge_views(lowres, "spatial_unpad", (700, 260), (1, 1), llada.image_newline)
    assert_near(with_newline[729], vision["tokens_lowres_wide_newline"])
    pooled = pooling.merge_views(
        pooling.pool_views(lowres, (27, 27)), "spatial_unpad", (700, 260), (1, 1), llada.image_newline
    )
    assert_near(pooled, vision["tokens_lowres_wide_pooled_197"])


def test_token_counts_are_the_official_ones(reference):
    geometry = reference.json("anyres_geometry")
    pinpoints = tuple(map(tuple, geometry["pinpoints"]))
    newline = torch.zeros(1)
    for entry in geometry["entries"]:
        size, tiles = tuple(entry["size_wh"]), tile_grid(tuple(entry["size_wh"]), pinpoints, 384)
        views = torch.zeros(entry["num_views"], 196, 1)
        assert list(pooling.unpad(torch.zeros(tiles[0] * 14, tiles[1] * 14), size).shape) == entry["unpadded_hw"]
        assert len(pooling.merge_views(views, "flat", size, tiles, None)) == entry["tokens_flat"]
        assert len(pooling.merge_views(views, "spatial_unpad", size, tiles, newline)) == entry["tokens_spatial_unpad"]


def test_spatial_merge_stitches_tiles_in_reading_order():
    views = torch.arange(5 * 4, dtype=torch.float32).reshape(5, 4, 1)  # base 0..3, tiles 2 x 2 of 2 x 2 tokens
    page = pooling.merge_views(views, "spatial", (10, 10), (2, 2), None).flatten().tolist()
    assert page == [0, 1, 2, 3] + [4, 5, 8, 9, 6, 7, 10, 11] + [12, 13, 16, 17, 14, 15, 18, 19]


@pytest.fixture(scope="module", params=["llada", "dream"])
def official(request, reference, tmp_path_factory) -> Lavida:
    """The reference weights of a family in one folder with its tokenizer, as official checkpoints come.

    The two were made apart from each other, so the config is given the special ids that the tokenizer has.
    """
    folder = tmp_path_factory.mktemp(request.param)
    for part in (request.param, f"tokenizer_{request.param}"):
        for path in (reference.folder / part).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    eos, mask = {"llada": (268, 275), "dream": (268, 271)}[request.param]
    config |= {"eos_token_id": eos, "pad_token_id": eos, "mask_token_id": mask}
    (folder / "config.json").write_text(json.dumps(config))
    return Lavida.from_pretrained(folder)


QUESTION = "How much is the total?"


class TestSelectionOnOfficialCheckpoints:
    def test_the_question_is_what_was_asked(self, official):
        assert official.config.vision.relevance == "llm"
        ids = official.question_ids(official.prompt_ids(QUESTION))
        assert official.tokenizer.decode(ids).strip() == QUESTION

    def test_every_mark_of_a_turn_ends_the_question(self, official):
        marks = question_end_ids(official.tokenizer)
        assert official.tokenizer.convert_tokens_to_ids(END_OF_TURN[official.config.family]) in marks
        special = {id_ for id_, token in official.tokenizer.added_tokens_decoder.items() if token.special}
        assert special - {official.tokenizer.unk_token_id} <= marks
        for mark in marks:
            assert official.question_ids(torch.tensor([5, -200, 70, 71, mark, 72])).tolist() == [70, 71]

    @torch.no_grad()
    @pytest.mark.parametrize(
        ("mode", "budget"), [(mode, budget) for mode in ("shirg", "multiview") for budget in (1, 512, 768, None)]
    )
    def test_every_budget_gives_one_more_finite_token_and_always_the_same(self, official, reference, mode, budget):
        image = reference.image("square")
        features = official.image_features(image, mode)
        assert features.num_tokens == {"shirg": 2304, "multiview": 3645}[mode]
        budget = budget or features.num_tokens
        ids = official.question_ids(official.prompt_ids(QUESTION))
        embeds = official.image_embeds(features, mode, budget, ids)
        assert embeds.shape == (budget + 1, official.config.hidden_size) and embeds.isfinite().all()
        assert torch.equal(embeds, official.encode_images([image], mode, budget, [QUESTION])[0])
        kept = official.select(features, budget, ids)
        tokens = features.tokens.flatten(0, 1)
        torch.testing.assert_close(embeds[:-1], official.mm_projector(tokens[kept.indices[0]]))
        if budget == features.num_tokens:
            torch.testing.assert_close(embeds[-1], official.mm_projector(tokens.mean(0)))

    @torch.no_grad()
    @pytest.mark.parametrize("mode", ["shirg", "multiview"])
    def test_every_word_of_the_question_counts(self, official, reference, mode):
        features = official.image_features(reference.image("land5"), mode)
        one, other = (official.question_ids(official.prompt_ids(text)) for text in (QUESTION, "zzz"))
        name_a_token(official, features, one[:2], 300)
        scores = official.select(features, 64, one).scores
        assert not torch.equal(scores, official.select(features, 64, other).scores)
        assert not torch.equal(scores, official.select(features, 64).scores)

    @torch.no_grad()
    @pytest.mark.parametrize("mode", ["shirg", "multiview"])
    def test_two_images_are_as_each_by_itself(self, official, reference, mode):
        images, questions = [reference.image(name) for name in ("wide", "tall")], [QUESTION, "Who?"]
        both = official.encode_images(images, mode, 64, questions)
        for image, question, embeds in zip(images, questions, both, strict=True):
            assert torch.equal(official.encode_images([image], mode, 64, [question])[0], embeds)
        features = [official.image_features(image, "shirg") for image in images]
        stacked = torch.cat([one.tokens for one in features]), torch.cat([one.pixels for one in features])
        batch = ShirgGate()(stacked[0], budget=64, grid=(48, 48), pixels=stacked[1])
        singles = [official.select(one, 64).indices for one in features]
        assert torch.equal(batch.indices, torch.cat(singles))

    @pytest.mark.parametrize("mode", ["shirg", "multiview"])
    def test_the_gate_runs_once_per_answer(self, official, reference, mode):
        with counted_gates() as calls:
            official.answer(reference.image("small"), QUESTION, mode, 32, max_new_tokens=8)
        assert len(calls) == 1


@pytest.mark.parametrize(
    ("mode", "budget", "count"),
    [("lowres", None, 729), ("hd", None, 980), ("highres", None, 2304), ("shirg", 50, 51), ("early", 50, 51)]
    + [("multiview", 60, 61)],
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
    with pytest.raises(UserError, match="do not fit mode='hd'"):
        model.image_embeds(features, "hd")


def test_gradient_reaches_the_projector_but_not_the_tower():
    model = tiny_model()
    features = model.image_features(tiny_page(), "shirg")
    model.image_embeds(features, "shirg", 30).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.mm_projector.parameters())
    assert all(parameter.grad is None for parameter in model.tower.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_float64_is_float64_all_the_way(mode):
    model = tiny_model().double()
    (embeds,) = model.encode_images([tiny_page()], mode, 20)
    assert embeds.dtype == torch.float64


def test_resolution_and_fit_are_followed():
    model = tiny_model()
    model.vision = replace(model.vision, resolution=448, fit="pad")
    features = model.image_features(tiny_page(), "highres")
    assert features.grid == (32, 32)
    assert features.pixels[0, :, 10, 200].unique().tolist() == pytest.approx([127 / 127.5 - 1], abs=1e-6)
    model.vision = replace(model.vision, resolution=450)
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

    @pytest.mark.parametrize("size", [(672, 672), (384, 384), (378, 378), (28, 70)])
    def test_float32_positions_are_those_of_transformers_bit_for_bit(self, tower, size):
        images = torch.randn(2, 3, *size)
        theirs = tower.vision_model.embeddings(images, interpolate_pos_encoding=True)
        theirs = tower.vision_model.encoder(inputs_embeds=theirs).last_hidden_state
        assert torch.equal(tower(images), theirs)
        assert torch.equal(tower.forward_with_input(images)[0], theirs)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_positions_are_interpolated_in_float32_and_rounded_once(self, dtype):
        table = torch.randn(729, 16).to(dtype)
        fitted = positions_for(table, 48, 48)
        assert fitted.dtype == dtype and torch.equal(fitted, positions_for(table.float(), 48, 48).to(dtype))
        assert positions_for(table, 27, 27) is table

    def test_positions_lie_in_raster_order(self):
        rows, cols = torch.meshgrid(torch.arange(27.0), torch.arange(27.0), indexing="ij")
        fitted = positions_for(torch.stack([rows, cols], dim=-1).flatten(0, 1), 9, 27).unflatten(0, (9, 27))
        torch.testing.assert_close(fitted, torch.stack([rows, cols], dim=-1)[1::3])  # middles of each three rows

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

    def test_selection_by_a_preset(self, tower):
        images = torch.randn(1, 3, 672, 672)
        tokens = tower.get_multiview_tokens_for_shirg(images)
        chosen = {}
        for preset in ("shirg-v2", "ocr", "runs"):
            chosen[preset] = tower.forward_with_shirg(images, 64, preset=preset)
            wanted = ShirgGate(GateConfig.preset(preset))(tokens, 64, (48, 48), pixels=images).tokens
            assert torch.equal(chosen[preset], wanted)
        assert not torch.equal(chosen["shirg-v2"], chosen["ocr"])
        with pytest.raises(ValueError, match="preset 'fast' is unknown"):
            tower.shirg_token_selection(tokens, 64, preset="fast")

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
        for name in ("image_size", "patch_size"):
            with pytest.raises(UserError, match=rf"{name}=\(14, 28\)"):
                SigLipVisionTower({name: (14, 28)})
