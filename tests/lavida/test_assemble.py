"""A LaViDa from plain parts: what was in the files is in the model, and comes back from its own files."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SiglipConfig, SiglipModel

from shirg.errors import UserError
from shirg.lavida import Lavida, checkpoint
from shirg.lavida.assemble import assemble, convert_projector
from tests.tiny import SIZES, VISION, tiny_model, tiny_page, tiny_tokenizer

IDS = {"mask_token_id": 261, "eos_token_id": 257, "pad_token_id": 257}


def plain_language(folder: Path, family: str = "llada", *, shards: bool = False, dtype=torch.float32) -> Path:
    """A plain LLaDA or Dream with random weights, as the hub has them."""
    model = tiny_model(family)
    state = {
        checkpoint.official_name(f"language.{name}", family): tensor.to(dtype)
        for name, tensor in model.language.state_dict().items()
    }
    folder.mkdir()
    huggingface_hub.save_torch_state_dict(state, folder, max_shard_size=30_000 if shards else 10**9)
    ids = {} if family == "llada" else IDS  # the tiny tokenizer has LLaDA's names
    kind = {"model_type": "llada" if family == "llada" else "Dream", "auto_map": {"AutoModel": "x.Y"}}
    (folder / "config.json").write_text(json.dumps({**SIZES[family], **ids, **kind}))
    tiny_tokenizer(family).save_pretrained(folder)
    return folder


def siglip(folder: Path, *, whole: bool = True, **vision: int) -> Path:
    """A random SigLIP under transformers' names, with a config as sparse as the hub's; or its vision half."""
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 30, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(1)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={**VISION, **vision}))
    if whole:
        model.save_pretrained(folder)
        (folder / "config.json").write_text(
            json.dumps({"model_type": "siglip", "vision_config": {**VISION, **vision}, "text_config": {}})
        )
    else:
        model.vision_model.save_pretrained(folder)
    return folder


def projector_state(width: int = 16, hidden: int = 32) -> dict[str, torch.Tensor]:
    """A stage-1 projector under its official names."""
    shapes = {"0.weight": (hidden, width), "0.bias": (hidden,), "2.weight": (hidden, hidden), "2.bias": (hidden,)}
    draws = torch.Generator().manual_seed(2)
    return {f"model.mm_projector.{part}": torch.randn(shape, generator=draws) for part, shape in shapes.items()}


@pytest.fixture
def parts(tmp_path):
    return plain_language(tmp_path / "language"), siglip(tmp_path / "siglip")


def equal_states(one: Lavida, other: Lavida) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize(
    ("family", "shards", "whole"), [("llada", True, True), ("dream", False, False), ("dream", True, True)]
)
def test_parts_are_taken_bit_by_bit_and_come_back(tmp_path, family, shards, whole):
    language = plain_language(tmp_path / "language", family, shards=shards)
    tower = siglip(tmp_path / "siglip", whole=whole)
    model = assemble(language, tower)
    assert not model.training
    stored = {name: tensor for file in language.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for name, tensor in model.language.state_dict().items():
        assert torch.equal(tensor, stored.pop(checkpoint.official_name(f"language.{name}", family)))
    assert not stored
    seen = load_file(tower / "model.safetensors")
    for name, tensor in model.tower.vision_model.state_dict().items():
        assert torch.equal(tensor, seen[f"vision_model.{name}" if whole else name])
    assert len(model.tower.vision_model.encoder.layers) == 2  # of 3: LaViDa does without the last

    model.save_pretrained(tmp_path / "lavida")
    again = Lavida.from_pretrained(tmp_path / "lavida")
    assert equal_states(model, again)
    assert again.config == model.config or again.config.raw == {**model.config.raw, "torch_dtype": "float32"}
    assert again.answer(tiny_page(), "Total?", budget=16, max_new_tokens=4) == model.answer(
        tiny_page(), "Total?", budget=16, max_new_tokens=4
    )


def test_config_has_the_official_fields(parts):
    raw = assemble(*parts).config.raw
    assert (raw["model_type"], raw["architectures"]) == ("llava_llada", ["LlavaLladaForMaskedDiffusion"])
    assert (raw["mm_hidden_size"], raw["mm_patch_merge_type"], raw["image_aspect_ratio"]) == (
        16,
        "spatial_unpad",
        "anyres",
    )
    assert raw["image_grid_pinpoints"] == [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]]
    assert raw["vision_config"]["layer_norm_eps"] == 1e-6 and raw["vision_config"]["hidden_act"] == "gelu_pytorch_tanh"
    assert {name: raw[name] for name in IDS} == IDS  # from the tokenizer, and from now on in the config
    assert "auto_map" not in raw


def test_config_is_the_one_that_official_training_writes(parts, reference):
    """Field by field, but for sizes, the tiny folder's own ids, and what LLaDA's plain config brings along."""
    theirs = json.loads((reference.folder / "llada" / "config.json").read_text())
    raw = assemble(*parts).config.raw
    recipe = [name for name in theirs if name.startswith(("mm_", "image_", "tokenizer_", "use_mm", "add_"))]
    own = {"mm_hidden_size", "mm_vision_tower"}
    assert len(recipe) > 20
    assert {name: raw[name] for name in recipe if name not in own} == {
        name: theirs[name] for name in recipe if name not in own
    }
    assert raw["vision_config"].keys() == theirs["vision_config"].keys()


def test_precision_is_the_language_models(tmp_path):
    language = plain_language(tmp_path / "language", dtype=torch.bfloat16)
    model = assemble(language, siglip(tmp_path / "siglip"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_the_language_model_is_mapped_not_copied(parts):
    model = assemble(*parts)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [[int(end, 16) for end in line[0].split("-")] for line in lines if str(parts[0]) in line[-1]]
    for name, parameter in model.language.named_parameters():
        assert any(start <= parameter.data_ptr() < end for start, end in spans), name


def test_fresh_parts_come_from_the_seed(parts):
    model, again, other = assemble(*parts, seed=3), assemble(*parts, seed=3), assemble(*parts, seed=4)
    assert equal_states(model, again)
    for name in ("image_newline", "mm_projector.0.weight", "mm_projector.2.bias"):
        assert not torch.equal(model.state_dict()[name], other.state_dict()[name])
    assert model.mm_projector[0].weight.abs().max() <= 16**-0.5 and model.mm_projector[2].bias.abs().max() <= 32**-0.5
    assert model.image_newline.detach().std() == pytest.approx(32**-0.5, rel=0.4)


def test_a_stage_1_projector_is_taken(parts, tmp_path):
    state = projector_state()
    save_file(
        {**state, "model.image_newline": torch.zeros(32)}, tmp_path / "p.safetensors"
    )  # the other is no part of it
    model = assemble(*parts, projector=tmp_path / "p.safetensors")
    for name, tensor in model.mm_projector.state_dict().items():
        assert torch.equal(tensor, state[f"model.mm_projector.{name}"])
    assert torch.equal(model.image_newline, assemble(*parts).image_newline)


def test_a_projector_of_other_shapes_is_named(parts, tmp_path):
    state = projector_state(width=24)
    del state["model.mm_projector.2.bias"]
    save_file(state | {"model.mm_projector.4.bias": torch.zeros(1)}, tmp_path / "p.safetensors")
    with pytest.raises(UserError) as caught:
        assemble(*parts, projector=tmp_path / "p.safetensors")
    for said in (
        "width 16",
        "1 missing: model.mm_projector.2.bias",
        "1 unexpected: model.mm_projector.4.bias",
        "0.weight is [32, 24], must be [32, 16]",
    ):
        assert said in str(caught.value)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickled_projector_is_converted_first(parts, tmp_path, archive):
    state = projector_state()
    source, target = tmp_path / "mm_projector.bin", tmp_path / "mm_projector.safetensors"
    torch.save({**state, "model.embed": torch.zeros(3)}, source, _use_new_zipfile_serialization=archive)
    with pytest.raises(UserError, match="`shirg convert mm_projector.bin mm_projector.safetensors`"):
        assemble(*parts, projector=source)
    assert convert_projector(source, target) == {name: list(tensor.shape) for name, tensor in state.items()}
    written = load_file(target)
    assert written.keys() == state.keys() and all(torch.equal(written[name], state[name]) for name in state)
    assert torch.equal(assemble(*parts, projector=target).mm_projector[2].weight, state["model.mm_projector.2.weight"])


class Malicious:
    """What runs when a careless reader opens it."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("archive", [True, False])
def test_a_malicious_pickle_is_refused_and_does_not_run(parts, tmp_path, archive):
    source, witness = tmp_path / "mm_projector.bin", tmp_path / "it_ran"
    content = {**projector_state(), "model.mm_projector.extra": Malicious(witness)}
    torch.save(content, source, _use_new_zipfile_serialization=archive)
    with pytest.raises(UserError, match=r"it asks for \w+\.mkdir, which is not a tensor; nothing in it was run"):
        convert_projector(source, tmp_path / "p.safetensors")
    with pytest.raises(UserError, match="is a pickle"):
        assemble(*parts, projector=source)
    assert not witness.exists() and not (tmp_path / "p.safetensors").exists()
    torch.load(source, weights_only=False)
    assert witness.exists()  # it would have run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "contains a list"),
        ({"weight": torch.zeros(2, 2)}, "no two-layer projector .* found none"),
        ({"model.mm_projector.0.weight": torch.zeros(4)}, "no two-layer projector"),
        (projector_state() | {"model.mm_projector.2.bias": torch.zeros(5)}, r"2.bias': \[5\]"),
        (projector_state() | {"model.mm_projector.2.bias": "text"}, "2.bias': 'str'"),
        (projector_state() | {"model.mm_projector.2.bias": torch.zeros(32, dtype=torch.int8)}, "2.bias': 'Tensor'"),
        (projector_state() | {"model.mm_projector.4.bias": torch.zeros(32)}, "4.bias"),
    ],
)
def test_files_without_a_projector_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "p.bin")
    with pytest.raises(UserError, match=message):
        convert_projector(tmp_path / "p.bin", tmp_path / "p.safetensors")
    assert not (tmp_path / "p.safetensors").exists()


def test_damaged_pickles_have_a_clear_message(tmp_path):
    for data in (b"", b"PK\x03\x04rubbish", b"\x80\x02rubbish", pickle.dumps({"a": 1}, protocol=2)[:-3], b"text"):
        (tmp_path / "p.bin").write_bytes(data)
        with pytest.raises(UserError, match="it is damaged"):
            convert_projector(tmp_path / "p.bin", tmp_path / "p.safetensors")


def test_folders_that_are_something_else_are_refused(parts, tmp_path):
    language, tower = parts
    with pytest.raises(UserError, match="a whole LaViDa"):
        assemble("nano", tower)
    with pytest.raises(UserError, match="language: .* of model_type 'siglip'; expected a plain LLaDA or Dream"):
        assemble(tower, tower)
    with pytest.raises(UserError, match="tower: .* of model_type 'llada'; expected a SigLIP"):
        assemble(language, language)
    with pytest.raises(UserError, match="sees 224 pixels in patches of 16"):
        assemble(language, siglip(tmp_path / "small", image_size=224, patch_size=16))


def test_tensors_that_do_not_fit_are_named_with_their_part(parts):
    language, tower = parts
    for folder, lost, added, message in (
        (tower, "vision_model.post_layernorm.bias", "vision_model.encoder.layers.3.new", "tower: the weights in"),
        (language, "model.transformer.ln_f.weight", "model.transformer.new", "language: the weights in"),
    ):
        state = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file({**state, added: state[lost].clone()}, folder / "model.safetensors")
        with pytest.raises(UserError, match=f"{message}.* 1 unexpected: {added}"):
            assemble(*parts)
        save_file({name: tensor for name, tensor in state.items() if name != lost}, folder / "model.safetensors")
        with pytest.raises(UserError, match=f"{message}.* 1 missing: {lost}"):
            assemble(*parts)
        save_file(state, folder / "model.safetensors")
