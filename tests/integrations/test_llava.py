"""SHIRG around one model that has the attribute names, and the flow of image features, of the official code base."""

from __future__ import annotations

import copy
import json
import math
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate
from transformers import SiglipVisionConfig, SiglipVisionModel

from shirg.data.render import render_page
from shirg.errors import UserError
from shirg.gate import GateConfig, ShirgGate, page_budget
from shirg.integrations.llava import disable_shirg, enable_shirg, pixels_for_shirg
from shirg.lavida.adapter import attach_lora, lora_parameters
from shirg.lavida.relevance import calibrated_relevance
from shirg.lavida.tower import SigLipVisionTower
from shirg.lavida.views import anyres_views, to_pixels
from tests.tiny import formula, name_a_token, tiny_model, tiny_page, tiny_tokenizer

WIDTH = 24
IMAGE, IGNORE = -200, -100
PINPOINTS = ((384, 768), (768, 384), (768, 768), (1152, 384), (384, 1152))


class Tower(nn.Module):
    """Wraps a SigLIP as the official tower does and, like it, knows one size only."""

    num_patches_per_side = 27

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
        tokens = self.vision_tower(images, output_hidden_states=True).hidden_states[-1]
        assert tokens.shape[-2] == 729
        return tokens.to(images.dtype)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision_tower = Tower()
        self.mm_projector = nn.Sequential(nn.Linear(32, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.image_newline = nn.Parameter(torch.randn(WIDTH))
        self.wte = nn.Embedding(300, WIDTH)

    def get_vision_tower(self):
        return self.vision_tower

    def embed_tokens(self, ids):
        return self.wte(ids)


class Model(nn.Module):
    """The stages of the official flow, each as sensitive to sizes as the original: views of 27x27 tokens, pooled to
    14x14 and merged where images come as a list or 5-D, spliced as they are where they come as one 4-D tensor."""

    merge_type = "spatial_unpad"

    def __init__(self):
        super().__init__()
        self.model = Inner()

    def get_model(self):
        return self.model

    def get_input_embeddings(self):
        return self.model.wte

    def encode_images(self, images):
        return self.get_model().mm_projector(self.get_model().get_vision_tower()(images))

    def get_2dPool(self, image_feature, stride=2):
        side = self.get_model().get_vision_tower().num_patches_per_side
        views = image_feature.view(len(image_feature), side, side, -1).permute(0, 3, 1, 2)
        half = math.ceil(side / stride)
        return interpolate(views, size=(half, half), mode="bilinear").flatten(2).transpose(1, 2)

    def merge(self, views):
        """[V, n, D] -> tokens of one image; tiles stand two by two, as those of a square image do."""
        newline = self.get_model().image_newline[None]
        if self.merge_type == "flat":
            return views.flatten(0, 1)
        if len(views) == 1:
            return torch.cat([views[0], newline])
        side = math.isqrt(views.shape[1])
        assert side * side == views.shape[1]
        page = views[1:].view(2, 2, side, side, -1).permute(0, 2, 1, 3, 4).reshape(2 * side, 2 * side, -1)
        page = torch.cat([page, newline.expand(2 * side, 1, -1)], dim=1)
        return torch.cat([views[0], page.flatten(0, 1)])

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images, modalities=("image",),
        image_sizes=None, return_inputs=False,
    ):  # fmt: skip
        if images is None or input_ids.shape[1] == 1:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        if isinstance(images, list) or images.ndim == 5:
            pages = [page if page.ndim == 4 else page[None] for page in images]
            encoded = self.encode_images(torch.cat(pages)).split([len(page) for page in pages])
            features = [self.merge(self.get_2dPool(views)) for views in encoded]
        else:
            features = self.encode_images(images)
        rows, targets, used = [], [], 0
        for index, ids in enumerate(input_ids):
            if attention_mask is not None:
                ids = ids[attention_mask[index].bool()]
            parts, start = [], 0
            places = (ids == IMAGE).nonzero().flatten().tolist()
            for place in places:
                parts += [self.get_model().embed_tokens(ids[start:place]), features[used]]
                start, used = place + 1, used + 1
            used += not places
            rows.append(torch.cat([*parts, self.get_model().embed_tokens(ids[start:])]))
            targets.append(torch.full((len(rows[-1]),), IGNORE))
        rows = rows[: len(modalities)]
        embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return None, position_ids, attention_mask, past_key_values, embeds, targets if labels is not None else None

    @torch.no_grad()
    def generate(self, inputs, images=None, image_sizes=None, modalities=("image",)):
        """What the language model would see: the embeddings of the prompts."""
        return self.prepare_inputs_labels_for_multimodal(
            inputs, None, None, None, None, images, modalities, image_sizes=image_sizes
        )[4]


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
    assert model.get_2dPool(before).shape[1] == 196
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


@torch.no_grad()
def test_early_encodes_the_kept_patches_alone_as_lavida_does(model, pixels):
    tower = model.get_model().get_vision_tower().vision_tower
    embedded = tower.embeddings(pixels[:1], interpolate_pos_encoding=True)
    for budget in (40, "auto"):
        number = page_budget(pixels[:1, None], (1, 48, 48)) if budget == "auto" else budget
        kept = ShirgGate()(embedded, number, (48, 48), pixels=pixels[:1])
        expected = model.get_model().mm_projector(tower.encoder(inputs_embeds=kept.tokens).last_hidden_state)
        found = enable_shirg(model, budget=budget, early=True).encode_images(pixels[:1])
        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)
    whole = enable_shirg(model, budget=2304, early=True).encode_images(pixels)
    every = enable_shirg(model, budget=2304).encode_images(pixels)
    assert torch.equal(whole, every[:, :2304])  # nothing is dropped, so there is no summary
    views = torch.zeros(1, 5, 3, 384, 384)
    with pytest.raises(UserError, match="images: got 5 views of an image, early=True takes one"):
        enable_shirg(model, early=True).encode_images(views)


def test_enabling_again_changes_the_budget(model, pixels):
    with torch.no_grad():
        assert enable_shirg(enable_shirg(model, budget=64), budget=10).encode_images(pixels).shape[1] == 11


def test_gradients_reach_the_projector(model, pixels):
    enable_shirg(model, budget=16).encode_images(pixels[:1]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.get_model().mm_projector.parameters())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 3, 384, 384), "672x672"),
        ((1, 1, 3, 384, 384), "base view and tiles"),
        ((3, 672, 672), "must be"),
        ((1, 3, 680, 680), "multiples"),
    ],
)
def test_other_images_are_refused_with_a_remedy(model, shape, message):
    with pytest.raises(UserError, match=message):
        enable_shirg(model).encode_images(torch.zeros(shape))


def test_wrong_use_names_what_is_missing(model):
    with pytest.raises(UserError, match="budget"):
        enable_shirg(model, budget=0)
    with pytest.raises(UserError, match="encode_images"):
        enable_shirg(nn.Linear(1, 1))
    for sign in (0, -2, None):
        with pytest.raises(UserError, match="relevance_sign"):
            enable_shirg(model, relevance_sign=sign)
    for floor in (1, -1.5, float("nan"), "0.3"):
        with pytest.raises(UserError, match="relevance_floor: got"):
            enable_shirg(model, relevance_floor=floor)
    with pytest.raises(UserError, match="preset: got 'text'; .*there are runs, default, shirg-v2, ocr"):
        enable_shirg(model, preset="text")
    with pytest.raises(UserError, match="preset: got 'ocr' and a gate_config"):
        enable_shirg(model, gate_config=GateConfig(), preset="ocr")
    with pytest.raises(UserError, match="'tome' needs the tower's keys"):
        enable_shirg(model, gate_config=GateConfig(selector="tome"))
    model.model.mm_projector = None
    with pytest.raises(UserError, match="mm_projector"):
        enable_shirg(model)


def in_peft(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=2, target_modules=["mm_projector.0"]))


@pytest.mark.parametrize(
    ("wrap", "inside"),
    [(in_peft, "model.get_base_model()"), (lambda model: torch.compile(model, backend="eager"), "model._orig_mod")],
)
def test_wrappers_are_refused_and_work_with_the_model_inside(model, page, wrap, inside):
    shell = wrap(model)
    for change in (enable_shirg, disable_shirg):
        with pytest.raises(UserError) as caught:
            change(shell)
        assert type(shell).__name__ in str(caught.value) and f"give {inside}" in str(caught.value)
    enable_shirg(eval(inside, {"model": shell}), budget=16)
    assert shell.generate(PROMPT, images=pixels_for_shirg([page])).shape == (1, 4 + 17, WIDTH)


def test_models_without_the_official_flow_are_refused(model):
    class Older(nn.Module):
        encode_images, get_model = Model.encode_images, Model.get_model

    with pytest.raises(UserError, match="Older has no prepare_inputs_labels_for_multimodal"):
        enable_shirg(Older())


def test_pixels_for_shirg_are_normalised_squares():
    pixels = pixels_for_shirg([Image.new("L", (300, 100), 255), Image.new("RGB", (50, 90))])
    assert pixels.shape == (2, 3, 672, 672)
    assert pixels[0].unique().tolist() == [1.0] and pixels[1].unique().tolist() == [-1.0]
    padded = pixels_for_shirg([Image.new("L", (300, 100), 255)], 84, "pad")
    assert padded.shape == (1, 3, 84, 84) and padded[0, 0, 0, 0] == pytest.approx(127 / 127.5 - 1, abs=1e-6)
    with pytest.raises(UserError, match="multiple of 14"):
        pixels_for_shirg([], resolution=670)


@pytest.fixture
def page() -> Image.Image:
    """A square page that is busy in one corner; the official processor cuts it into five views."""
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    page = Image.new("RGB", (700, 700), "white")
    page.paste(noise, (450, 60))
    return page


@pytest.fixture
def tiles(page) -> torch.Tensor:
    """[5, 3, 384, 384] as the official "anyres" processing gives them."""
    return to_pixels(anyres_views(page, PINPOINTS, 384))


PROMPT = torch.tensor([[5, IMAGE, 7, 8, 9]])


def test_the_stand_in_gives_the_official_numbers_of_tokens(model, tiles):
    assert model.generate(PROMPT, [tiles], [(700, 700)]).shape == (1, 4 + 1008, WIDTH)
    assert model.generate(PROMPT, tiles[None], [(700, 700)]).shape == (1, 4 + 1008, WIDTH)
    assert model.generate(PROMPT, tiles[:1]).shape == (1, 4 + 729, WIDTH)
    assert model.generate(PROMPT, [tiles[0]]).shape == (1, 4 + 197, WIDTH)


@pytest.mark.parametrize("merge_type", ["flat", "spatial_unpad"])
@pytest.mark.parametrize("form", ["4-D", "list", "5-D", "list of one view"])
def test_large_pages_come_through_the_official_flow_as_they_were_chosen(model, page, merge_type, form):
    model.merge_type = merge_type
    pixels = pixels_for_shirg([page])
    enable_shirg(model, budget=64)
    with torch.no_grad():
        chosen = model.encode_images(pixels)[0]
    images = {"4-D": pixels, "list": [pixels[0]], "5-D": pixels[None], "list of one view": [pixels]}[form]
    seen = model.generate(PROMPT, images)
    words = model.get_model().embed_tokens(PROMPT[0, [0, 2, 3, 4]])
    assert torch.equal(seen[0], torch.cat([words[:1], chosen, words[1:]]))  # 65 tokens: no pooling, no newline


@pytest.mark.parametrize("form", [list, torch.stack])
def test_the_official_processors_tiles_are_chosen_from_together(model, tiles, form):
    enable_shirg(model, budget=64)
    seen = model.generate(PROMPT, form([tiles]), [(700, 700)])
    assert seen.shape == (1, 4 + 65, WIDTH)
    with torch.no_grad():
        inner = model.get_model()
        tokens = inner.get_vision_tower()(tiles).flatten(0, 1)[None]
        kept = ShirgGate()(tokens, budget=64, grid=(5, 27, 27), pixels=tiles[None])
        torch.testing.assert_close(seen[0, 1:66], inner.mm_projector(kept.tokens[0]))


def test_official_views_of_384_pixels_are_refused_on_every_way_in(model, tiles):
    enable_shirg(model, budget=64)
    for images in (tiles[:1], [tiles[0]], tiles[None, :1]):
        with pytest.raises(UserError, match="pixels_for_shirg"):
            model.generate(PROMPT, images)
    assert "encode_images" in vars(model)
    assert model.generate(PROMPT, [tiles]).shape[1] == 69  # a refusal leaves the model as it was


def test_two_pages_of_two_prompts_are_as_each_by_itself(model, page, tiles):
    enable_shirg(model, budget=32)
    other = page.rotate(180)
    prompts = torch.tensor([[5, IMAGE, 7], [IMAGE, 8, 9]])
    both = model.generate(prompts, pixels_for_shirg([page, other]), modalities=["image"] * 2)
    for index, one in enumerate((page, other)):
        assert torch.equal(both[index], model.generate(prompts[index : index + 1], pixels_for_shirg([one]))[0])
    mixed = [pixels_for_shirg([page])[0], tiles]
    assert torch.equal(model.generate(prompts, mixed, modalities=["image"] * 2)[0], both[0])


def test_the_budget_of_each_page_is_its_own(model):
    pages = [Image.new("RGB", (700, 700), "white"), render_page("document", 3, size=672, text_px=(8, 12)).image]
    pixels = pixels_for_shirg(pages)
    budgets = [page_budget(one[None, None], (1, 48, 48)) for one in pixels]
    assert budgets[0] == 64 < budgets[1]
    enable_shirg(model, budget="auto")
    assert [len(one) for one in model.encode_images(pixels)] == [budget + 1 for budget in budgets]
    found = model.generate(torch.cat([PROMPT, PROMPT]), pixels, modalities=["image"] * 2)
    for index, budget in enumerate(budgets):
        enable_shirg(model, budget=budget)
        alone = model.generate(PROMPT, pixels[index : index + 1])[0]
        assert torch.equal(found[index, : len(alone)], alone)
    with pytest.raises(UserError, match="budget: got 'all', must be 1 or more kept tokens per image, or \"auto\""):
        enable_shirg(model, budget="all")


def test_masked_prompts_text_only_rows_and_labels_stay_the_official_ones(model, page):
    enable_shirg(model, budget=16)
    ids = torch.tensor([[5, 6, 7, 8], [5, IMAGE, 7, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]])
    pixels = pixels_for_shirg([page, page])
    with torch.no_grad():
        result = model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, ids, pixels, ["image"] * 2)
    assert result[4].shape == (2, 2 + 17, WIDTH) and [len(row) for row in result[5]] == [3, 19]
    assert result[4][0, 3:].eq(0).all()
    text = model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, None)
    assert text[0] is ids and text[4] is None


@torch.no_grad()
def test_with_a_tokenizer_the_question_decides_too(model, page):
    tokenizer = tiny_tokenizer("llada")
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    pixels, inner = pixels_for_shirg([page]), model.get_model()
    siglip = inner.get_vision_tower().vision_tower
    tokens = siglip.encoder(inputs_embeds=siglip.embeddings(pixels, interpolate_pos_encoding=True))[0]
    gate = ShirgGate(formula())
    alone = gate(tokens, budget=32, grid=(48, 48), pixels=pixels)
    wanted = 2000  # a blank patch that nobody keeps unasked: word 200 means it
    assert wanted not in alone.indices
    projected = inner.mm_projector(tokens[0])
    inner.wte.weight[200] = projected[wanted] - projected.mean(0)
    words = torch.tensor([200, 7])
    relevance = calibrated_relevance(inner.mm_projector, tokens[0], inner.wte, words)[None]
    kept = gate(tokens, budget=32, grid=(48, 48), pixels=pixels, relevance=relevance)
    assert wanted in kept.indices

    asked = torch.tensor([[5, IMAGE, 200, 7, end, 9]])
    enable_shirg(model, budget=32, gate_config=gate.config, tokenizer=tokenizer)
    torch.testing.assert_close(model.generate(asked, pixels)[0, 1:34], inner.mm_projector(kept.tokens[0]))
    torch.testing.assert_close(model.encode_images(pixels)[0], inner.mm_projector(alone.tokens[0]))  # not told
    for unasked in ([5, IMAGE, end, 200, 9], [200, IMAGE, end]):  # before the image, or behind the end of the turn
        seen = model.generate(torch.tensor([unasked]), pixels)[0, 1:34]
        torch.testing.assert_close(seen, inner.mm_projector(alone.tokens[0]))
    enable_shirg(model, budget=32, gate_config=gate.config)
    torch.testing.assert_close(model.generate(asked, pixels)[0, 1:34], inner.mm_projector(alone.tokens[0]))


def test_pixels_in_another_precision_than_the_weights_are_taken(model, page):
    enable_shirg(model.bfloat16(), budget=16)
    assert model.generate(PROMPT, pixels_for_shirg([page])).dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_are_those_of_our_own_tower_bit_for_bit(model, page, dtype):
    siglip, inner = model.get_model().get_vision_tower().vision_tower, model.get_model()
    ours = SigLipVisionTower(siglip.config.to_dict() | {"num_hidden_layers": 2})  # counts the layer LaViDa removes
    ours.vision_model.load_state_dict(siglip.state_dict())
    inner.mm_projector = nn.Sequential(nn.Linear(32, 32))
    inner.mm_projector[0].weight.copy_(torch.eye(32))
    inner.mm_projector[0].bias.zero_()
    pixels = pixels_for_shirg([page])
    wanted = ours.eval().to(dtype)(pixels)
    assert torch.equal(enable_shirg(model.to(dtype), budget=2304).encode_images(pixels)[:, :-1], wanted)


def like_official(lavida) -> Model:
    """The stand-in with the tower, projector and embeddings of a `Lavida`."""
    official = Model().eval()
    inner = official.get_model()
    inner.vision_tower.vision_tower = lavida.tower.vision_model
    inner.mm_projector, inner.wte = lavida.mm_projector, lavida.language.embed_tokens
    return official


@torch.no_grad()
@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize(("sign", "floor", "preset"), [(1, -1.0, None), (-1, -1.0, None), (1, 0.4, "ocr")])
def test_the_same_question_sign_floor_and_preset_choose_as_in_lavida(family, sign, floor, preset):
    lavida = tiny_model(family, shirg={"relevance_sign": sign, "relevance_floor": floor})
    lavida.vision = replace(lavida.vision, gate=GateConfig.preset(preset or "default"))
    asked = lavida.prompt_ids("How much is the total?")
    features = lavida.image_features(tiny_page(), "shirg")
    name_a_token(lavida, features, lavida.question_ids(asked)[-2:], 1000)
    wanted = lavida.image_embeds(features, "shirg", 40, lavida.question_ids(asked))
    if sign == 1:  # no token of this model is far from all words of a question
        assert not torch.equal(wanted, lavida.image_embeds(features, "shirg", 40))
    official = enable_shirg(
        like_official(lavida),
        40,
        tokenizer=lavida.tokenizer,
        relevance_sign=sign,
        relevance_floor=floor,
        preset=preset,
    )
    seen = official.generate(asked[None], pixels_for_shirg([tiny_page()]))[0]
    place = asked.tolist().index(IMAGE)
    torch.testing.assert_close(seen[place : place + 41], wanted)


def test_an_adapter_has_the_same_effect_in_the_official_model(tmp_path):
    """The lines that the module's text gives, with other settings than the defaults throughout."""
    from peft import PeftModel

    trained = tiny_model(shirg={"relevance_sign": -1, "resolution": 448})
    trained.vision = replace(trained.vision, gate=GateConfig(alpha=0.5), fit="pad")
    base = copy.deepcopy(trained)
    attach_lora(trained)
    for parameter in lora_parameters(trained).values():
        nn.init.normal_(parameter, std=0.2)
    folder = trained.save_adapter(tmp_path / "adapter", settings={})
    asked, page = trained.prompt_ids("How much?"), tiny_page()
    place = asked.tolist().index(IMAGE)

    def official_sees(model):
        settings = json.loads(Path(folder, "shirg_settings.json").read_text())
        enable_shirg(
            model,
            budget=40,
            gate_config=GateConfig(**settings["gate"]),
            tokenizer=trained.tokenizer,
            relevance_sign=settings["relevance_sign"],
        )
        pixels = pixels_for_shirg([page], settings["resolution"], settings["fit"])
        return model.generate(asked[None], pixels)[0, place : place + 41]

    model = like_official(copy.deepcopy(base))
    without = official_sees(model)
    PeftModel.from_pretrained(nn.ModuleDict({"mm_projector": model.get_model().mm_projector}), folder)
    base.load_adapter(folder)
    with torch.no_grad():
        features = base.image_features(page, "shirg")
        wanted = base.image_embeds(features, "shirg", 40, base.question_ids(asked))
    torch.testing.assert_close(official_sees(model), wanted)
    assert not torch.allclose(without, wanted, atol=1e-3)


def test_the_example_runs_in_bfloat16_as_the_official_prediction_does(model, page, tmp_path, monkeypatch, capsys):
    seen = {}

    class Official(Model):
        device = torch.device("cpu")

        def generate(self, inputs, images, tokenizer, **settings):
            seen["dtypes"] = {parameter.dtype for parameter in self.parameters()}
            seen["images"], seen["training"] = images.dtype, self.training
            seen["embeds"] = super().generate(inputs, images)
            return torch.tensor([list(b"12.50")])

    def load_pretrained_model(path, base, name, torch_dtype="float16", **kwargs):
        seen["loaded"] = path, base, name, torch_dtype
        return tiny_tokenizer(), Official().to(getattr(torch, torch_dtype)).train(), None, None

    conversation = SimpleNamespace(roles=("user", "assistant"), append_message=lambda *_: None, get_prompt=str)
    conversation.copy = lambda: conversation
    modules = {
        "llava": {},
        "llava.constants": {"IMAGE_TOKEN_INDEX": IMAGE},
        "llava.conversation": {"conv_templates": {"llada": conversation}},
        "llava.mm_utils": {"tokenizer_image_token": lambda *_, **__: PROMPT[0]},
        "llava.model": {},
        "llava.model.builder": {"load_pretrained_model": load_pretrained_model},
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    page.save(tmp_path / "page.png")
    monkeypatch.setattr(sys, "argv", ["", "folder", str(tmp_path / "page.png"), "How much?"])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "official_lavida.py"))
    assert seen["loaded"] == ("folder", None, "llava_llada", "bfloat16")
    assert seen["dtypes"] == {torch.bfloat16} and not seen["training"]
    assert seen["images"] == torch.float32  # the edge term looks at pixels that nothing has rounded
    assert seen["embeds"].shape == (1, 4 + 769, WIDTH)
    assert len(capsys.readouterr().out) > 1
