"""The settings of a run: defaults that were promised, and mistakes named."""

from __future__ import annotations

import math

import pytest

from shirg.errors import UserError
from shirg.training import SHIRGLoRAConfig


def test_defaults_are_the_promised_ones():
    config = SHIRGLoRAConfig()
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout) == (16, 32, 0.05)
    assert config.target_modules == ["mm_projector.0", "mm_projector.2"]
    assert config.token_budgets == [512, 768, 1024] and config.include_pooled
    assert (config.ratio_sampling, config.num_epochs, config.learning_rate) == ("uniform", 3, 1e-4)
    assert config.objective == "packed"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora_rank", 0),
        ("lora_dropout", 1.0),
        ("num_epochs", 1.5),
        ("learning_rate", math.nan),
        ("mixed_precision", "fp8"),
        ("objective", "causal"),
        ("target_modules", []),
        ("save_total_limit", 0),
        ("save_steps", None),
        ("batch_size", "4"),
        ("validation_steps", 2.5),
        ("ratio_sampling", "random"),
        ("token_budgets", [0]),
    ],
)
def test_wrong_settings_are_named_with_their_value(name, value):
    with pytest.raises(UserError, match=name):
        SHIRGLoRAConfig(**{name: value})
