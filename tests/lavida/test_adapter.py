"""The adapter: what it wraps, what it writes, and what it refuses."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from peft import IA3Config
from torch import nn

from shirg import GateConfig, ShirgGate
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
    adapter.save_adapter(trained, tmp_path / "a", settings={"token_budgets": [16], "base_model": "tiny"})
    fresh = tiny_model(shirg=SMALL)
    fresh.load_adapter(tmp_path / "a")
    assert torch.equal(embeds(fresh), expected)
    fresh.load_adapter(tmp_path / "a")  # in place of the first, not on top
    assert torch.equal(embeds(fresh), expected)
    fresh.unload_adapter()
    assert torch.equal(embeds(fresh), bare)
    assert not adapter.has_adapter(fresh)
    adapter.attach_lora(fresh)


def test_peft_itself_loads_the_folder(trained, tmp_path):
    from peft import PeftModel

    adapter.save_adapter(trained, tmp_path / "a", settings={})
    wrapped = PeftModel.from_pretrained(tiny_model(shirg=SMALL), str(tmp_path / "a"))
    assert torch.equal(embeds(wrapped.base_model.model.eval()), embeds(trained))


def test_folder_says_what_it_is(trained, tmp_path):
    adapter.save_adapter(trained, tmp_path / "a", settings={"token_budgets": [16], "base_model": "tiny"})
    settings = json.loads((tmp_path / "a" / "shirg_settings.json").read_text())
    assert settings["base_fingerprint"] == adapter.base_fingerprint(trained)
    assert settings["gate"]["alpha"] == 0.0 and settings["resolution"] == 112
    card = (tmp_path / "a" / "README.md").read_text()
    assert "base_model: tiny" in card and "rank 4" in card and "[16]" in card


def test_fingerprint_ignores_adapter_and_precision_but_not_the_base(model):
    expected = adapter.base_fingerprint(model)
    stored = model.mm_projector.bfloat16().float()  # as a bfloat16 checkpoint would load
    assert adapter.base_fingerprint(model) == expected
    for precision in (torch.bfloat16, torch.float16):
        stored.to(precision)
        assert adapter.base_fingerprint(model) == expected
        stored.float()
    adapter.attach_lora(model)
    assert adapter.base_fingerprint(model) == expected
    assert adapter.base_fingerprint(tiny_model(seed=1)) != expected


def test_adapter_for_another_base_is_refused_and_leaves_the_model_alone(trained, tmp_path):
    adapter.save_adapter(trained, tmp_path / "a", settings={"base_model": "tiny"})
    other = tiny_model(seed=1, shirg=SMALL)
    before = embeds(other)
    with pytest.raises(UserError, match="trained on tiny"):
        other.load_adapter(tmp_path / "a")
    assert torch.equal(embeds(other), before) and not adapter.has_adapter(other)


def test_missing_keys_missing_files_and_damage_are_errors(trained, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = adapter.save_adapter(trained, tmp_path / "a", settings={})
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
    adapter.save_adapter(trained, folder, settings={})
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
    adapter.save_adapter(trained, tmp_path / "a", settings={})
    trained.unload_adapter()
    with pytest.raises(UserError, match="no adapter"):
        adapter.save_adapter(trained, tmp_path / "a", settings={})
    assert (tmp_path / "a" / "adapter_config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_not_there_or_empty_is_told_apart(model, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder; give a `best_model`"):
        model.load_adapter(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no adapter_config.json, adapter_model.safetensors"):
        model.load_adapter(tmp_path)


def test_another_kind_of_adapter_is_refused_and_the_model_left_as_it_is(trained, tmp_path):
    adapter.save_adapter(trained, tmp_path / "a", settings={})
    weights = {name: value.clone() for name, value in adapter.lora_parameters(trained).items()}
    IA3Config(target_modules=list(adapter.TARGETS), feedforward_modules=[]).save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match="IA3Config; only LoRA"):
        trained.load_adapter(tmp_path / "a")
    assert weights and all(
        torch.equal(adapter.lora_parameters(trained)[name], value) for name, value in weights.items()
    )


def test_the_adapters_gate_replaces_a_default_one_only(trained, tmp_path, caplog):
    trained.gate = ShirgGate(GateConfig(beta=0.5))
    adapter.save_adapter(trained, tmp_path / "a", settings={})
    fresh = tiny_model(shirg=SMALL)
    fresh.load_adapter(tmp_path / "a")
    assert fresh.gate.config.beta == 0.5
    chosen = tiny_model(shirg=SMALL)
    chosen.gate = ShirgGate(GateConfig(selector="random"))
    with caplog.at_level(logging.WARNING):
        chosen.load_adapter(tmp_path / "a")
    assert chosen.gate.config.selector == "random"
    assert "trained with gate" in caplog.text


def selection(model) -> tuple:
    config = model.config
    return model.gate.config.alpha, config.relevance, config.relevance_sign, model.resolution, model.fit


@pytest.fixture
def special(tmp_path):
    """An adapter trained with a selection of its own."""
    trained = tiny_model(shirg={"resolution": 168, "relevance": "none", "relevance_sign": -1}, image_aspect_ratio="pad")
    trained.gate = ShirgGate(GateConfig(alpha=0.5))
    adapter.attach_lora(trained, rank=4)
    return adapter.save_adapter(trained, tmp_path / "special", settings={})


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
        model.load_adapter(adapter.save_adapter(plain, tmp_path / "plain", settings={}))
        assert selection(model) == PLAIN
        model.load_adapter(special)
        model.unload_adapter()
        assert selection(model) == PLAIN
    assert not caplog.text


def test_what_someone_set_stays_and_is_told(special, caplog):
    model = tiny_model(shirg=SMALL)
    model.config.relevance, model.resolution = "siglip", 224
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
    with pytest.raises(UserError, match="special: its settings are not ones this version knows"):
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


def test_where_relevance_comes_from_is_saved(special):
    settings = json.loads((special / "shirg_settings.json").read_text())
    assert (settings["relevance"], settings["relevance_sign"]) == ("none", -1)


def test_a_merged_checkpoint_sees_what_the_adapter_saw(trained, tmp_path):
    """Embeddings, and with them everything behind them, through an ordinary checkpoint that knows no adapter."""
    with_adapter, base = embeds(trained), trained.mm_projector[0].base_layer.weight.clone()
    adapter.merge_adapter(trained)
    assert not adapter.has_adapter(trained) and not torch.equal(trained.mm_projector[0].weight, base)
    trained.save_pretrained(tmp_path / "merged")
    read = Lavida.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(embeds(read), with_adapter, rtol=1e-5, atol=1e-5)
    assert torch.equal(embeds(read), embeds(trained))
    with pytest.raises(UserError, match="no adapter to merge"):
        adapter.merge_adapter(trained)


def test_merging_says_what_a_checkpoint_cannot_hold(trained, caplog):
    trained.gate = ShirgGate(GateConfig(alpha=0.5))
    adapter.merge_adapter(trained)
    assert "does not hold the gate's settings" in caplog.text and "alpha=0.5" in caplog.text


def test_merge_on_the_command_line(trained, tmp_path, capsys):
    from shirg import cli

    trained.save_pretrained(tmp_path / "base")
    adapter.save_adapter(trained, tmp_path / "adapter", settings={})
    with pytest.raises(SystemExit) as left:
        cli.main(["merge", "--model", *map(str, (tmp_path / "base", tmp_path / "adapter", tmp_path / "merged"))])
    assert not left.value.code and "merged checkpoint" in capsys.readouterr().out
    read = Lavida.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(embeds(read).float(), embeds(trained), rtol=2e-2, atol=2e-2)
