"""Relevance of tokens to the question: in the language model's space, in SigLIP's, with either sign."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cosine_similarity
from transformers import SiglipConfig, SiglipModel

from shirg.data.render import KINDS, render_page
from shirg.errors import UserError
from shirg.evaluation.recall import PageWords, word_recall
from shirg.gate import GateConfig, ShirgGate
from shirg.gate.terms import relevance_term
from shirg.lavida import Lavida, LavidaConfig, VisionFeatures, adapter
from shirg.lavida.relevance import base_projection, calibrated_relevance, word_relevance
from shirg.lavida.text_tower import TextTower
from tests.tiny import formula, tiny_config, tiny_model, tiny_page

QUESTION = "What is the Total?"
SMALL = {"resolution": 168}
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
WEIGHTS = "model.safetensors"


def write_siglip(folder, layers: int = 3, image_size: int = 384, width: int = 16):
    """A SigLIP checkpoint in the hub's layout with large random weights; returns the model that is in it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    sizes = {**SIZES, "hidden_size": width}
    text = {**sizes, "num_hidden_layers": 2, "vocab_size": 260, "bos_token_id": None, "eos_token_id": 1}
    vision = {**sizes, "num_hidden_layers": layers, "image_size": image_size, "patch_size": 14}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={"<unk>": 0, "</s>": 1} | {c: i + 2 for i, c in enumerate(letters)}, merges=[])
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    write_siglip(folder)
    return folder


@pytest.fixture(scope="module")
def siglip(siglip_folder) -> SiglipModel:
    return SiglipModel.from_pretrained(siglip_folder).eval()


@pytest.fixture(scope="module")
def text_tower(siglip_folder) -> TextTower:
    return TextTower.from_pretrained(siglip_folder)


@pytest.fixture
def model(siglip_folder):
    model = tiny_model(shirg={**SMALL, "relevance": "siglip"})
    model.load_text_tower(siglip_folder)
    return model


def asked(model):
    return model.question_ids(model.prompt_ids(QUESTION))


def finished(siglip: SiglipModel, tokens: torch.Tensor) -> torch.Tensor:
    """The end of the real vision encoder over tokens [V, N, D]."""
    vision = siglip.vision_model
    return vision.post_layernorm(vision.encoder.layers[-1](tokens, None))


class TestTextTower:
    @torch.no_grad()
    def test_patches_equal_the_real_head_on_each_token_alone(self, siglip, text_tower):
        tokens = torch.randn(2, 30, 16)
        real = siglip.vision_model.head(finished(siglip, tokens).reshape(60, 1, 16))
        torch.testing.assert_close(text_tower.embed_patches(tokens).reshape(60, 16), real)

    @torch.no_grad()
    def test_an_image_of_one_patch_has_the_embedding_of_the_whole_model(self, tmp_path):
        real = write_siglip(tmp_path, image_size=14)
        pixels = torch.rand(3, 3, 14, 14) * 2 - 1
        vision = real.vision_model
        tokens = vision.embeddings(pixels)
        for layer in vision.encoder.layers[:-1]:
            tokens = layer(tokens, None)
        ours = TextTower.from_pretrained(tmp_path).embed_patches(tokens)
        torch.testing.assert_close(ours[:, 0], real.get_image_features(pixels).pooler_output)

    @torch.no_grad()
    @pytest.mark.parametrize("text", ["what is the total?", "a" * 200])
    def test_text_equals_the_real_model_on_64_padded_ids(self, siglip, text_tower, text):
        letters = [text_tower.tokenizer.token_to_id({" ": "\u0120"}.get(letter, letter)) for letter in text][:63]
        ids = torch.tensor([letters + [1] * (64 - len(letters))])  # end of text, which is the padding too
        expected = siglip.get_text_features(ids).pooler_output[0]
        torch.testing.assert_close(text_tower.embed_text(text), expected)
        torch.testing.assert_close(text_tower.embed_text(text.upper()), expected)  # the tokenizer's own business

    @torch.no_grad()
    def test_relevance_is_the_cosine_and_views_do_not_see_each_other(self, siglip, text_tower):
        tokens = torch.randn(2, 9, 16)
        patches = siglip.vision_model.head(finished(siglip, tokens).reshape(18, 1, 16))
        text = text_tower.embed_text("total")[None]
        relevance = text_tower.relevance(tokens, "total")
        torch.testing.assert_close(relevance, cosine_similarity(patches, text))
        tokens[1] = tokens[1].flip(-1)
        changed = text_tower.relevance(tokens, "total")
        torch.testing.assert_close(changed[:9], relevance[:9])
        assert not torch.allclose(changed[9:], relevance[9:])

    def test_follows_the_tokens_precision(self, siglip_folder):
        tower = TextTower.from_pretrained(siglip_folder, dtype=torch.bfloat16)
        assert tower.embed_patches(torch.randn(1, 4, 16).bfloat16()).dtype == torch.bfloat16
        assert tower.relevance(torch.randn(1, 4, 16).double(), "a").dtype == torch.float32

    def test_only_what_is_needed_has_to_be_there_and_all_of_that(self, siglip_folder, tmp_path):
        for name in ("config.json", "tokenizer.json"):
            (tmp_path / name).write_bytes((siglip_folder / name).read_bytes())
        weights = load_file(siglip_folder / WEIGHTS)
        end = ("vision_model.encoder.layers.2.", "vision_model.post_layernorm.", "vision_model.head.", "text_model.")
        needed = {name: value for name, value in weights.items() if name.startswith(end)}
        save_file(needed, tmp_path / WEIGHTS)
        tokens = torch.randn(1, 5, 16)
        whole, part = (TextTower.from_pretrained(folder) for folder in (siglip_folder, tmp_path))
        torch.testing.assert_close(whole.relevance(tokens, "x"), part.relevance(tokens, "x"))
        for gone in ("vision_model.encoder.layers.2.mlp.fc1.bias", "text_model.head.weight", "vision_model.head.probe"):
            save_file({name: value for name, value in needed.items() if name != gone}, tmp_path / WEIGHTS)
            with pytest.raises(UserError, match=f"missing: {gone}"):
                TextTower.from_pretrained(tmp_path)

    def test_other_folders_are_refused_with_the_reason(self, siglip_folder, tmp_path):
        with pytest.raises(UserError, match="text tower: .*no such folder"):
            TextTower.from_pretrained(tmp_path / "nothing")
        raw = json.loads((siglip_folder / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**raw, "model_type": "siglip_vision_model"}))
        with pytest.raises(UserError, match="siglip_vision_model"):
            TextTower.from_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(raw))
        with pytest.raises(UserError, match=r"no tokenizer\.json"):
            TextTower.from_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").write_text("{")
        with pytest.raises(UserError, match="not a readable tokenizer"):
            TextTower.from_pretrained(tmp_path)
        raw["text_config"]["vocab_size"] = 100
        (tmp_path / "config.json").write_text(json.dumps(raw))
        (tmp_path / "tokenizer.json").write_bytes((siglip_folder / "tokenizer.json").read_bytes())
        with pytest.raises(UserError, match="258 tokens"):
            TextTower.from_pretrained(tmp_path)

    @pytest.mark.parametrize(("sizes", "says"), [({"layers": 4}, "layers is 4"), ({"width": 24}, "width is 24")])
    def test_the_text_tower_of_another_siglip_is_refused(self, tmp_path, sizes, says):
        write_siglip(tmp_path, **sizes)
        model = tiny_model()
        with pytest.raises(UserError, match=says):
            model.load_text_tower(tmp_path)
        assert model.text_tower is None


class TestSelection:
    @torch.no_grad()
    @pytest.mark.parametrize(("mode", "grid"), [("shirg", (48, 48)), ("multiview", (5, 27, 27))])
    def test_siglip_chooses_by_the_real_models_similarity(self, model, siglip, mode, grid):
        model.vision = replace(model.vision, resolution=672)
        features = model.image_features(tiny_page(500, 480), mode)
        patches = siglip.vision_model.head(finished(siglip, features.tokens).reshape(-1, 1, 16))
        cosine = cosine_similarity(patches, model.text_tower.embed_text(QUESTION)[None])[None]
        torch.testing.assert_close(model.relevance(features, asked(model)), cosine)
        pixels = features.pixels if mode == "shirg" else features.pixels[None]
        tokens = features.tokens.flatten(0, 1)[None]
        expected = ShirgGate(model.vision.gate)(tokens, budget=100, grid=grid, pixels=pixels, relevance=cosine)
        kept = model.select(features, 100, asked(model))
        torch.testing.assert_close(kept.scores, expected.scores, atol=1e-4, rtol=0)
        assert not torch.equal(kept.scores, model.select(features, 100).scores)

    def test_without_a_text_tower_the_message_names_the_way_out(self):
        model = tiny_model(shirg={**SMALL, "relevance": "siglip"})
        features = model.image_features(tiny_page(), "shirg")
        assert model.select(features, 9).indices.shape == (1, 9)  # nothing asked, nothing compared
        with pytest.raises(UserError, match=r"load_text_tower\(.*--text-tower"):
            model.select(features, 9, asked(model))

    def test_without_a_tokenizer_there_is_no_text_to_compare_with(self, model):
        features, ids = model.image_features(tiny_page(), "shirg"), asked(model)
        model.tokenizer = None
        with pytest.raises(UserError, match="without a tokenizer"):
            model.select(features, 9, ids)

    def test_the_text_tower_is_no_part_of_the_model(self, model, siglip_folder, tmp_path):
        bare = tiny_model()
        assert set(model.state_dict()) == set(bare.state_dict())
        assert adapter.parameters_by_role(model) == adapter.parameters_by_role(bare)
        model.save_pretrained(tmp_path)
        features = model.double().image_features(tiny_page(), "shirg")
        assert features.tokens.dtype == torch.float64  # and the text tower goes along
        assert model.select(features, 9, asked(model)).indices.shape == (1, 9)

    def test_none_takes_no_notice_of_the_question(self):
        model = tiny_model(shirg={**SMALL, "relevance": "none"})
        features = model.image_features(tiny_page(), "shirg")
        assert model.relevance(features, asked(model)) is None


def signed_case(sign: int):
    """8x8 tokens, all zero but two opposite ones; the word asked for points along the first of the two.

    The projector doubles the channels as x and -x; as gelu(x) - gelu(-x) = x, its second layer gives x back.
    """
    model = tiny_model(tokenizer=False, shirg={"resolution": 112, "relevance_sign": sign})
    eye = torch.eye(16)
    first, _, second = model.mm_projector
    with torch.no_grad():
        first.weight.copy_(torch.cat([eye, -eye]))
        second.weight.zero_()[:16].copy_(torch.cat([eye, -eye], dim=1))
        first.bias.zero_(), second.bias.zero_()
        model.language.embed_tokens.weight[7] = torch.eye(32)[3]
    tokens = torch.zeros(1, 64, 16)
    tokens[0, 10, 3], tokens[0, 40, 3] = 2.0, -2.0
    return model, VisionFeatures("highres", tokens, torch.zeros(1, 3, 112, 112), (8, 8), (112, 112))


@pytest.mark.parametrize(("sign", "kept"), [(1, 10), (-1, 40)])
def test_sign_by_hand(sign, kept):
    """Cosines are 1, -1 and 62 zeros: the MAD is 0, so the scale is 0.12533 * 2 / 64 and z is +-255, far beyond 6.

    relevance_term is then 1 for the token on the wanted side and 0 for the other; their variances are equal and the
    pixels blank, so relevance alone decides, by (1 - alpha) / (1 + beta) = 0.75 / 1.15.
    """
    model, features = signed_case(sign)
    model.vision = replace(model.vision, gate=formula())
    relevance = model.relevance(features, torch.tensor([7]))[0]
    assert relevance[[10, 40]].tolist() == pytest.approx([sign, -sign]) and relevance.count_nonzero() == 2
    choice = model.select(features, 1, torch.tensor([7]))
    assert choice.indices.tolist() == [[kept]]
    other = 50 - kept
    assert (choice.scores[0, kept] - choice.scores[0, other]).item() == pytest.approx(0.75 / 1.15)


def test_below_the_floor_all_tokens_are_one():
    model, features = signed_case(1)
    model.vision = replace(model.vision, relevance_floor=0.4)
    relevance = model.relevance(features, torch.tensor([7]))[0]
    assert relevance[10].item() == pytest.approx(1) and torch.equal(
        relevance.unique(), torch.tensor([0.4, relevance[10]])
    )
    with torch.no_grad():
        model.language.embed_tokens.weight[8] = torch.eye(32)[5]  # a word that nothing matches
    relevance = model.relevance(features, torch.tensor([8]))
    assert torch.equal(relevance, torch.full((1, 64), 0.4))
    without = model.select(features, 9)
    assert torch.equal(model.select(features, 9, torch.tensor([8])).indices, without.indices)


class SubclassedLoraLinear(nn.Linear):
    """A LoRA layer as peft made them up to 0.6; scripts/check_official.sh tries the real ones."""

    __module__ = "peft.tuners.lora"

    def forward(self, tokens):
        return super().forward(tokens) + 1


def wrapped_by_peft(projector: nn.Sequential, **settings) -> nn.Module:
    """The projector with an adapter whose weights are not zero."""
    from peft import LoraConfig, inject_adapter_in_model

    holder = nn.ModuleDict({"mm_projector": projector})
    inject_adapter_in_model(LoraConfig(r=2, **settings), holder)
    with torch.no_grad():
        for name, parameter in holder.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                nn.init.normal_(parameter)
    return holder["mm_projector"]


def subclassed(projector: nn.Sequential) -> nn.Module:
    for index in (0, 2):
        layer = SubclassedLoraLinear(projector[index].in_features, projector[index].out_features)
        layer.load_state_dict(projector[index].state_dict())
        projector[index] = layer
    return projector


ADAPTED = {
    "wrapped": lambda projector: wrapped_by_peft(projector, target_modules=["mm_projector.0", "mm_projector.2"]),
    "copied": lambda projector: wrapped_by_peft(projector, target_modules=["mm_projector.0"], modules_to_save=["2"]),
    "subclassed": subclassed,
}


@torch.no_grad()
@pytest.mark.parametrize("form", ADAPTED)
def test_the_projection_that_relevance_uses_is_the_base_under_every_form_of_adapter(form):
    projector, tokens = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 6)), torch.randn(5, 4)
    before = projector(tokens)
    adapted = ADAPTED[form](projector)
    assert torch.equal(base_projection(adapted, tokens), before)
    assert not torch.allclose(adapted(tokens), before, atol=1e-2)


def test_a_merged_adapter_is_refused_and_works_once_it_is_undone():
    projector, tokens = nn.Sequential(nn.Linear(4, 6)), torch.randn(5, 4)
    before = projector(tokens)
    adapted = wrapped_by_peft(projector, target_modules=["mm_projector.0"])
    adapted[0].merge()
    with pytest.raises(UserError, match="unmerge_adapter"):
        base_projection(adapted, tokens)
    adapted[0].unmerge()
    torch.testing.assert_close(base_projection(adapted, tokens), before)


def test_a_projector_of_one_layer_is_taken():
    layer, tokens = nn.Linear(4, 6), torch.randn(5, 4)
    assert torch.equal(base_projection(layer, tokens), layer(tokens))


def test_a_match_that_chance_gives_is_none():
    """Every word of the vocabulary but that asked for lies along the same axis as the token: it matches them all as well."""
    model, features = signed_case(1)
    with torch.no_grad():
        model.language.embed_tokens.weight.copy_(torch.eye(32)[3].expand_as(model.language.embed_tokens.weight))
    relevance = model.relevance(features, torch.tensor([7]))
    assert relevance[0, 10].item() == 0  # the median
    assert torch.equal(model.select(features, 9, torch.tensor([7])).indices, model.select(features, 9).indices)


def test_without_enough_words_to_calibrate_there_is_no_relevance():
    model, features = signed_case(1)
    tokens, words = features.tokens.flatten(0, 1), model.language.embed_tokens.weight
    few, enough = (
        calibrated_relevance(
            model.mm_projector, tokens, torch.nn.Embedding.from_pretrained(words[:known]), torch.tensor([7])
        )
        for known in (128, 129)
    )
    assert few is None and enough[10].item() == pytest.approx(1)  # one of the words is the question's own


@torch.no_grad()
def test_only_significant_matches_are_raised_and_as_without_calibration():
    """Random tokens and words; one token is a word that is asked for. Of 2304 others the gate alone would lift dozens."""
    draws = torch.Generator().manual_seed(0)
    words = nn.Embedding.from_pretrained(torch.randn(600, 32, generator=draws))
    tokens, ids = torch.randn(2304, 32, generator=draws), torch.tensor([3, 40, 500])
    tokens[9] = words.weight[40]
    projector = nn.Linear(32, 32, bias=False)
    projector.weight.copy_(torch.eye(32))
    chance = relevance_term(word_relevance(projector, tokens, words(ids))[None])[0]
    sure = relevance_term(calibrated_relevance(projector, tokens, words, ids)[None])[0]
    assert (chance > 0).sum() > 24 and (sure > 0).sum() < 12 and sure[9] > 0
    assert torch.equal(sure[sure > 0], chance[sure > 0])


def test_questions_of_an_unaligned_space_cost_no_words():
    """Word embeddings turned at random, so that no token has to do with any word: what is kept hardly changes."""
    model = Lavida.from_pretrained("nano")
    model.vision = replace(model.vision, relevance_floor=-1.0)
    embed = model.language.embed_tokens
    width, draws = embed.embedding_dim, torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(width, width, generator=draws)).Q
    plain, asked, chance = [], [], []
    with torch.no_grad():
        embed.weight.copy_(embed.weight @ turn)
        for number, kind in enumerate(KINDS):
            page = render_page(kind, number, size=672, text_px=(8, 16), split="heldout")
            features = model.image_features(page.image, "shirg")
            words = PageWords.of([word.box for word in page.words], page.image.size, features.grid)
            ids = torch.randint(0, embed.num_embeddings, (6,), generator=draws)
            cosine = word_relevance(model.mm_projector, features.tokens.flatten(0, 1), embed(ids))[None]
            tokens, given = features.tokens.flatten(0, 1)[None], {"pixels": features.pixels}
            sure = model.relevance(features, ids)
            for found, relevance in ((plain, None), (asked, sure), (chance, cosine)):
                kept = ShirgGate(model.vision.gate)(tokens, 256, features.grid, relevance=relevance, **given)
                found.append(word_recall(kept.assignment[0] >= 0, words).found)
    plain, asked, chance = (100 * np.concatenate(found).mean() for found in (plain, asked, chance))
    assert abs(asked - plain) < 0.5 and chance < plain - 1


@pytest.mark.parametrize("wrong", [1, -1.5, "0.3", None, float("nan")])
def test_a_floor_is_a_cosine(wrong):
    with pytest.raises(UserError, match="shirg.relevance_floor"):
        LavidaConfig.from_dict({**tiny_config().raw, "shirg": {"relevance_floor": wrong}})


def test_config_has_kind_and_sign_and_refuses_others():
    default = tiny_config()
    assert (default.vision.relevance, default.vision.relevance_sign) == ("llm", 1)
    given = LavidaConfig.from_dict({**default.raw, "shirg": {"relevance": "siglip", "relevance_sign": -1}})
    assert (given.vision.relevance, given.vision.relevance_sign) == ("siglip", -1)
    for wrong in (0, 2, "+"):
        with pytest.raises(UserError, match="shirg.relevance_sign"):
            LavidaConfig.from_dict({**default.raw, "shirg": {"relevance_sign": wrong}})


@pytest.mark.parametrize("kind", ["llm", "siglip", "none"])
def test_training_the_adapter_never_moves_the_choice(kind, siglip_folder):
    model = tiny_model(shirg={**SMALL, "relevance": kind})
    model.load_text_tower(siglip_folder)
    features, ids = model.image_features(tiny_page(), "shirg"), asked(model)
    before = model.select(features, 24, ids)
    adapter.attach_lora(model, rank=4)
    lora = list(adapter.lora_parameters(model).values())
    optimizer = torch.optim.AdamW(lora, lr=0.05)
    first = model.image_embeds(features, "shirg", 24, ids).detach()
    for _ in range(5):
        loss = model.image_embeds(features, "shirg", 24, ids).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert not torch.allclose(model.image_embeds(features, "shirg", 24, ids), first)  # it did learn
    after = model.select(features, 24, ids)
    assert torch.equal(after.indices, before.indices) and torch.equal(after.scores, before.scores)


def test_autocast_does_not_move_the_choice(model):
    for kind in ("llm", "siglip"):
        model.vision = replace(model.vision, relevance=kind)
        features, ids = model.image_features(tiny_page(), "shirg"), asked(model)
        plain = model.relevance(features, ids)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.relevance(features, ids), plain)


def test_the_gates_other_settings_are_applied(model):
    model.vision = replace(model.vision, gate=GateConfig(selector="uniform"))
    features = model.image_features(tiny_page(), "shirg")
    assert torch.equal(model.select(features, 9, asked(model)).indices, model.select(features, 9).indices)


class TestCommandLine:
    def test_flags_reach_the_model(self, siglip_folder, tmp_path):
        from shirg.cli.flags import ModelFlags
        from shirg.cli.models import load_model

        tiny_model(shirg={"relevance": "none"}).save_pretrained(tmp_path)
        base = {"model": str(tmp_path)}
        assert load_model(ModelFlags(**base)).vision.relevance == "none"
        model = load_model(ModelFlags(**base, relevance="siglip", relevance_sign=-1, text_tower=str(siglip_folder)))
        assert (model.vision.relevance, model.vision.relevance_sign) == ("siglip", -1)
        assert model.text_tower is not None
        with pytest.raises(UserError, match=r"relevance: siglip needs a text tower \(--text-tower\)"):
            load_model(ModelFlags(**base, relevance="siglip"))
        with pytest.raises(UserError, match=r"text_tower: .* \(--relevance siglip\)"):
            load_model(ModelFlags(**base, text_tower=str(siglip_folder)))

    def test_a_mode_that_does_not_select_needs_no_text_tower(self, siglip_folder, tmp_path):
        from shirg.cli.flags import ModelFlags
        from shirg.cli.models import load_model

        tiny_model(shirg={**SMALL, "relevance": "siglip"}).save_pretrained(tmp_path)
        model = load_model(ModelFlags(model=str(tmp_path)))
        model.answer(tiny_page(), "Total?", "lowres", max_new_tokens=2)
        with pytest.raises(UserError, match="give --text-tower"):
            model.answer(tiny_page(), "Total?", "shirg", 9, max_new_tokens=2)
        assert load_model(ModelFlags(model=str(tmp_path), text_tower=str(siglip_folder))).text_tower is not None
