"""Our Muon is torch's, but for the precision of its products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shirg.nano.recipe.muon import Muon, orthogonal, shared_out


def trained(make) -> list[torch.Tensor]:
    """Three steps of a small network's matrices."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(24, 40, bias=False), nn.Tanh(), nn.Linear(40, 24, bias=False))
    optimizer, inputs = make(layers.parameters()), torch.randn(16, 24)
    for _ in range(3):
        layers.zero_grad()
        (layers(inputs) - inputs).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in layers.parameters()]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.0), (torch.float32, 5e-3)])
def test_steps_are_those_of_torch(dtype, tolerance):
    """To the bit where products are in bfloat16, as torch's always are; in float32 within what they round, a tenth of a step."""
    settings = {"lr": 0.02, "weight_decay": 0.01, "momentum": 0.95}
    ours = trained(lambda params: Muon(params, dtype=dtype, **settings))
    theirs = trained(lambda params: torch.optim.Muon(params, **settings))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (20, 20)])
def test_singular_values_come_near_one(shape):
    found = orthogonal(torch.randn(*shape, generator=torch.Generator().manual_seed(1)), torch.float32)
    values = torch.linalg.svdvals(found)
    assert found.shape == shape and values.min() > 0.3 and values.max() < 1.6


def test_a_matrix_without_a_gradient_stays():
    still = nn.Parameter(torch.ones(2, 3))
    Muon([still], lr=1.0).step()
    assert torch.equal(still, torch.ones(2, 3))


def test_work_is_shared_out_by_cost():
    """Costs 6000, 6000, 3000 and 24: the two large ones go to different processes, the third to the first again."""
    shapes = [torch.Size(shape) for shape in ((2, 2), (10, 10), (10, 25), (25, 10))]
    assert shared_out(shapes, 2) == [[2, 1], [3, 0]]
    assert shared_out(shapes[:1], 3) == [[0], [], []]
