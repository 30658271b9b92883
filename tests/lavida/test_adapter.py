"""The adapter: what it wraps, what it writes, and what it refuses."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
import torch
from peft import IA3Config
from torch import nn

from shirg import GateConfig
from shirg.errors import UserError
from shirg.lavida import Lavida, adapter
from tests.tiny import tiny_model, tiny_page

SMALL = {"resolution": 112}


@pytest.fixture
def model():
    return tiny_model(shirg=SMALL)


@pytest.fixture
def trained(model):
    """A model whose adapter does something."""
    adapter.attach_lora(model, rank=4)
    with torch.no_grad():
        for parameter in adapter.lora_parameters(model).values():
            parameter.add_(0.1)
    return model.eval()


def embeds(model) -> torch.Tensor:
    with torch.no_grad():
        return model.encode_images([tiny_page()], mode="shirg", budget=16)[0]


def test_fresh_adapter_changes_nothing_and_wraps_exactly_the_projector(model):
    before = embeds(model)
    adapter.attach_lora(model)
    assert torch.equal(embeds(model), before)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {f"mm_projector.{layer}.lora_{side}.default.weight" for layer in (0, 2) for side in ("A", "B")}


def test_trainable_numbers_at_lavidas_size():
    with torch.device("meta"):
        model = nn.Module()
        model.mm_projector = nn.Sequential(nn.Linear(1152, 4096), nn.GELU(), nn.Linear(4096, 4096))
        model.language = nn.Linear(4096, 4096, bias=False)
        model.tower = nn.Linear(8, 8, bias=False)
        adapter.attach_lora(model, rank=16)
    counts = adapter.parameters_by_role(model)
    projector = 1152 * 4096 + 4096 + 4096 * 4096 + 4096
    assert counts == {
        "vision": (0, 64),
        "projector": (215_040, projector + 215_040),
        "language": (0, 4096 * 4096),
    }
    assert "215,040" in adapter.describe_parameters(model)[1]


def test_initial_weights_follow_the_seed_alone():
    weights = []
    for global_seed, seed in ((1, 5), (2, 5), (1, 6)):
        model = tiny_model(shirg=SMALL)
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        adapter.attach_lora(model, rank=4, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        weights.append(adapter.lora_parameters(model)["mm_projector.0.lora_A.default.weight"].detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].abs().max() <= 1 / 4  # 1 / sqrt(16 inputs)


def test_round_trip_and_unload(trained, tmp_path):
    bare = embeds(tiny_model(shirg=SMALL))
    expected = embeds(trained)
    assert not torch.allclose(expected, bare)
    trained.save_adapter(tmp_path / "a", settings={"token_budgets": [16], "base_model": "tiny"})
    fresh = tiny_model(shirg=SMALL)
    fresh.load_adapter(tmp_path / "a")
    assert torch.equal(embeds(fresh), expected)
    fresh.load_adapter(tmp_path / "a")  # in place of the first, not on top
    assert torch.equal(embeds(fresh), expected)
    fresh.unload_adapter()
    assert torch.equal(embeds(fresh), bare)
    assert not adapter.has_adapter(fresh)
    adapter.attach_lora(fresh)


def test_an_adapter_of_twenty_layers_is_found_again(tmp_path):
    """peft shortens so many names in the configuration it is given."""
    model = tiny_model(n_layers=4)
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and ".layers." in name]
    targets = [name for name in linear if name.startswith("language.")]
    assert len(targets) >= 20
    adapter.attach_lora(model, rank=2, targets=targets)
    model.save_adapter(tmp_path / "adapter", settings={})
    other = tiny_model(n_layers=4)
    other.load_adapter(tmp_path / "adapter")
    assert adapter.lora_parameters(other).keys() == adapter.lora_parameters(model).keys()


def test_peft_itself_loads_the_folder(trained, tmp_path):
    from peft import PeftModel

    trained.save_adapter(tmp_path / "a", settings={})
    wrapped = PeftModel.from_pretrained(tiny_model(shirg=SMALL), str(tmp_path / "a"))
    assert torch.equal(embeds(wrapped.base_model.model.eval()), embeds(trained))


def test_contents_of_a_folder(trained, tmp_path):
    trained.save_adapter(tmp_path / "a", settings={"token_budgets": [16], "base_model": "tiny"})
    settings = json.loads((tmp_path / "a" / "shirg_settings.json").read_text())
    assert settings["base_fingerprint"] == adapter.base_fingerprint(trained.mm_projector)
    assert settings["gate"]["alpha"] == 0.0 and settings["resolution"] == 112
    card = (tmp_path / "a" / "README.md").read_text()
    assert "base_model: tiny" in card and "rank 4" in card and "[16]" in card


def test_fingerprint_ignores_adapter_and_precision_but_not_the_base(model):
    expected = adapter.base_fingerprint(model.mm_projector)
    stored = model.mm_projector.bfloat16().float()  # as a bfloat16 checkpoint would load
    assert adapter.base_fingerprint(model.mm_projector) == expected
    for precision in (torch.bfloat16, torch.float16):
        stored.to(precision)
        assert adapter.base_fingerprint(model.mm_projector) == expected
        stored.float()
    adapter.attach_lora(model)
    assert adapter.base_fingerprint(model.mm_projector) == expected
    assert adapter.base_fingerprint(tiny_model(seed=1).mm_projector) != expected


def test_adapter_for_another_base_is_refused_and_leaves_the_model_alone(trained, tmp_path):
    trained.save_adapter(tmp_path / "a", settings={"base_model": "tiny"})
    other = tiny_model(seed=1, shirg=SMALL)
    before = embeds(other)
    with pytest.raises(UserError, match="trained on tiny"):
        other.load_adapter(tmp_path / "a")
    assert torch.equal(embeds(other), before) and not adapter.has_adapter(other)


def test_missing_keys_missing_files_and_damage_are_errors(trained, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = trained.save_adapter(tmp_path / "a", settings={})
    weights = load_file(folder / "adapter_model.safetensors")
    gone = weights.pop("base_model.model.mm_projector.2.lora_B.weight")
    save_file(weights, folder / "adapter_model.safetensors")
    model = tiny_model(shirg=SMALL)
    with pytest.raises(UserError, match=r"lacks \['base_model.model.mm_projector.2.lora_B.weight'\]"):
        model.load_adapter(folder)
    assert not adapter.has_adapter(model)
    save_file(
        {**weights, "base_model.model.mm_projector.2.lora_B.weight": gone[:1]}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(UserError, match="shape"):
        model.load_adapter(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="damaged"):
        model.load_adapter(folder)
    trained.save_adapter(folder, settings={})
    settings = json.loads((folder / "shirg_settings.json").read_text())
    for damage, message in (("[1]", "damaged"), (json.dumps({**settings, "gate": {"alpha": 7}}), "alpha")):
        (folder / "shirg_settings.json").write_text(damage)
        with pytest.raises(UserError, match=message):
            model.load_adapter(folder)
        assert not adapter.has_adapter(model)
    (folder / "shirg_settings.json").unlink()
    with pytest.raises(UserError, match="no shirg_settings.json"):
        model.load_adapter(folder)


def test_wrong_targets_are_refused_before_anything_is_wrapped(model):
    for targets, message in ((("mm_projector.7",), "fit"), (("0",), "fit"), (("mm_projector.1",), "GELU")):
        with pytest.raises(UserError, match=message):
            adapter.attach_lora(model, targets=targets)
    assert not adapter.has_adapter(model)
    adapter.attach_lora(model)
    with pytest.raises(UserError, match="already"):
        adapter.attach_lora(model)


def test_saving_without_adapter_is_refused_and_leaves_the_old_folder(trained, tmp_path):
    trained.save_adapter(tmp_path / "a", settings={})
    trained.unload_adapter()
    with pytest.raises(UserError, match="no adapter"):
        trained.save_adapter(tmp_path / "a", settings={})
    assert (tmp_path / "a" / "adapter_config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_stored_configuration_has_the_common_keys_and_all_changed_options(trained, tmp_path):
    """Pefts from 0.5 to 0.13 refuse unknown keys: `scripts/check_official.sh` reads such folders with real ones."""
    folder = trained.save_adapter(tmp_path / "plain", settings={})
    assert set(json.loads((folder / "adapter_config.json").read_text())) == adapter.PLAIN_KEYS
    trained.peft_config[adapter.NAME].use_rslora = True
    folder = trained.save_adapter(tmp_path / "scaled", settings={})
    assert set(json.loads((folder / "adapter_config.json").read_text())) == adapter.PLAIN_KEYS | {"use_rslora"}


def test_missing_and_empty_folders_have_their_own_messages(model, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder; give a `best_model`"):
        model.load_adapter(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no adapter_config.json, adapter_model.safetensors"):
        model.load_adapter(tmp_path)


def test_another_kind_of_adapter_is_refused_and_the_model_left_as_it_is(trained, tmp_path):
    trained.save_adapter(tmp_path / "a", settings={})
    weights = {name: value.clone() for name, value in adapter.lora_parameters(trained).items()}
    IA3Config(target_modules=list(adapter.TARGETS), feedforward_modules=[]).save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match="peft_type 'IA3'; only 'LORA'"):
        trained.load_adapter(tmp_path / "a")
    assert weights and all(
        torch.equal(adapter.lora_parameters(trained)[name], value) for name, value in weights.items()
    )


def test_the_adapters_gate_replaces_a_default_one_only(trained, tmp_path, caplog):
    trained.vision = replace(trained.vision, gate=GateConfig(beta=0.5))
    trained.save_adapter(tmp_path / "a", settings={})
    fresh = tiny_model(shirg=SMALL)
    fresh.load_adapter(tmp_path / "a")
    assert fresh.vision.gate.beta == 0.5
    chosen = tiny_model(shirg=SMALL)
    chosen.vision = replace(chosen.vision, gate=GateConfig(selector="random"))
    with caplog.at_level(logging.WARNING):
        chosen.load_adapter(tmp_path / "a")
    assert chosen.vision.gate.selector == "random"
    assert "trained with gate" in caplog.text


def selection(model) -> tuple:
    own = model.vision
    return own.gate.alpha, own.relevance, own.relevance_sign, own.resolution, own.fit


@pytest.fixture
def special(tmp_path):
    """An adapter trained with a selection of its own."""
    trained = tiny_model(shirg={"resolution": 168, "relevance": "none", "relevance_sign": -1}, image_aspect_ratio="pad")
    trained.vision = replace(trained.vision, gate=GateConfig(alpha=0.5))
    adapter.attach_lora(trained, rank=4)
    return trained.save_adapter(tmp_path / "special", settings={})


TRAINED_WITH, PLAIN = (0.5, "none", -1, 168, "pad"), (0.0, "llm", 1, 112, "stretch")


def test_the_whole_selection_goes_with_the_adapter(special, tmp_path, caplog):
    model = tiny_model(shirg=SMALL)
    with caplog.at_level(logging.WARNING):
        model.load_adapter(special)
        assert selection(model) == TRAINED_WITH
        model.save_pretrained(tmp_path / "base")  # of which the adapter is no part
        assert selection(Lavida.from_pretrained(tmp_path / "base", adapter=special)) == TRAINED_WITH
        assert selection(Lavida.from_pretrained(tmp_path / "base")) == PLAIN
        adapter.attach_lora(plain := tiny_model(shirg=SMALL), rank=4)
        model.load_adapter(plain.save_adapter(tmp_path / "plain", settings={}))
        assert selection(model) == PLAIN
        model.load_adapter(special)
        model.unload_adapter()
        assert selection(model) == PLAIN
    assert not caplog.text


def test_settings_of_the_user_are_kept_with_a_warning(special, caplog):
    model = tiny_model(shirg=SMALL)
    model.vision = replace(model.vision, relevance="siglip", resolution=224)
    with caplog.at_level(logging.WARNING):
        model.load_adapter(special)
    assert selection(model) == (0.5, "siglip", -1, 224, "pad")
    assert "trained with relevance none; this model has siglip" in caplog.text
    assert "trained with resolution 168; this model has 224" in caplog.text
    assert len(caplog.records) == 2
    model.unload_adapter()
    assert selection(model) == (0.0, "siglip", 1, 224, "stretch")


def test_flags_count_for_more_than_the_adapter(special, tmp_path, caplog):
    from shirg.cli.flags import AdaptedModelFlags
    from shirg.cli.models import load_model

    tiny_model(shirg=SMALL).save_pretrained(tmp_path / "base")
    base = {"model": str(tmp_path / "base"), "adapter": special}
    with caplog.at_level(logging.WARNING):
        assert selection(load_model(AdaptedModelFlags(model=base["model"]))) == PLAIN
        assert selection(load_model(AdaptedModelFlags(**base), special)) == TRAINED_WITH
        assert not caplog.text
        flags = AdaptedModelFlags(**base, relevance="llm", image_resolution=224)  # the checkpoint says "llm" too
        assert selection(load_model(flags, special)) == (0.5, "llm", -1, 224, "pad")
    assert "trained with relevance none; this model has llm" in caplog.text
    assert "trained with resolution 168; this model has 224" in caplog.text
    assert len(caplog.records) == 2


@pytest.mark.parametrize("damage", [{"relevance": "clip"}, {"resolution": 670}, {"resolution": "x"}, {"fit": "crop"}])
def test_a_selection_that_makes_no_sense_is_refused(special, damage):
    settings = json.loads((special / "shirg_settings.json").read_text())
    (special / "shirg_settings.json").write_text(json.dumps({**settings, **damage}))
    model = tiny_model(shirg=SMALL)
    with pytest.raises(UserError, match="special: its settings are unknown to this version"):
        model.load_adapter(special)
    assert selection(model) == PLAIN and not adapter.has_adapter(model)


def test_gate_settings_younger_than_the_adapter_have_their_defaults(special, caplog):
    settings = json.loads((special / "shirg_settings.json").read_text())
    del settings["gate"]["beta"]
    (special / "shirg_settings.json").write_text(json.dumps(settings))
    model = tiny_model(shirg=SMALL)
    with caplog.at_level(logging.WARNING):
        model.load_adapter(special)
    assert selection(model) == TRAINED_WITH and not caplog.text


def rewrite(folder, **options):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


@pytest.mark.parametrize(
    "option",
    [
        {"bias": "all"},
        {"bias": "lora_only"},
        {"modules_to_save": ["image_newline"]},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": 1},
        {"use_dora": True},
        {"use_qalora": True},
        {"fan_in_fan_out": True},
        {"layers_to_transform": [0]},
        {"layer_replication": [[0, 1]]},
        {"trainable_token_indices": [1]},
        {"target_parameters": ["mm_projector.0.weight"]},
        {"exclude_modules": ["mm_projector.2"]},
        {"megatron_config": {"a": 1}},
        {"option_of_a_later_peft": 3},
        {"r": 0},
        {"r": "16"},
        {"r": True},
        {"r": 4.0},
        {"lora_alpha": float("nan")},
        {"lora_alpha": float("inf")},
        {"lora_alpha": 0},
        {"lora_alpha": "32"},
        {"lora_alpha": None},
        {"lora_dropout": 1.0},
        {"lora_dropout": "0"},
        {"target_modules": "mm_projector.0"},
        {"target_modules": []},
        {"target_modules": [0]},
        {"use_rslora": "yes"},
        {"lora_bias": 1},
        {"rank_pattern": {"mm_projector.0": 0}},
        {"rank_pattern": [1]},
        {"alpha_pattern": {"mm_projector.0": "x"}},
    ],
    ids=str,
)
def test_options_that_are_not_supported_are_refused_by_name(trained, tmp_path, option):
    folder = trained.save_adapter(tmp_path / "a", settings={})
    rewrite(folder, **option)
    before = embeds(trained)
    (name,) = option
    with pytest.raises(UserError, match=f"adapter_config.json: {name}="):
        trained.load_adapter(folder)
    assert torch.equal(embeds(trained), before)


def test_every_option_of_this_peft_is_decided_on():
    """Those that are neither honoured nor descriptive are refused as soon as they are not what peft has by default."""
    from peft import LoraConfig

    from shirg.lavida.lora_options import DESCRIPTIVE, SUPPORTED, lora_config

    for name in LoraConfig().to_dict().keys() - DESCRIPTIVE - SUPPORTED.keys():
        with pytest.raises(UserError, match=name):
            lora_config({name: "something else"}, "LoRA")
    assert lora_config(LoraConfig(target_modules=["a"]).to_dict() | {"target_modules": ["a"]}, "LoRA").r == 8


@pytest.mark.parametrize(
    "options",
    [
        {"lora_bias": True},
        {"use_rslora": True},
        {"rank_pattern": {"mm_projector.0": 2}},
        {"alpha_pattern": {"mm_projector.2": 64}},
        {"init_lora_weights": "gaussian"},
        {"lora_alpha": 3.5, "lora_dropout": 0.5, "lora_bias": True, "use_rslora": True},
    ],
    ids=str,
)
def test_options_that_change_outputs_are_honoured_by_load_merge_and_unload(tmp_path, options):
    """What peft itself computes with such an adapter is what load, merge and a merged checkpoint give."""
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(1)
    base = tiny_model(shirg=SMALL)
    bare = embeds(base)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": list(adapter.TARGETS), **options})
    wrapped = get_peft_model(base, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) / 5
    wrapped.save_pretrained(str(tmp_path))
    model = tiny_model(shirg=SMALL)
    settings = model.adapter_settings()
    (tmp_path / "shirg_settings.json").write_text(json.dumps(settings))
    theirs = PeftModel.from_pretrained(tiny_model(shirg=SMALL), str(tmp_path))
    expected = embeds(theirs.base_model.model.eval())
    model.load_adapter(tmp_path)
    assert torch.equal(embeds(model), expected) and not torch.allclose(expected, bare)
    again = tiny_model(shirg=SMALL)
    again.load_adapter(model.save_adapter(tmp_path / "again", settings={}))
    assert torch.equal(embeds(again), expected)
    again.merge_adapter()
    torch.testing.assert_close(embeds(again), expected, rtol=1e-5, atol=1e-5)
    model.unload_adapter()
    assert torch.equal(embeds(model), bare)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_that_is_not_finite_is_refused(trained, tmp_path, value):
    with torch.no_grad():
        trained.mm_projector[2].lora_B["default"].weight[1, 1] = value
    folder = trained.save_adapter(tmp_path / "a", settings={})
    model = tiny_model(shirg=SMALL)
    with pytest.raises(UserError, match=r"mm_projector.2.lora_B.weight contains values that are not finite"):
        model.load_adapter(folder)
    assert not adapter.has_adapter(model)


def test_an_adapter_of_other_than_floats_is_refused(trained, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = trained.save_adapter(tmp_path / "a", settings={})
    weights = load_file(folder / adapter.WEIGHTS_FILE)
    name = "base_model.model.mm_projector.0.lora_A.weight"
    for dtype, sound in ((torch.int8, False), (torch.bool, False), (torch.bfloat16, True), (torch.float64, True)):
        save_file({**weights, name: weights[name].to(dtype)}, folder / adapter.WEIGHTS_FILE)
        model = tiny_model(shirg=SMALL)
        if sound:
            model.load_adapter(folder)
        else:
            with pytest.raises(UserError, match=f"lora_A.weight is stored as {dtype}"):
                model.load_adapter(folder)


def test_a_damaged_configuration_is_named(trained, tmp_path):
    folder = trained.save_adapter(tmp_path / "a", settings={})
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "has peft_type None"),
        ('{"peft_type": "LORA"}', "lacks r, lora_al"),
    ):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(UserError, match=f"adapter_config.json {message}"):
            trained.load_adapter(folder)


@pytest.mark.parametrize("numbers", [{"rank": 0}, {"rank": 2.0}, {"alpha": float("nan")}, {"dropout": 1.5}])
def test_numbers_of_a_fresh_adapter_are_checked(model, numbers):
    with pytest.raises(UserError, match="LoRA: .*must be"):
        adapter.attach_lora(model, **numbers)
    assert not adapter.has_adapter(model)


def test_where_relevance_comes_from_is_saved(special):
    settings = json.loads((special / "shirg_settings.json").read_text())
    assert (settings["relevance"], settings["relevance_sign"]) == ("none", -1)


def test_a_merged_checkpoint_has_the_adapters_vision_settings(trained, tmp_path):
    """Embeddings, and so all that follows, of an ordinary checkpoint without an adapter."""
    with_adapter, base = embeds(trained), trained.mm_projector[0].base_layer.weight.clone()
    trained.merge_adapter()
    assert not adapter.has_adapter(trained) and not torch.equal(trained.mm_projector[0].weight, base)
    trained.save_pretrained(tmp_path / "merged")
    read = Lavida.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(embeds(read), with_adapter, rtol=1e-5, atol=1e-5)
    assert torch.equal(embeds(read), embeds(trained))
    with pytest.raises(UserError, match="no adapter to merge"):
        trained.merge_adapter()


def test_a_merged_checkpoint_keeps_the_settings_of_its_adapter(special, tmp_path):
    model = tiny_model(shirg=SMALL)
    model.load_adapter(special)
    model.merge_adapter()
    model.save_pretrained(tmp_path / "merged")
    assert selection(Lavida.from_pretrained(tmp_path / "merged")) == TRAINED_WITH


def test_merge_on_the_command_line(trained, tmp_path, capsys):
    from shirg import cli

    trained.save_pretrained(tmp_path / "base")
    trained.save_adapter(tmp_path / "adapter", settings={})
    with pytest.raises(SystemExit) as left:
        cli.main(["merge", "--model", *map(str, (tmp_path / "base", tmp_path / "adapter", tmp_path / "merged"))])
    assert not left.value.code and "merged checkpoint" in capsys.readouterr().out
    read = Lavida.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(embeds(read).float(), embeds(trained), rtol=2e-2, atol=2e-2)
