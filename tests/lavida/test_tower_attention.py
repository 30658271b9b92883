"""The last layer's attention and keys, against transformers' own attention when it is asked for its weights."""

from __future__ import annotations

import pytest
import torch

from shirg.gate import GateConfig, ShirgGate
from shirg.lavida import tower as module
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def tower() -> module.SigLipVisionTower:
    return tiny_model().tower.eval().requires_grad_(False)


def test_the_input_is_handed_out_without_changing_the_output(tower):
    images = torch.randn(2, 3, 84, 84)
    tokens, last_input = tower.forward_with_input(images)
    assert torch.equal(tokens, tower(images))
    assert torch.equal(tokens, tower.vision_model.encoder.layers[-1](last_input, None))


@pytest.mark.parametrize("chunk", [1, 2000, 2**21])  # one query at a time, a number that divides nothing, all at once
def test_attention_and_keys_equal_those_of_the_layer(tower, monkeypatch, chunk):
    monkeypatch.setattr(module, "ATTENTION_CHUNK", chunk)
    _, last_input = tower.forward_with_input(torch.randn(3, 3, 84, 70))
    attention, keys = tower.attention_and_keys(3 * last_input).values()
    layer = tower.vision_model.encoder.layers[-1]
    normed = layer.layer_norm1(3 * last_input)
    monkeypatch.setattr(layer.self_attn.config, "_attn_implementation", "eager")
    weights = layer.self_attn(normed)[1]  # [V, heads, queries, N]
    torch.testing.assert_close(attention, weights.mean(dim=(1, 2)))
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(3))
    assert torch.equal(keys, layer.self_attn.k_proj(normed))


def test_half_precision_sums_in_float32(tower):
    _, last_input = tower.forward_with_input(torch.randn(1, 3, 84, 84))
    wanted = tower.attention_and_keys(last_input)["attention"]
    half = tiny_model().tower.eval().to(torch.bfloat16)
    half.load_state_dict(tower.state_dict())
    attention, keys = half.attention_and_keys(last_input.bfloat16()).values()
    assert attention.dtype == torch.float32 and keys.dtype == torch.bfloat16
    torch.testing.assert_close(attention, wanted, rtol=0.05, atol=0)


def test_several_views_go_into_one_gate(tower):
    tokens, last_input = tower.forward_with_input(torch.randn(5, 3, 56, 56))
    for name in ("visionzip", "tome", "vispruner", "shirg"):
        gate = ShirgGate(GateConfig(selector=name))
        made = tower.attention_and_keys(last_input, gate.needs)
        assert tuple(made) == gate.needs
        flat = {need: value.flatten(0, 1)[None] for need, value in made.items()}
        kept = gate(tokens.flatten(0, 1)[None], 20, (5, 4, 4), **flat)
        assert kept.tokens.shape == (1, 21, 16) and kept.assignment.shape == (1, 80)
