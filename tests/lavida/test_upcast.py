"""bfloat16 weights that are multiplied in float32."""

from __future__ import annotations

import pytest
import torch

from shirg.lavida import upcast
from shirg.lavida.upcast import UpcastLinear, compute_in_float32, upcast_if_faster
from shirg.precision import Precision
from tests.tiny import tiny_model, tiny_page

SLOW, FAST = Precision("no", "float32: slow"), Precision("bf16", "bfloat16: fast")


def rounded(family: str):
    return tiny_model(family).to(torch.bfloat16)


def test_a_layer_multiplies_float32_copies():
    linear = torch.nn.Linear(3, 2).to(torch.bfloat16)
    layer, values = UpcastLinear.of(linear), torch.randn(4, 3)
    assert layer.weight is linear.weight
    assert torch.equal(layer(values), values @ linear.weight.float().T + linear.bias.float())


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("keep_storage", [True, False])
def test_answers_are_those_of_the_same_weights_in_float32(family, keep_storage):
    """To the bit: every product is made of the same float32 numbers."""
    model, plain = rounded(family), rounded(family).float()
    compute_in_float32(model, keep_storage=keep_storage)
    ids, page = model.prompt_ids("Total?")[None], tiny_page()
    found, wanted = (one.generate(ids, [page], "shirg", 20, max_new_tokens=4, block_length=4) for one in (model, plain))
    assert torch.equal(found, wanted)
    with torch.no_grad():
        embeds = [one.splice(ids[0], one.encode_images([page], "lowres"))[None] for one in (model, plain)]
        assert torch.equal(model.language(embeds[0]), plain.language(embeds[1]))


def test_only_the_language_models_matrices_stay_as_stored():
    model = rounded("llada")
    compute_in_float32(model, keep_storage=True)
    stored = {name for name, value in model.named_parameters() if value.dtype is torch.bfloat16}
    assert stored == {
        name for name, value in model.named_parameters() if name.startswith("language") and value.ndim == 2
    } - {"language.embed_tokens.weight"}
    assert model.dtype is torch.float32


@pytest.mark.parametrize(
    ("precision", "free", "dtype", "stored"),
    [(SLOW, 0, torch.float32, True), (SLOW, 10**12, torch.float32, False), (FAST, 0, torch.bfloat16, True)],
)
def test_the_processor_and_its_memory_decide(precision, free, dtype, stored, monkeypatch):
    monkeypatch.setattr(upcast, "choose_precision", lambda *_: precision)
    monkeypatch.setattr(upcast, "free_memory", lambda: free)
    model = rounded("llada")
    upcast_if_faster(model)
    assert model.dtype is dtype
    assert (model.language.lm_head.weight.dtype is torch.bfloat16) == stored


def test_a_float32_model_is_left_alone():
    model = tiny_model()
    before = {name: value.data_ptr() for name, value in model.named_parameters()}
    upcast_if_faster(model)
    assert before == {name: value.data_ptr() for name, value in model.named_parameters()}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 100),
        ({"memory.max": "max\n", "memory.current": "7\n"}, 100),
        ({"memory.max": "90\n", "memory.current": "30\n"}, 60),
    ],
)
def test_a_container_may_have_less_than_its_machine(files, free, tmp_path, monkeypatch):
    monkeypatch.setattr(upcast.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100}))
    monkeypatch.setattr(upcast, "CONTAINER", tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert upcast.free_memory() == free
