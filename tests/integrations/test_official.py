"""`enable_shirg` in models of real code bases, LaViDa's and LLaDA-V's, as they are installed: `scripts/check_official.sh`.

SHIRG_OFFICIAL names the folder that holds their package `llava`. Nothing of `tests` is imported here, since its helpers need
our own transformers.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

HEAVY = {"transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "huggingface_hub"}
before = HEAVY & set(sys.modules)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402

from shirg.errors import UserError  # noqa: E402
from shirg.gate import GateConfig, ShirgGate  # noqa: E402
from shirg.integrations.llava import disable_shirg, enable_shirg, pixels_for_shirg  # noqa: E402
from shirg.lavida.relevance import base_projection, calibrated_relevance  # noqa: E402

brought = (HEAVY & set(sys.modules)) - before

FOLDER = os.environ.get("SHIRG_OFFICIAL")
CASE = os.environ.get("SHIRG_OFFICIAL_CASE")
"""What `tests/integrations/official_case.py` wrote with our own model."""

pytestmark = pytest.mark.skipif(not FOLDER, reason="no official code base: scripts/check_official.sh")

IMAGE = -200
WIDTH, TOWER, BUDGET = 32, 16, 48
END, VOCABULARY = 283, 126464
"""The official code writes ids of its own tokenizer, the mask 126336 among them, into every sequence."""
EYES = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_hidden_size": TOWER,
    "mm_patch_merge_type": "spatial_unpad",
    "mm_spatial_pool_mode": "bilinear",
    "image_aspect_ratio": "anyres",
    "image_grid_pinpoints": [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]],
    "use_mm_proj": True,
}


class Words:
    """The part of a tokenizer that `enable_shirg` reads: id n is the word "wn", END ends a turn."""

    unk_token_id, all_special_ids, added_tokens_decoder = None, [END], {}

    def convert_tokens_to_ids(self, _):
        return None

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(f"w{id_}" for id_ in ids)


def official_module():
    if FOLDER not in sys.path:
        sys.path.insert(0, FOLDER)
    from llava.model.language_model import llava_llada

    assert Path(llava_llada.__file__).is_relative_to(Path(FOLDER).resolve())
    return llava_llada


def is_llada_v() -> bool:
    return hasattr(official_module(), "LlavaLLaDAModelLM")


def new_model(tower: Path) -> nn.Module:
    """A model of the code base's own classes, tiny and with random weights."""
    family = official_module()
    eyes = {**EYES, "mm_vision_tower": str(tower)}
    torch.manual_seed(0)
    if is_llada_v():
        config = family.LlavaLLaDAConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            **eyes,
        )
        config._attn_implementation = "eager"
        model = family.LlavaLLaDAModelLM(config)
    else:
        config = family.LlavaLladaConfig(
            d_model=WIDTH,
            n_heads=4,
            n_kv_heads=4,
            n_layers=2,
            mlp_hidden_size=48,
            max_sequence_length=2048,
            vocab_size=VOCABULARY,
            embedding_size=VOCABULARY,
            activation_type="silu",
            block_type="llama",
            layer_norm_type="rms",
            rope=True,
            weight_tying=False,
            attention_dropout=0.0,
            residual_dropout=0.0,
            embedding_dropout=0.0,
            include_bias=False,
            init_device="cpu",
            **eyes,
        )
        model = family.LlavaLladaForMaskedDiffusion(config)
        model.get_model().set_activation_checkpointing(None)  # deepspeed's needs a GPU
    model = model.float().eval()
    with torch.no_grad():  # so that answers and choices depend on everything
        for name, parameter in model.named_parameters():
            nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.1)
            if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
                nn.init.ones_(parameter)
    return model


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> Path:
    """A SigLIP in the folder that the code base loads it from; its name tells the kind."""
    official_module()
    from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionConfig, SigLipVisionModel

    folder = tmp_path_factory.mktemp("towers") / "siglip-tiny"
    sizes = {"hidden_size": TOWER, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    SigLipVisionModel(SigLipVisionConfig(**sizes, image_size=384, patch_size=14)).save_pretrained(folder)
    return folder


@pytest.fixture
def model(tower) -> nn.Module:
    return new_model(tower)


@pytest.fixture(scope="module")
def page() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    page = Image.new("RGB", (700, 700), "white")
    page.paste(Image.fromarray(noise), (400, 60))
    return page


PROMPT = torch.tensor([[5, IMAGE, 200, 7, END, 9]])


def seen(model: nn.Module, prompts: torch.Tensor, pixels) -> torch.Tensor:
    """The embeddings that the model's own code makes of prompts and images."""
    arguments = (prompts, None, None, None, None, pixels, ["image"] * len(prompts))
    with torch.no_grad():
        return model.prepare_inputs_labels_for_multimodal(*arguments)[4]


def generated(model: nn.Module, prompts: torch.Tensor, images, **more) -> torch.Tensor:
    length = {"gen_length": 8} if is_llada_v() else {"max_new_tokens": 8, "prefix_lm": True}
    return model.generate(
        prompts, images=images, modalities=["image"] * len(prompts), block_length=8, steps=8, **length, **more
    )


@torch.no_grad()
def raw_tokens(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """[1, 2304, TOWER] by the official layers alone."""
    siglip = model.get_model().get_vision_tower().vision_tower.vision_model
    patches = siglip.embeddings.patch_embedding(pixels)
    table = siglip.embeddings.position_embedding.weight.view(1, 27, 27, -1).permute(0, 3, 1, 2)
    positions = nn.functional.interpolate(table, size=(48, 48), mode="bicubic", align_corners=False)
    return siglip.encoder(inputs_embeds=(patches + positions).flatten(2).transpose(1, 2))[0]


def test_enable_shirg_imports_torch_numpy_and_pillow_only():
    assert not brought


@torch.no_grad()
def test_kept_tokens_are_those_of_the_official_tower(model, page):
    pixels, inner = pixels_for_shirg([page]), model.get_model()
    tokens = raw_tokens(model, pixels)
    kept = ShirgGate()(tokens, budget=BUDGET, grid=(48, 48), pixels=pixels)
    embeds = enable_shirg(model, BUDGET).encode_images(pixels)
    assert embeds.shape == (1, BUDGET + 1, WIDTH)
    torch.testing.assert_close(embeds, inner.mm_projector(kept.tokens), atol=1e-4, rtol=1e-4)
    spliced = seen(model, PROMPT, pixels)
    assert spliced.shape == (1, BUDGET + 1 + 5, WIDTH) and torch.equal(spliced[0, 1 : BUDGET + 2], embeds[0])


def test_two_pages_are_as_each_alone_and_answers_come(model, page):
    other = page.rotate(180)
    prompts = torch.cat([PROMPT, torch.tensor([[8, IMAGE, 9, 11, END, 12]])])
    enable_shirg(model, BUDGET, tokenizer=Words())
    both = seen(model, prompts, pixels_for_shirg([page, other]))
    for index, one in enumerate((page, other)):
        alone = seen(model, prompts[index : index + 1], pixels_for_shirg([one]))[0]
        torch.testing.assert_close(both[index], alone, atol=1e-5, rtol=1e-4)
    new = generated(model, PROMPT, pixels_for_shirg([page]))
    assert new.shape[-1] >= 8 and len(new) == 1


@torch.no_grad()
def test_disabled_it_is_bit_for_bit_the_official_model(model, page):
    views = torch.rand(1, 5, 3, 384, 384, generator=torch.Generator().manual_seed(0)) * 2 - 1
    attributes = set(vars(model))

    def official():
        return model.prepare_inputs_labels_for_multimodal(
            PROMPT, None, None, None, None, list(views), ["image"], image_sizes=[(700, 700)]
        )[4]

    wanted = official()
    enable_shirg(model, BUDGET)
    assert official().shape[1] == BUDGET + 1 + 5
    disable_shirg(model)
    assert set(vars(model)) == attributes and torch.equal(official(), wanted) and wanted.shape[1] > 900


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("floor", "preset"), [(-1.0, None), (0.2, "ocr")])
@torch.no_grad()
def test_question_sign_floor_and_preset_choose_as_in_the_gate(model, page, sign, floor, preset):
    pixels, inner = pixels_for_shirg([page]), model.get_model()
    tokens, gate = raw_tokens(model, pixels), ShirgGate(GateConfig.preset(preset or "default"))
    asked = calibrated_relevance(
        inner.mm_projector, tokens[0], model.get_input_embeddings(), torch.tensor([200, 7]), sign, floor
    )
    kept = gate(tokens, budget=BUDGET, grid=(48, 48), pixels=pixels, relevance=asked[None])
    enable_shirg(
        model,
        BUDGET,
        tokenizer=Words(),
        relevance_sign=sign,
        relevance_floor=floor,
        **({"preset": preset} if preset else {}),
    )
    wanted = inner.mm_projector(kept.tokens[0])
    torch.testing.assert_close(seen(model, PROMPT, pixels)[0, 1 : BUDGET + 2], wanted, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_official_projector(model, page):
    projector = model.get_model().mm_projector.requires_grad_(True)
    enable_shirg(model, BUDGET).encode_images(pixels_for_shirg([page])).sum().backward()
    assert all(parameter.grad is not None for parameter in projector.parameters())


def in_projector(model: nn.Module) -> nn.Module:
    """A LoRA with weights that are not zero, put into the projector by the peft that is there."""
    from peft import LoraConfig, PeftModel

    holder = nn.ModuleDict({"mm_projector": model.get_model().mm_projector})
    shell = PeftModel(holder, LoraConfig(r=2, target_modules=["mm_projector.0", "mm_projector.2"]))
    for name, parameter in shell.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    return shell


@torch.no_grad()
def test_an_adapter_moves_the_embeddings_and_never_the_choice(model, page):
    pixels, inner = pixels_for_shirg([page]), model.get_model()
    tokens = raw_tokens(model, pixels)
    before = inner.mm_projector(tokens[0])
    asked = calibrated_relevance(inner.mm_projector, tokens[0], model.get_input_embeddings(), torch.tensor([200, 7]))
    kept = ShirgGate()(tokens, budget=BUDGET, grid=(48, 48), pixels=pixels, relevance=asked[None])
    shell = in_projector(model)
    torch.testing.assert_close(base_projection(inner.mm_projector, tokens[0]), before)
    assert not torch.allclose(inner.mm_projector(tokens[0]), before, atol=1e-2)
    enable_shirg(model, BUDGET, tokenizer=Words())
    wanted = inner.mm_projector(kept.tokens[0])
    torch.testing.assert_close(seen(model, PROMPT, pixels)[0, 1 : BUDGET + 2], wanted, atol=1e-4, rtol=1e-4)
    shell.base_model.merge_adapter()
    with pytest.raises(UserError, match="unmerge_adapter"):
        seen(model, PROMPT, pixels)


def test_training_flow_of_the_code_base_keeps_its_own_arguments(model, page):
    """LaViDa's `return_inputs` and LLaDA-V's `is_llada` go through, and so does what they add to the result."""
    extra = {"is_llada": True} if is_llada_v() else {"return_inputs": True}
    labels, mask = PROMPT.clone(), torch.ones_like(PROMPT).bool()
    labels[0, :4] = -100
    result = enable_shirg(model, BUDGET).prepare_inputs_labels_for_multimodal(
        PROMPT, None, mask, None, labels, pixels_for_shirg([page]), ["image"], **extra
    )
    assert len(result) == 7 and result[4].shape == (1, BUDGET + 1 + 5, WIDTH)
    assert result[5][0, -2:].tolist() == [END, 9] and (result[5][0, : BUDGET + 5 - 1] == -100).all()


def test_checkpoint_and_adapter_have_the_same_effect_as_in_lavida(tower):
    """Loaded by the official classes and the installed peft, as in the module's docstring."""
    if not CASE or is_llada_v():
        pytest.skip("a case is LaViDa's")
    from peft import PeftModel
    from safetensors.torch import load_file

    raw = json.loads(Path(CASE, "model", "config.json").read_text())
    family = official_module()
    config = family.LlavaLladaConfig(**{**raw, "mm_vision_tower": str(tower), "init_device": "cpu"})
    model = family.LlavaLladaForMaskedDiffusion.from_pretrained(Path(CASE, "model"), config=config).float().eval()
    expected, settings = (
        load_file(Path(CASE, "expected.safetensors")),
        json.loads(Path(CASE, "adapter", "shirg_settings.json").read_text()),
    )
    pixels = pixels_for_shirg([Image.open(Path(CASE, "page.png"))], settings["resolution"], settings["fit"])
    asked, place = expected["asked"][None], expected["asked"].tolist().index(IMAGE)

    def embeds(early=False):
        enable_shirg(
            model,
            40,
            GateConfig(**settings["gate"]),
            ByteWords(),
            relevance_sign=settings["relevance_sign"],
            relevance_floor=raw["shirg"]["relevance_floor"],
            early=early,
        )
        return seen(model, asked, pixels)[0, place : place + 41]

    torch.testing.assert_close(embeds(), expected["without"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(embeds(early=True), expected["early"], atol=1e-4, rtol=1e-4)
    holder = nn.ModuleDict({"mm_projector": model.get_model().mm_projector})
    PeftModel.from_pretrained(holder, str(Path(CASE, "adapter")))
    torch.testing.assert_close(embeds(), expected["with"], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected["with"], expected["without"], atol=1e-3)


class ByteWords(Words):
    """The tokenizer of the case, by what the case says of it."""

    def __init__(self):
        known = json.loads(Path(CASE, "words.json").read_text())
        self.texts, self.added_tokens_decoder = known["texts"], {}
        self.all_special_ids = known["specials"]

    def decode(self, ids, skip_special_tokens=False):
        return "".join(self.texts[id_] for id_ in ids)
