"""A body in 8 or 4 bits; what runs it is bitsandbytes, which the rest of the tests can do without."""

from __future__ import annotations

import pytest
import torch

from shirg.errors import UserError
from shirg.lavida import adapter
from shirg.training.body import check_body_bits, quantize_body
from shirg.training.budgets import Component
from shirg.training.loss_model import Example, LossModel, draw_mask
from tests.tiny import tiny_model, tiny_page
from tests.training.helpers import RESOLUTION, small_config, small_trainer


def test_what_cannot_be_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match="body_bits: got 5, must be one of 16, 8, 4"):
        small_config(tmp_path, body_bits=5)
    with pytest.raises(UserError, match="body_bits: 4 needs a CUDA GPU, but the model is on cpu; take 16"):
        small_trainer(tmp_path, body_bits=4)
    check_body_bits(16, torch.device("cpu"))


def test_a_missing_library_is_said(monkeypatch):
    monkeypatch.setattr("shirg.training.body.find_spec", lambda _name: None)
    with pytest.raises(UserError, match="body_bits: 8 needs bitsandbytes; `pip install bitsandbytes`"):
        check_body_bits(8, torch.device("cuda"))


@pytest.mark.parametrize(("bits", "close", "alike"), [(8, 0.05, 0.97), (4, 0.5, 0.6)])
def test_gradients_of_the_adapter_come_through(bits, close, alike):
    """bitsandbytes computes on a CPU too, slowly: losses and gradients stay near those of the whole body."""
    pytest.importorskip("bitsandbytes")
    found = {}
    for name in ("whole", "quantized"):
        model = tiny_model(shirg={"resolution": RESOLUTION}, d_model=64, mlp_hidden_size=128).to(torch.bfloat16)
        adapter.attach_lora(model, rank=2, seed=3)
        if name == "quantized":
            quantize_body(model, bits)
            kinds = {type(module).__name__ for module in model.language.layers.modules()}
            assert {8: "Linear8bitLt", 4: "Linear4bit"}[bits] in kinds and "Linear" not in kinds
        found[name] = gradients(model)
    loss, gradient = zip(*found.values(), strict=True)
    assert loss[1] == pytest.approx(loss[0], rel=close)
    assert alike < torch.cosine_similarity(*gradient, dim=0) < 1


def gradients(model) -> tuple[float, torch.Tensor]:
    """Loss of one made-up record, and the gradient of LoRA's B matrices in one row."""
    prompt = model.prompt_ids("Total?")
    example = Example(
        record_id="r",
        image_id="p",
        features=model.image_features(tiny_page(), "shirg"),
        prompt=prompt,
        question=model.question_ids(prompt),
        target=torch.arange(60, 66),
        answer=6,
        masked=draw_mask(6, 0, 1),
    )
    losses, _ = LossModel(model, "packed")([example], Component("shirg", 16))
    losses.mean().backward()
    grads = [value.grad.flatten() for name, value in adapter.lora_parameters(model).items() if "lora_B" in name]
    return losses.mean().item(), torch.cat(grads)
