"""Copies of a neighbour, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from shirg.gate import GateConfig, ShirgGate, page_budget
from shirg.gate.distinct import NEAR, distinct_patches

GRID = (1, 3, 4)


def page() -> torch.Tensor:
    """[1, 1, 3, 42, 56] of paper."""
    return torch.ones(1, 1, 3, 42, 56)


def distinct(pixels: torch.Tensor, grid: tuple[int, int, int] = GRID) -> list[int]:
    return distinct_patches(pixels, grid)[0].nonzero().flatten().tolist()


def test_a_page_of_one_colour_is_its_first_patch():
    assert distinct(page()) == [0]
    assert distinct(torch.ones(1, 2, 3, 42, 56), (2, 3, 4)) == [0, 12]  # one in each view


def test_a_mark_and_what_follows_it_are_distinct():
    pixels = page()
    pixels[..., 14 + 5, 14 + 5] = -1  # row 1, column 1: patch 5
    # Patch 6 has paper above it, so it is a copy; 5 differs from 4 and from 1.
    assert distinct(pixels) == [0, 5]
    pixels[..., 5, 28 + 5] = -1  # patch 2; then 3 and 6, paper, have a mark to the left and none like them above
    assert distinct(pixels) == [0, 2, 3, 5, 6]


def test_one_channel_and_more_than_the_tolerance_count():
    pixels = page()
    pixels[:, :, 2, 20, 20] -= 0.9 * NEAR
    assert distinct(pixels) == [0]
    pixels[:, :, 2, 20, 20] -= 0.2 * NEAR
    assert distinct(pixels) == [0, 5]


def test_a_ruled_line_is_a_copy_of_itself_and_pixels_beyond_the_grid_are_ignored():
    pixels = torch.ones(1, 1, 3, 48, 60)
    pixels[..., 20, :56] = -1  # row 1 of the grid
    assert distinct(pixels) == [0, 4, 8]
    pixels[..., 42:, :] = torch.rand(6, 60)
    pixels[..., 56:] = torch.rand(48, 4)
    assert distinct(pixels) == [0, 4, 8]


@pytest.mark.parametrize("budget", [2, 3, 5, 6, 12])
def test_distinct_patches_are_kept_first(budget):
    pixels = page()
    pixels[..., 14 + 5, 14 + 5] = pixels[..., 5, 28 + 5] = -1
    gate = ShirgGate(GateConfig(selector="distinct"))
    kept = gate(torch.randn(1, 12, 5), budget, GRID, pixels=pixels).indices[0].tolist()
    found = {0, 2, 3, 5, 6}
    assert len(kept) == budget and (set(kept) <= found if budget <= 5 else found <= set(kept))


def test_without_pixels_it_is_shirg():
    tokens = torch.randn(1, 12, 5)
    ours, shirg = (ShirgGate(GateConfig(selector=name))(tokens, 5, GRID) for name in ("distinct", "shirg"))
    assert torch.equal(ours.tokens, shirg.tokens)


def test_the_budget_auto_is_their_number():
    pixels = page()
    assert page_budget(pixels, GRID, least=1, selector="distinct") == 12  # a step of 32, and what there is
    large = torch.ones(1, 1, 3, 280, 280)
    large[..., :140, :] = torch.rand(140, 280)  # 200 patches of noise, and the first one of paper
    assert distinct(large, (1, 20, 20)) == list(range(201))
    assert page_budget(large, (1, 20, 20), selector="distinct") == 224
    assert page_budget(large, (1, 20, 20), most=100, selector="distinct") == 100
    assert page_budget(torch.ones(1, 1, 3, 280, 280), (1, 20, 20), selector="distinct") == 64
