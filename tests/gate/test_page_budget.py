"""The budget "auto" on drawn pages whose runs are known."""

from __future__ import annotations

import pytest
import torch

from shirg.gate import GateConfig, ShirgGate, page_budget
from shirg.gate.runs import runs_of

GRID = (1, 20, 20)


def page(*words: tuple[int, int, int, int]) -> torch.Tensor:
    """White paper [1, 1, 3, 280, 280] with words (row, first column, length, pitch of their dots), print the denser the lower the
    pitch."""
    pixels = torch.ones(1, 1, 3, 280, 280)
    for row, column, length, pitch in words:
        pixels[..., row * 14 + 2 : row * 14 + 12 : pitch, column * 14 + 2 : (column + length) * 14 - 2 : pitch] = -1
    return pixels


def patches(pixels: torch.Tensor) -> int:
    """Patches in runs, neighbours that print is spread to included."""
    return int((runs_of(pixels, GRID)[1] > 0).sum())


def test_tokens_in_runs_times_the_room_in_steps_of_32():
    pixels = page(*((row, 1, 12, 2) for row in range(1, 18, 4)))
    printed = patches(pixels)
    assert printed % 32 and 64 < 2 * printed < 320  # else the test shows nothing
    assert page_budget(pixels, GRID, room=2.0) == -(-2 * printed // 32) * 32


@pytest.mark.parametrize("pixels", [page(), torch.linspace(-1, 1, 280).expand(1, 1, 3, 280, 280)])
def test_an_image_without_print_takes_the_least(pixels):
    assert page_budget(pixels, GRID) == 64 and page_budget(pixels, GRID, least=96) == 96


def test_never_more_than_the_most_or_than_there_is():
    pixels = page(*((row, 1, 12, 2) for row in range(1, 18, 4)))
    assert page_budget(pixels, GRID, room=100.0) == 400
    assert page_budget(pixels, GRID, room=100.0, most=200) == 200


def test_more_print_or_room_never_takes_fewer():
    words = [(1, 1, 5, 2), (4, 2, 9, 3), (8, 1, 3, 2), (8, 8, 7, 4), (13, 1, 17, 3)]
    budgets = [page_budget(page(*words), GRID, room / 2, least=1) for room in range(1, 9)]
    assert budgets == sorted(budgets) and len(set(budgets)) > 1


def test_the_gate_keeps_every_run_of_a_page():
    pixels = page((1, 1, 5, 2), (4, 2, 9, 3), (13, 1, 17, 3))
    _, runs = runs_of(pixels, GRID)
    tokens = torch.randn(1, 400, 8, generator=torch.Generator().manual_seed(0))
    kept = ShirgGate(GateConfig(coverage=False))(tokens, page_budget(pixels, GRID, 1.0), GRID, pixels=pixels)
    assert set((runs[0] > 0).nonzero().flatten().tolist()) <= set(kept.indices[0].tolist())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"room": 0.0}, "room must be a number above 0"),
        ({"room": float("nan")}, "room must be a number above 0"),
        ({"least": 0}, "least and most"),
        ({"least": 9, "most": 8}, "least and most"),
    ],
)
def test_invalid_values_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        page_budget(page(), GRID, **wrong)
    with pytest.raises(ValueError, match="of one image"):
        page_budget(page().expand(2, -1, -1, -1, -1), GRID)
