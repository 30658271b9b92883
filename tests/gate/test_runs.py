"""Runs of printed patches: worked by hand, against a loop, and what the preset of that name keeps of a page."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shirg.gate import SELECTORS, GateConfig, Request, ShirgGate
from shirg.gate.runs import number_runs, run_means, run_peaks

RUNS = GateConfig.preset("runs")
GRID = (16, 16)


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row]).unsqueeze(0)


def test_runs_are_counted_in_raster_order_and_end_with_their_row_and_view():
    printed = tensor([1, 1, 0, 1], [1, 0, 0, 1], [1, 0, 1, 1], [0, 0, 0, 0]).bool()
    wanted = tensor([1, 1, 0, 2], [3, 0, 0, 4], [5, 0, 6, 6], [0, 0, 0, 0])
    assert torch.equal(number_runs(printed, (2, 2, 4)), wanted)
    assert number_runs(printed, (1, 1, 16)).tolist() == [[1, 1, 0, 2, 2, 0, 0, 3, 3, 0, 4, 4, 0, 0, 0, 0]]


def test_a_run_takes_its_mean_and_its_peak_and_the_others_keep_their_own():
    runs = tensor([1, 1, 1, 0], [0, 2, 0, 3])
    values = tensor([0.2, 0.1, 0.6, 0.05], [0.0, 0.4, 0.07, 0.9])
    torch.testing.assert_close(run_means(values, runs, (1, 2, 4)), tensor([0.3, 0.3, 0.3, 0.05], [0.0, 0.4, 0.07, 0.9]))
    assert torch.equal(run_peaks(values, runs, (1, 2, 4)), tensor([0.6, 0.6, 0.6, 0.05], [0.0, 0.4, 0.07, 0.9]))


@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 5), st.integers(1, 9), st.integers(0, 10**6))
def test_means_and_peaks_are_those_of_a_loop(batch, views, rows, cols, seed):
    draws = torch.Generator().manual_seed(seed)
    values = torch.rand(batch, views * rows * cols, generator=draws)
    printed = torch.rand(values.shape, generator=draws) < 0.6
    runs = number_runs(printed, (views, rows, cols))
    means, peaks = values.clone(), values.clone()
    for image in range(batch):
        for start in range(0, values.shape[1], cols):
            first = start
            for place in range(start, start + cols + 1):
                if place == start + cols or not printed[image, place]:
                    if place > first:
                        means[image, first:place] = values[image, first:place].mean()
                        peaks[image, first:place] = values[image, first:place].max()
                    first = place + 1
    torch.testing.assert_close(run_means(values, runs, (views, rows, cols)), means)
    assert torch.equal(run_peaks(values, runs, (views, rows, cols)), peaks)


def page(words: dict[tuple[int, int], int], grid: tuple[int, int] = GRID) -> torch.Tensor:
    """White pixels [1, 3, H, W] with dots every so many pixels in the middle of some patches: (row, column) -> pitch."""
    pixels = torch.ones(1, 3, grid[0] * 14, grid[1] * 14)
    for (row, col), pitch in words.items():
        pixels[:, :, row * 14 + 2 : row * 14 + 12 : pitch, col * 14 + 2 : col * 14 + 12 : pitch] = -1
    return pixels


def kept(config: GateConfig, budget: int, pixels: torch.Tensor, grid=GRID, **given_) -> set[tuple[int, int]]:
    tokens = torch.randn(1, grid[0] * grid[1], 8, generator=torch.Generator().manual_seed(0))
    places = ShirgGate(config)(tokens, budget, grid, pixels=pixels, **given_).indices[0]
    return {(int(place) // grid[1], int(place) % grid[1]) for place in places}


def test_a_word_is_kept_whole_though_its_middle_is_weaker_than_a_lone_patch():
    # Dots at a pitch of 2 are denser than at 3, these denser than at 4. The word's mean is above the lone patch's own.
    word = {(2, 2): 2, (2, 3): 4, (2, 4): 2}
    pixels = page(word | {(9, 9): 3})
    config = dataclasses.replace(RUNS, edge_spread=0.0, coverage=False)
    assert kept(config, 3, pixels) == set(word)
    assert kept(dataclasses.replace(config, edge="print"), 3, pixels) == {(2, 2), (2, 4), (9, 9)}


def test_every_cell_with_a_run_keeps_a_token_and_blank_cells_keep_none():
    # Four cells of 8 x 8: strong print in the first, weak print in the last, nothing in the others.
    strong = {(row, col): 2 for row in range(8) for col in range(8)}
    pixels = page(strong | {(12, 12): 4})
    config = dataclasses.replace(RUNS, edge_spread=0.0)
    chosen = kept(config, 6, pixels)
    assert (12, 12) in chosen and len(chosen & set(strong)) == 5
    assert (12, 12) not in kept(dataclasses.replace(config, coverage=False), 6, pixels)


def test_an_image_without_print_is_covered_everywhere():
    """A ramp from left to right has no steps downwards, so that no patch holds print."""
    ramp = torch.linspace(-1, 1, GRID[1] * 14).expand(1, 1, 3, GRID[0] * 14, -1)
    cells = {(row // 8, col // 8) for row, col in kept(RUNS, 6, ramp)}
    assert cells == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_question_raises_the_run_of_the_token_that_it_names():
    strong = {(row, col): 2 for row in range(6) for col in range(6)}
    label = {(10, 3): 4, (10, 4): 4, (10, 5): 4}
    pixels, relevance = page(strong | label | {(10, 9): 4}), torch.zeros(1, 256)
    relevance[0, 10 * 16 + 4] = 1.0
    config = dataclasses.replace(RUNS, edge_spread=0.0, coverage=False, relevance_spread=0.0)
    assert kept(config, 3, pixels, relevance=relevance) == set(label)
    assert kept(config, 3, pixels) < set(strong)
    # Its row is lent a share of the relevance: what is printed there comes before what is not.
    assert (10, 9) in kept(dataclasses.replace(config, relevance_spread=1.0), 4, pixels, relevance=relevance)


def test_images_of_a_batch_do_not_touch_each_other():
    # The gate takes the images of a batch one by one on a CPU, a GPU takes them at once: the rule itself is asked.
    grid = (2, 5, 7)
    tokens = torch.randn(3, 70, 8, generator=torch.Generator().manual_seed(1))
    pixels = torch.rand(3, 2, 3, 70, 98, generator=torch.Generator().manual_seed(2))
    relevance = torch.rand(3, 70, generator=torch.Generator().manual_seed(3))
    select = SELECTORS["shirg"].select

    def chosen(images: slice) -> torch.Tensor:
        request = Request(tokens[images], 20, grid, None, pixels[images], relevance[images], RUNS)
        return select(request).indices

    assert torch.equal(chosen(slice(None)), torch.cat([chosen(slice(i, i + 1)) for i in range(3)]))


@pytest.mark.parametrize("grid", [(1, 1, 1), (1, 1, 9), (1, 9, 1), (3, 4, 5), (1, 27, 27)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_grid_and_precision_has_its_budget(grid, dtype):
    views, rows, cols = grid
    count = views * rows * cols
    tokens = torch.randn(2, count, 8).to(dtype)
    pixels = torch.rand(2, views, 3, rows * 14, cols * 14).to(dtype)
    for blank in (False, True):
        pixels = torch.zeros_like(pixels) if blank else pixels
        chosen = ShirgGate(RUNS)(tokens, max(count // 3, 1), grid, pixels=pixels)
        assert chosen.tokens.dtype == dtype and bool(torch.isfinite(chosen.scores).all())
        assert all(row.unique().numel() == max(count // 3, 1) for row in chosen.indices)


def test_compiles_into_one_graph():
    tokens, pixels = torch.randn(1, 96, 8), torch.rand(1, 3, 8 * 14, 12 * 14)
    relevance, gate = torch.rand(1, 96), ShirgGate(RUNS)
    torch.compiler.reset()
    compiled = torch.compile(gate, fullgraph=True, backend="eager")
    ours, theirs = (one(tokens, 30, (8, 12), pixels=pixels, relevance=relevance) for one in (compiled, gate))
    assert torch.equal(ours.indices, theirs.indices) and torch.equal(ours.tokens, theirs.tokens)


def test_without_pixels_the_token_map_decides_and_every_cell_is_covered():
    tokens = torch.randn(1, 256, 8)
    chosen = ShirgGate(RUNS)(tokens, 20, GRID)
    assert chosen.clusters[0].gather(0, chosen.indices[0]).unique().tolist() == [0, 1, 2, 3]
