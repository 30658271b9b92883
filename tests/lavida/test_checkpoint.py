"""Configs and weights: the official layout in, the same layout out."""

from __future__ import annotations

import json
import logging
import shutil

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from shirg.errors import UserError
from shirg.lavida import Lavida, LavidaConfig, checkpoint
from tests.tiny import tiny_config, tiny_model, tiny_page


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_official_checkpoint_is_written_back_bit_equal(reference, tmp_path, family):
    source = reference.folder / family
    model = Lavida.from_pretrained(source)
    model.save_pretrained(tmp_path / "copy")
    theirs, ours = load_file(source / "model.safetensors"), load_file(tmp_path / "copy" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert json.loads((tmp_path / "copy" / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_saved_model_answers_the_same(tmp_path, family):
    model = tiny_model(family)
    model.save_pretrained(tmp_path / "tiny")
    again = Lavida.from_pretrained(str(tmp_path / "tiny"))
    assert not again.training
    assert again.prompt_ids("Total?").tolist() == model.prompt_ids("Total?").tolist()
    for (name, ours), (_, theirs) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    with torch.no_grad():
        assert torch.equal(*(one.encode_images([tiny_page()], "highres")[0] for one in (model, again)))


def test_shards_are_read(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "tiny")
    state = load_file(tmp_path / "tiny" / "model.safetensors")
    (tmp_path / "tiny" / "model.safetensors").unlink()
    huggingface_hub.save_torch_state_dict(state, tmp_path / "tiny", max_shard_size=100_000)
    assert len(list((tmp_path / "tiny").glob("*.safetensors"))) > 1
    again = Lavida.from_pretrained(tmp_path / "tiny", dtype=torch.bfloat16)
    assert torch.equal(again.mm_projector[0].weight, model.mm_projector[0].weight.bfloat16())
    next((tmp_path / "tiny").glob("*00002*")).unlink()
    with pytest.raises(UserError, match="lacks .*00002"):
        Lavida.from_pretrained(tmp_path / "tiny")
    for damage in ("{", "{}", "[]", '{"weight_map": 3}'):
        (tmp_path / "tiny" / "model.safetensors.index.json").write_text(damage)
        with pytest.raises(UserError, match="no index of safetensors files"):
            Lavida.from_pretrained(tmp_path / "tiny")


def test_tensors_that_do_not_fit_are_listed(tmp_path):
    tiny_model().save_pretrained(tmp_path / "tiny")
    path = tmp_path / "tiny" / "model.safetensors"
    state = load_file(path)
    state["model.extra"] = state.pop("model.transformer.ln_f.weight")
    state["model.mm_projector.0.weight"] = state["model.mm_projector.0.weight"][:, :3].contiguous()
    save_file(state, path)
    with pytest.raises(UserError) as caught:
        Lavida.from_pretrained(tmp_path / "tiny")
    for part in ("1 missing: model.transformer.ln_f.weight", "1 unexpected: model.extra", "[32, 3]", "[32, 16]"):
        assert part in str(caught.value)


def test_an_adapter_is_not_part_of_the_saved_model(tmp_path):
    from peft import LoraConfig, inject_adapter_in_model

    model = tiny_model()
    names = set(checkpoint.base_state(model))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["mm_projector.0", "mm_projector.2"]), model)
    assert set(checkpoint.base_state(model)) == names
    model.save_pretrained(tmp_path / "tiny")
    Lavida.from_pretrained(tmp_path / "tiny")


def test_saving_replaces_a_checkpoint_and_nothing_else(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "tiny")
    (tmp_path / "tiny" / "README.md").write_text("card")
    model.save_pretrained(tmp_path / "tiny")
    assert (tmp_path / "tiny" / "README.md").read_text() == "card"
    (tmp_path / "tiny" / "photo.png").write_bytes(b"")
    with pytest.raises(UserError, match="photo.png"):
        model.save_pretrained(tmp_path / "tiny")
    assert (tmp_path / "tiny" / "photo.png").exists()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "scores.json").write_text("{}")  # a suffix of checkpoints, but no checkpoint
    with pytest.raises(UserError, match="scores.json"):
        model.save_pretrained(tmp_path / "results")
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["scores.json"]


def test_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    model = tiny_model()
    model.save_pretrained(tmp_path / "tiny")
    before = (tmp_path / "tiny" / "model.safetensors").read_bytes()

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(huggingface_hub, "save_torch_state_dict", fail)
    with pytest.raises(OSError, match="disk full"):
        tiny_model(seed=1).save_pretrained(tmp_path / "tiny")
    assert (tmp_path / "tiny" / "model.safetensors").read_bytes() == before


def test_folder_without_tokenizer_takes_ids(tmp_path):
    tiny_model(tokenizer=False).save_pretrained(tmp_path / "tiny")
    model = Lavida.from_pretrained(tmp_path / "tiny")
    ids = torch.tensor([[1, 2, model.config.image_token_index, 3]])
    assert model.generate(ids, [tiny_page()], "shirg", 8, max_new_tokens=4).shape == (1, 4)
    with pytest.raises(UserError, match="without a tokenizer"):
        model.answer(tiny_page(), "What?")


def test_what_is_not_there_is_said_clearly(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such folder"):
        Lavida.from_pretrained(tmp_path / "absent")
    with pytest.raises(UserError, match="no such folder"):
        Lavida.from_pretrained("nothing")
    with pytest.raises(UserError, match=r"no config\.json"):
        Lavida.from_pretrained(tmp_path)

    def unreachable(*_args, **_kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    class ProxyError(Exception):  # as that of the hub's HTTP library: no OSError, and at times without a word
        pass

    def refused(*_args, **_kwargs):
        raise ProxyError

    for download, reason in ((unreachable, "offline"), (refused, "ProxyError")):
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        with pytest.raises(UserError, match=f"'someone/lavida' .*{reason}"):
            Lavida.from_pretrained("someone/lavida", revision="v1")


def test_damaged_files_are_said_clearly(tmp_path):
    tiny_model().save_pretrained(tmp_path / "tiny")
    shutil.copytree(tmp_path / "tiny", tmp_path / "cut")
    data = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="not a readable safetensors"):
        Lavida.from_pretrained(tmp_path / "cut")
    tokenizer = (tmp_path / "tiny" / "tokenizer.json").read_text()
    for damage in ("{", tokenizer.replace("BPE", "Bpe")):
        (tmp_path / "tiny" / "tokenizer.json").write_text(damage)
        with pytest.raises(UserError, match="the tokenizer in .* cannot be read"):
            Lavida.from_pretrained(tmp_path / "tiny")
    (tmp_path / "tiny" / "config.json").write_text("{")
    with pytest.raises(UserError, match="not readable JSON"):
        Lavida.from_pretrained(tmp_path / "tiny")


def test_special_ids_come_from_the_config_or_are_announced(caplog):
    assert tiny_config().mask_token_id == 261
    big = {"vocab_size": 126464, "embedding_size": 126464}
    with caplog.at_level(logging.WARNING):
        config = tiny_config(**big, mask_token_id=None, eos_token_id=None, pad_token_id=7)
    assert (config.mask_token_id, config.eos_token_id, config.pad_token_id) == (126336, 126081, 7)
    assert "mask_token_id, eos_token_id" in caplog.text
    with pytest.raises(UserError, match="mask_token_id=126336 is outside the vocabulary of 264"):
        tiny_config(mask_token_id=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llava_qwen"}, "llava_qwen"),
        ({"block_type": "sequential"}, "block_type='sequential'"),
        ({"d_model": None}, "missing d_model"),
        ({"mm_projector_type": "linear"}, "mm_projector_type='linear'"),
        ({"mm_patch_merge_type": "spatial_nobase"}, "spatial_nobase"),
        ({"mm_hidden_size": 17}, "mm_hidden_size=17"),
        ({"vision_config": None, "mm_vision_tower": "clip"}, "'clip'"),
        ({"vision_config": {"patch_size": 14}}, "vision_config has no hidden_size"),
        ({"image_grid_pinpoints": "wide"}, "'wide'"),
        ({"image_grid_pinpoints": [384]}, "pairs"),
        ({"shirg": {"relevance": "clip"}}, "shirg.relevance='clip'"),
    ],
)
def test_configs_we_have_no_code_for_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        tiny_config(**change)


def test_pinpoints_as_text():
    assert tiny_config(image_grid_pinpoints="(1x1),...,(2x2)").pinpoints == (
        (384, 384),
        (384, 768),
        (768, 384),
        (768, 768),
    )
    assert tiny_config(image_grid_pinpoints="[(384, 768)]").pinpoints == ((384, 768),)


def test_published_tower_is_known_by_name():
    raw = {**tiny_config().raw, "vision_config": None, "mm_hidden_size": 1152}
    raw["mm_vision_tower"] = "google/siglip-so400m-patch14-384"
    config = LavidaConfig.from_dict(raw)
    assert (config.vision_hidden_size, config.vision_config["num_hidden_layers"]) == (1152, 27)
