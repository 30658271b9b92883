"""Configs and weights: the official layout in, the same layout out."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from shirg.errors import UserError
from shirg.lavida import Lavida, LavidaConfig, checkpoint
from tests.tiny import tiny_config, tiny_model, tiny_page, tiny_tokenizer


def copy_of(path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors, held in memory, so that the file can be written again."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


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
        with pytest.raises(UserError, match="not an index of safetensors files"):
            Lavida.from_pretrained(tmp_path / "tiny")


def sharded(folder: Path) -> Path:
    """The folder's weights as two shards and their index; the single file stays."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_an_index_counts_for_more_than_a_single_file(tmp_path, caplog):
    tiny_model().save_pretrained(tmp_path / "m")
    sharded(tmp_path / "m")
    stale = {name: torch.zeros_like(tensor) for name, tensor in load_file(tmp_path / "m/model.safetensors").items()}
    save_file(stale, tmp_path / "m/model.safetensors")
    read = Lavida.from_pretrained(tmp_path / "m")
    assert torch.equal(read.language.embed_tokens.weight, tiny_model().language.embed_tokens.weight)
    assert "read from the 2 files that model.safetensors.index.json names; model.safetensors is not" in caplog.text


def test_shards_without_an_index_are_mentioned(tmp_path, caplog):
    tiny_model().save_pretrained(tmp_path / "m")
    (sharded(tmp_path / "m") / "model.safetensors.index.json").unlink()
    Lavida.from_pretrained(tmp_path / "m")
    assert "read from model.safetensors; model-00001-of-00002.safetensors, model-00002-of-00002" in caplog.text
    (tmp_path / "m/model.safetensors").unlink()
    with pytest.raises(UserError, match="but not their index; get model.safetensors.index.json"):
        Lavida.from_pretrained(tmp_path / "m")


def test_an_index_whose_shards_are_gone(tmp_path, caplog):
    tiny_model().save_pretrained(tmp_path / "m")
    sharded(tmp_path / "m")
    (tmp_path / "m/model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="lacks model-00001-of-00002.safetensors, which"):
        Lavida.from_pretrained(tmp_path / "m")
    (tmp_path / "m/model-00002-of-00002.safetensors").unlink()
    Lavida.from_pretrained(tmp_path / "m")
    assert "none of which exists" in caplog.text


@pytest.mark.parametrize("named", ["../model.safetensors", "/etc/passwd", 7, None])
def test_an_index_that_names_something_else_is_refused(tmp_path, named):
    tiny_model().save_pretrained(tmp_path / "m")
    (tmp_path / "m/model.safetensors").unlink()
    (tmp_path / "m/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": named}}))
    with pytest.raises(UserError, match="is not an index of safetensors files"):
        Lavida.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_rows_of_the_input_embedding_that_no_token_has_may_be_missing(tmp_path, family):
    """As the official loader saves a model whose embedding it shrank to the tokenizer's length."""
    torch.manual_seed(0)  # of some random weights two positions are as certain as each other to the last digit
    rows = "embedding_size" if family == "llada" else "vocab_size"
    tokenizer = tiny_tokenizer(family)
    larger = Lavida(tiny_config(family, **{rows: len(tokenizer) + 40}), tokenizer).eval()
    larger.save_pretrained(tmp_path / "m")
    name = checkpoint.official_name(checkpoint.EMBEDDING, family)
    tensors = load_file(tmp_path / "m/model.safetensors")

    def stored(count: int) -> Lavida:
        save_file({**tensors, name: tensors[name][:count].clone()}, tmp_path / "m/model.safetensors")
        return Lavida.from_pretrained(tmp_path / "m")

    shrunk = stored(len(tokenizer))
    assert not shrunk.language.embed_tokens.weight[len(tokenizer) :].any()
    question = {"question": "What is it?", "max_new_tokens": 4, "steps": 2}
    assert shrunk.answer(tiny_page(), **question) == larger.answer(tiny_page(), **question)
    shrunk.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again/model.safetensors")[name].shape == tensors[name].shape
    with pytest.raises(UserError, match=f"of a wrong shape: {name} is"):
        stored(len(tokenizer) - 1)


def test_a_head_of_fewer_rows_is_refused(tmp_path):
    """Its rows take part in every softmax, whether a token has them or not."""
    Lavida(tiny_config(embedding_size=300), tiny_tokenizer("llada")).save_pretrained(tmp_path / "m")
    tensors = load_file(tmp_path / "m/model.safetensors")
    head = "model.transformer.ff_out.weight"
    save_file({**tensors, head: tensors[head][:280].clone()}, tmp_path / "m/model.safetensors")
    with pytest.raises(UserError, match=f"{head} is .280"):
        Lavida.from_pretrained(tmp_path / "m")


def test_code_that_a_folder_brings_along_is_named_and_not_run(tmp_path, caplog):
    tiny_model().save_pretrained(tmp_path / "m")
    tiny_tokenizer("llada").save_pretrained(tmp_path / "m")
    for file in ("config.json", "tokenizer_config.json"):
        path = tmp_path / "m" / file
        code = {
            "AutoConfig": "modeling_x.Config",
            "AutoModel": "modeling_x.Model",
            "AutoTokenizer": ["modeling_x.T", None],
        }
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": code, "use_flash_attn": True}))
    (tmp_path / "m/modeling_x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    read = Lavida.from_pretrained(tmp_path / "m")
    assert read.tokenizer is not None and not (tmp_path / "ran").exists()
    assert "contains code (auto_map in config.json, modeling_x.py), which is not run" in caplog.text
    read.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again/config.json").read_text())
    assert "auto_map" not in written and written["use_flash_attn"] is True


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


def test_the_headers_are_checked_before_any_tensor_is_read(tmp_path, monkeypatch):
    tiny_model().save_pretrained(tmp_path / "tiny")
    path = tmp_path / "tiny" / "model.safetensors"
    save_file({**copy_of(path), "model.extra": torch.zeros(1)}, path)
    opened = []

    class Handle:
        """The header of a file whose tensors nobody may ask for."""

        def __init__(self, *arguments, **keywords):
            self.real = safetensors.safe_open(*arguments, **keywords)

        def __enter__(self):
            opened.append(self.real.__enter__())
            return self

        def __exit__(self, *error):
            return self.real.__exit__(*error)

        def keys(self):
            return opened[-1].keys()

        def get_slice(self, name):
            return opened[-1].get_slice(name)

    monkeypatch.setattr(checkpoint, "safe_open", Handle)
    with pytest.raises(UserError, match="1 unexpected"):
        Lavida.from_pretrained(tmp_path / "tiny")
    assert opened


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_weights_are_mapped_not_copied(tmp_path):
    tiny_model().save_pretrained(tmp_path / "tiny")
    model = Lavida.from_pretrained(tmp_path / "tiny")
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [[int(end, 16) for end in line[0].split("-")] for line in lines if str(tmp_path) in line[-1]]
    for name, parameter in model.named_parameters():
        assert any(start <= parameter.data_ptr() < end for start, end in spans), name


def test_a_vector_for_video_is_ignored(tmp_path):
    tiny_model(add_faster_video=True).save_pretrained(tmp_path / "tiny")
    path, config = tmp_path / "tiny" / "model.safetensors", tmp_path / "tiny" / "config.json"
    assert json.loads(config.read_text())["add_faster_video"] is False  # its tensor is not there
    save_file({**copy_of(path), "model.faster_token": torch.zeros(32)}, path)
    with pytest.raises(UserError, match=r"1 unexpected: model\.faster_token"):
        Lavida.from_pretrained(tmp_path / "tiny")
    config.write_text(json.dumps({**json.loads(config.read_text()), "add_faster_video": True}))
    model = Lavida.from_pretrained(tmp_path / "tiny")
    assert all("faster" not in name for name in model.state_dict())


def test_pickled_weights_are_never_opened(tmp_path):
    tiny_model().save_pretrained(tmp_path / "tiny")
    (tmp_path / "tiny" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor .* \(pickled weights are not read\)"):
        Lavida.from_pretrained(tmp_path / "tiny")
    for number in (1, 2):
        (tmp_path / "tiny" / f"pytorch_model-{number:05}-of-00002.bin").write_bytes(b"no pickle at all")
    with pytest.raises(UserError, match=r"only as pickles \(pytorch_model-00001.*take the model's safetensors version"):
        Lavida.from_pretrained(tmp_path / "tiny")


def test_grouped_queries_equal_repeated_heads(tmp_path):
    """Two key heads for four query heads do what four do of which pairs are equal."""
    grouped = tiny_model(n_kv_heads=2, n_heads=4)
    grouped.save_pretrained(tmp_path / "grouped")
    shutil.copytree(tmp_path / "grouped", tmp_path / "repeated")
    path, config = tmp_path / "repeated" / "model.safetensors", tmp_path / "repeated" / "config.json"
    state = copy_of(path)
    for name in [name for name in state if name.endswith(("k_proj.weight", "v_proj.weight")) and "blocks" in name]:
        assert state[name].shape == (16, 32)
        state[name] = state[name].view(2, 8, 32).repeat_interleave(2, dim=0).view(32, 32).clone()
    save_file(state, path)
    config.write_text(json.dumps({**json.loads(config.read_text()), "n_kv_heads": 4}))
    models = [Lavida.from_pretrained(tmp_path / name) for name in ("grouped", "repeated")]
    embeds = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(*(model.language(embeds) for model in models), atol=1e-5, rtol=1e-5)
    assert models[0].answer(tiny_page(), "Total?", budget=16, max_new_tokens=4) == models[1].answer(
        tiny_page(), "Total?", budget=16, max_new_tokens=4
    )


def test_a_revision_is_asked_of_the_hub_and_of_nothing_else(tmp_path, monkeypatch):
    tiny_model().save_pretrained(tmp_path / "tiny")
    asked = []

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        assert not any(pattern.endswith((".bin", ".py")) for pattern in allow_patterns)
        return str(tmp_path / "tiny")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    Lavida.from_pretrained("someone/lavida", revision="v1")
    Lavida.from_pretrained("someone/lavida")
    assert asked == [("someone/lavida", "v1"), ("someone/lavida", None)]
    for name in ("nano", tmp_path / "tiny"):
        with pytest.raises(UserError, match="revision='v1': .* is not a hub id"):
            Lavida.from_pretrained(name, revision="v1")


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


def test_settings_changed_since_are_saved(tmp_path):
    model = tiny_model(shirg={"nano": True, "relevance": "siglip"})
    raw = dict(model.config.raw)
    model.vision = replace(model.vision, relevance="none", relevance_sign=-1, resolution=224)
    model.save_pretrained(tmp_path / "tiny")
    again = Lavida.from_pretrained(tmp_path / "tiny")
    assert again.vision == model.vision
    stored = {"nano": True, "relevance": "none", "relevance_sign": -1, "resolution": 224}
    assert again.config.raw["shirg"] == stored and model.config.raw == raw
    with pytest.raises(UserError, match="relevance: got 'sigclip', must be 'llm' or 'siglip' or 'none'"):
        replace(model.vision, relevance="sigclip")


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


def test_missing_models_have_a_clear_message(tmp_path, monkeypatch):
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


def test_precision_and_device_by_name(tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    assert Lavida.from_pretrained(tmp_path / "model", device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(UserError, match="dtype='int8': must be one of float32, bfloat16, float16, float64"):
        Lavida.from_pretrained(tmp_path / "model", dtype="int8")
    with pytest.raises(UserError, match="device='gpu' is unknown"):
        Lavida.from_pretrained(tmp_path / "model", device="gpu")
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(UserError, match=f"device='{absent}': torch sees"):
        Lavida.from_pretrained(tmp_path / "model", device=absent)


def test_damaged_files_have_a_clear_message(tmp_path):
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


def test_special_ids_come_from_the_config_first(caplog):
    assert tiny_config().mask_token_id == 261
    own = {"mask_token_id": 5, "eos_token_id": 0, "pad_token_id": 7, "fim_token_id": 9}  # 0 is an id, not "none"
    config = LavidaConfig.from_dict({**tiny_config().raw, **own}, tiny_tokenizer())
    assert {name: getattr(config, name) for name in own} == own
    assert not caplog.records


def test_special_ids_come_from_the_tokenizer_next(caplog):
    raw = {**tiny_config().raw, "mask_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = LavidaConfig.from_dict(raw, tiny_tokenizer())
    assert (config.mask_token_id, config.eos_token_id, config.pad_token_id) == (261, 257, 257)
    assert config.fim_token_id is None
    for said in (
        "config names no mask_token_id; taking 261, the tokenizer's <|mdm_mask|>",
        "config names no eos_token_id; taking 257, the tokenizer's <|endoftext|>",
        "config names no pad_token_id; taking 257, the tokenizer's <|endoftext|>",
    ):
        assert said in caplog.messages


@pytest.mark.parametrize(
    ("family", "rows", "mask", "token", "end"),
    [("llada", 126464, 126336, "<|mdm_mask|>", 126081), ("dream", 152064, 151666, "<|mask|>", 151643)],
)
def test_special_ids_are_the_published_ones_last(family, rows, mask, token, end, caplog):
    unnamed = dict.fromkeys(("mask_token_id", "eos_token_id", "pad_token_id"))
    with caplog.at_level(logging.WARNING):
        config = tiny_config(family, vocab_size=rows, embedding_size=rows, **unnamed)
    assert (config.mask_token_id, config.eos_token_id, config.pad_token_id) == (mask, end, end)
    assert caplog.messages == [
        f"config names no mask_token_id; taking {mask}, the published tokenizer's {token}",
        f"config names no eos_token_id; taking {end}, the published tokenizer's <|endoftext|>",
        f"config names no pad_token_id; taking {end}, the published tokenizer's <|endoftext|>",
    ]


def test_a_special_id_outside_the_vocabulary_is_refused():
    with pytest.raises(UserError, match="mask_token_id=126336 is outside the vocabulary of 264"):
        tiny_config(mask_token_id=None)


@pytest.mark.parametrize(("family", "ids", "fim"), [("llada", (275, 268, 268), 270), ("dream", (271, 268, 268), None)])
def test_special_tokens_are_those_of_the_reference_tokenizers(reference, family, ids, fim):
    tokenizer = checkpoint.load_tokenizer(reference.folder / f"tokenizer_{family}")
    raw = {**json.loads((reference.folder / family / "config.json").read_text()), "fim_token_id": None}
    raw |= dict.fromkeys(("mask_token_id", "eos_token_id", "pad_token_id"))
    raw |= {"vocab_size": 288, "embedding_size": 288}
    config = LavidaConfig.from_dict(raw, tokenizer)
    assert (config.mask_token_id, config.eos_token_id, config.pad_token_id) == ids
    assert config.fim_token_id == fim


def test_a_model_without_ids_takes_its_tokenizers(tmp_path):
    model = tiny_model()
    model.config.raw["mask_token_id"] = None
    model.save_pretrained(tmp_path / "tiny")
    assert Lavida.from_pretrained(tmp_path / "tiny").config.mask_token_id == 261


@pytest.mark.parametrize(
    ("aspect", "fit"), [("pad", "pad"), ("square", "stretch"), ("anyres", "stretch"), (None, "stretch")]
)
def test_fit_is_that_of_the_config(tmp_path, aspect, fit):
    model = tiny_model(image_aspect_ratio=aspect)
    assert model.vision.fit == fit
    top = model.image_features(tiny_page(300, 200), "lowres").pixels[0, :, 0]
    assert torch.allclose(top, torch.tensor(127 / 255 * 2 - 1)) == (fit == "pad")  # grey above the page, or white paper


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llava_qwen"}, "llava_qwen"),
        ({"block_type": "sequential"}, "block_type='sequential'"),
        ({"d_model": "32"}, "d_model='32' must be a whole number"),
        ({"n_layers": -1}, "n_layers=-1 must be a whole number above 0"),
        ({"n_heads": 5}, "5 heads"),
        ({"n_kv_heads": 3}, "3 key-value"),
        ({"shirg": "llm"}, "shirg='llm'"),
        ({"shirg": {"relevanz": "llm"}}, "unknown relevanz"),
        ({"image_grid_pinpoints": []}, "must contain pairs"),
        ({"d_model": None}, "missing d_model"),
        ({"mm_projector_type": "linear"}, "mm_projector_type='linear'"),
        ({"mm_patch_merge_type": "spatial_nobase"}, "spatial_nobase"),
        ({"mm_hidden_size": 17}, "mm_hidden_size=17"),
        ({"vision_config": None, "mm_vision_tower": "clip"}, "'clip'"),
        ({"vision_config": {"patch_size": 14}}, "vision_config has no hidden_size"),
        ({"image_grid_pinpoints": "wide"}, "'wide'"),
        ({"image_grid_pinpoints": [384]}, "pairs"),
        ({"shirg": {"relevance": "clip"}}, "shirg.relevance: got 'clip'"),
        ({"eos_token_id": [257, 260]}, r"eos_token_id=\[257, 260\] must be one id"),
    ],
)
def test_configs_we_have_no_code_for_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        tiny_config(**change)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_a_config_of_wrong_types_is_refused_or_taken_but_no_traceback(family):
    raw = tiny_config(family).raw
    for name in ("resolution", "answer_tokens"):
        for wrong in ("336", 1.5, True, 0, None):
            with pytest.raises(UserError, match=f"config: shirg.{name}.* must be a whole number above 0"):
                tiny_config(family, shirg={name: wrong})
    places = [(raw, name) for name in raw] + [(raw["vision_config"], name) for name in raw["vision_config"]]
    for within, name in places:
        for wrong in ("16", 1.5, True, -1, [1], {"a": 1}, float("nan"), 10**30):
            changed = {**within, name: wrong}
            config = changed if within is raw else {**raw, "vision_config": changed}
            try:
                with torch.device("meta"):
                    Lavida(LavidaConfig.from_dict(config))
            except UserError as error:
                assert str(error).startswith("config: ") and "\n" not in str(error)


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
