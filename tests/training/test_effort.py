"""What a step's work is computed to be, against numbers worked by hand and the counter on real passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from shirg.lavida import costs
from shirg.lavida.shapes import published_config
from shirg.precision import Precision
from shirg.training import SHIRGLoRATrainer, effort
from shirg.training.budgets import BudgetSampler, Component
from shirg.training.memory import Step
from tests.tiny import tiny_config, tiny_model
from tests.training.helpers import fake_records, loader, small_config

NANO, LARGE = tiny_model().config, published_config("llada-8b")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
FLOAT32, BF16 = Precision("no", "float32"), Precision("bf16", "bf16")
K512, K768 = Component("shirg", 512), Component("shirg", 768)


def test_work_of_llada_8b_by_hand():
    """One record at K = 768: forward and backward of 6.6 billion weights on 897 rows, attention, head, and the vision."""
    config, step = published_config("llada-8b"), Step(batch_size=1)
    rows, weights = 769 + 64 + 64, 32 * (4 * 4096**2 + 3 * 4096 * 12288)
    attention = 32 * 4 * rows * rows * 4096
    language = 2 * 2 * rows * weights + 3 * attention + 2 * 2 * 32 * 4096 * 126464
    assert effort.micro_batch_flops(config, K768, step) == language + effort.vision_flops(config, K768)
    again = effort.micro_batch_flops(config, K768, Step(batch_size=1, checkpointing=True))
    assert again - effort.micro_batch_flops(config, K768, step) == 2 * rows * weights + attention


def test_work_of_a_run_is_the_sum_over_what_is_drawn():
    """Uniform draws give every component once per window, so whole windows cost what their steps cost one by one."""
    config, step = published_config("llada-8b"), Step(batch_size=2)
    sampler = BudgetSampler([512, 768], total_steps=30, seed=1)
    drawn = sum(effort.micro_batch_flops(config, sampler(number), step) for number in range(6, 30))
    assert effort.run_flops(config, sampler, step, range(6, 30), 4) == pytest.approx(4 * drawn, rel=1e-9)
    assert effort.run_flops(config, sampler, step, range(30, 30), 4) == 0


def test_the_probe_of_speed_draws_nothing():
    before = torch.get_rng_state()
    assert 1e8 < effort.matmul_speed(torch.device("cpu"), torch.float32) < 1e15
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("config", [tiny_config("llada", n_layers=5), tiny_config("dream")], ids=["llada", "dream"])
@pytest.mark.parametrize("read", [None, 24])
def test_a_backward_pass_as_torch_counts_it(config, read):
    """Of a frozen body and head, at full depth."""
    language = costs.modules(config).language.requires_grad_(False)
    rows = costs.meta(3, 120, config.hidden_size).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        hidden = language(rows, read_from=120 - (read or 120))
        language.logits(hidden[:, -8:]).sum().backward()
    assert counter.get_total_flops() == effort.language_flops(config, 3, 120, 24, read=read)


def test_a_forecast_follows_the_resolution_of_the_run():
    """The tower's pass grows with it; the checkpoint's own is 672."""
    config = published_config("llada-8b")
    runs = {side: replace(config, vision=replace(config.vision, resolution=side)) for side in (336, 672, 896)}
    found = {side: effort.micro_batch_flops(run, K512, Step(batch_size=1)) for side, run in runs.items()}
    assert found[336] < found[672] == effort.micro_batch_flops(config, K512, Step(batch_size=1)) < found[896]
    tokens = {side: (side // 14) ** 2 for side in (336, 672)}
    tower = {
        side: costs.flops(config, "tower", 1, side) + costs.flops(config, "projector", tokens[side]) for side in tokens
    }
    assert found[672] - found[336] == tower[672] - tower[336]
    assert effort.vision_flops(runs[896], Component("shirg", 3000)) > effort.vision_flops(runs[896], K512)


def test_the_trainer_forecasts_its_own_resolution(tmp_path, monkeypatch):
    seen, real = [], effort.vision_flops
    monkeypatch.setattr(
        effort,
        "vision_flops",
        lambda config, one: seen.append((one.name, config.vision.resolution)) or real(config, one),
    )
    model = tiny_model(shirg={"resolution": 112})  # 64 tokens
    model.vision = replace(model.vision, resolution=224)
    SHIRGLoRATrainer(small_config(tmp_path, token_budgets=[200]), model).train(loader(fake_records(2)))
    assert seen == [(200, 224)]


@pytest.mark.parametrize(
    ("config", "device", "chosen", "others", "way"),
    [
        (LARGE, CPU, FLOAT32, 1.0, "train on a GPU"),
        (NANO, CPU, BF16, 1.0, "leave --mixed-precision at auto"),
        (NANO, CPU, FLOAT32, 1.0, "other programs keep 1.0 of"),
        (NANO, CPU, FLOAT32, 0.0, "train on fewer records"),
        (LARGE, GPU, BF16, 5.0, "train on fewer records"),  # a busy CPU is not what keeps a GPU
    ],
)
def test_what_helps_where_a_run_takes_too_long(config, device, chosen, others, way, monkeypatch):
    monkeypatch.setattr(effort, "bfloat16_speedup", lambda: 0.1)
    assert effort.remedy(config, device, chosen, others).startswith(way)


def test_a_forecast_is_held_against_the_documented_speed():
    assert effort.times_as_documented(2.0, effort.CPU_SPEED, NANO) == 2.0
    assert effort.times_as_documented(10.0, effort.GPU_SPEED, LARGE) == 10.0


def test_only_packed_rows_share_an_image():
    """Eight questions of one image: packed saves most of the work, two rows each save the tower's alone."""
    steps = {name: Step(batch_size=8, objective=name) for name in ("packed", "prefix")}
    gain = {
        name: effort.micro_batch_flops(LARGE, K768, one) / effort.micro_batch_flops(LARGE, K768, one, 8)
        for name, one in steps.items()
    }
    assert gain["packed"] > 3 and 1 < gain["prefix"] < 1.2


def test_auto_counts_as_its_upper_bound_within_the_grid():
    auto, most, step = Component("shirg", "auto"), Component("shirg", 1024), Step(batch_size=2)
    assert effort.micro_batch_flops(LARGE, auto, step) == effort.micro_batch_flops(LARGE, most, step)
    small = replace(LARGE, vision=replace(LARGE.vision, resolution=140))  # 100 tokens
    assert effort.vision_flops(small, auto) == effort.vision_flops(small, Component("shirg", 100))
