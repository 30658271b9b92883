"""The gate as its users call it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.gate import GateConfig, ShirgGate, plan_quadtree
from tests.tiny import formula


def picture(batch=1, grid=(24, 24), width=16, words=5, seed=0):
    """Tokens, text and pixels of made-up images."""
    generator = torch.Generator().manual_seed(seed)
    views = grid[:-2]
    tokens = torch.randn(batch, math.prod(grid), width, generator=generator) + 0.5
    tokens *= 1 + torch.rand(batch, math.prod(grid), 1, generator=generator)
    text = torch.randn(batch, words, width, generator=generator)
    pixels = torch.randn(batch, *views, 3, grid[-2] * 14, grid[-1] * 14, generator=generator)
    return tokens, text, pixels


# --- worked by hand ---------------------------------------------------------------------------------------------------

# s^2 is the variance of the two-channel token (s, -s); 2 x 2 clusters
SPREAD = torch.tensor([[0, 0, 2, 3], [1, 1, 2, 2], [4, 5, 2, 3], [10, 4, 2, 3]]).float().flatten()
HAND = torch.stack([SPREAD, -SPREAD], dim=-1)[None]


def test_four_by_four_by_hand():
    gate = ShirgGate(formula(beta=0, max_cell=2))
    kept = gate(HAND, 6, (4, 4))
    # A budget of 6 wants 1 cluster; the roots are 4, one per quadrant.
    assert kept.clusters.view(4, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    # Variances 0 0 1 1 4 4 4 4 4 9 9 9 16 16 25 100: median 4 (the 8th), deviations 0 x5, 3 3 4 4 5 5 5 12 12 21 96: MAD 4,
    # scale 1.4826 * 4 = 5.9304. Above the median, score = z^2 / (36 + z^2) = (v - 4)^2 / (36 * 5.9304^2 + (v - 4)^2).
    deviation = (SPREAD**2 - 4).clamp_min(0)
    torch.testing.assert_close(kept.scores[0], deviation**2 / (1266.1072 + deviation**2), rtol=1e-4, atol=1e-6)
    # Tops: quadrant 0 has no score at all, so its first token, 0; then 3 (9), 12 (100), and 11 (9, before its equal 15).
    # Two more by rank: 9 (25), and 8 (16, before its equal 13).
    assert kept.indices.tolist() == [[0, 3, 8, 9, 11, 12]]
    assert torch.equal(kept.tokens[0, :6], HAND[0, [0, 3, 8, 9, 11, 12]])
    # Dropped 1 2 4 5 6 7 10 13 14 15: their s are 0 2 1 1 2 2 2 4 2 3, 19 in all.
    torch.testing.assert_close(kept.tokens[0, 6], torch.tensor([1.9, -1.9]))


def test_four_by_four_without_coverage():
    # The six highest variances: 12 (100), 9 (25), 8 and 13 (16), then 3 and 11, the first two of three nines.
    kept = ShirgGate(formula(beta=0, max_cell=2, coverage=False))(HAND, 6, (4, 4))
    assert kept.indices.tolist() == [[3, 8, 9, 11, 12, 13]]


def test_weights_renormalise_when_there_is_no_text():
    tokens, _, pixels = picture()
    relevance = torch.zeros(1, 576)
    gate = ShirgGate(formula(alpha=0.25, beta=0.15))
    without, nothing = gate(tokens, 64, (24, 24), pixels=pixels), gate(tokens, 64, (24, 24), None, pixels, relevance)
    # Same terms over weights that sum to 0.40 and to 1.15; and the same choice
    torch.testing.assert_close(without.scores * 0.40, nothing.scores * 1.15)
    assert torch.equal(without.indices, nothing.indices)


# --- budget, order, coverage, summary ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    views=st.integers(0, 3),
    side=st.tuples(st.integers(1, 23), st.integers(1, 23)),
    fraction=st.floats(0, 1.2),
    with_text=st.booleans(),
    with_pixels=st.booleans(),
)
def test_any_grid_and_budget(views, side, fraction, with_text, with_pixels):
    grid = (views, *side) if views else side
    count = math.prod(grid)
    budget = max(1, round(fraction * count))
    tokens, text, pixels = picture(2, grid, width=4)
    kept = ShirgGate(formula())(tokens, budget, grid, text if with_text else None, pixels if with_pixels else None)
    size = min(budget, count)
    assert kept.indices.shape == (2, size) and kept.indices.dtype == torch.long
    assert kept.tokens.shape == (2, size + 1, 4)
    assert kept.scores.shape == kept.clusters.shape == (2, count) and kept.scores.dtype == torch.float32
    assert size == 1 or (kept.indices.diff(dim=1) > 0).all()  # exact K, raster order
    clusters = plan_quadtree(grid if views else (1, *grid), 8).count(size, 0.25)
    for image in range(2):
        reached = kept.clusters[image, kept.indices[image]].unique().numel()
        assert kept.clusters[image].unique().numel() == clusters and reached == min(size, clusters)
        assert torch.equal(kept.tokens[image, :size], tokens[image, kept.indices[image]])
        rest = torch.ones(count, dtype=torch.bool).index_fill(0, kept.indices[image], size == count)
        torch.testing.assert_close(kept.tokens[image, size], tokens[image, rest].mean(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("budget", "count"), [(512, 126), (768, 192), (1024, 255), (40, 36), (10, 36)])
def test_high_resolution_grid(budget, count):
    tokens, text, pixels = picture(1, (48, 48), width=8)
    kept = ShirgGate(formula())(tokens, budget, (48, 48), text, pixels)
    assert kept.tokens.shape == (1, budget + 1, 8)
    assert kept.clusters.unique().tolist() == list(range(count))
    assert kept.clusters[0, kept.indices[0]].unique().numel() == min(budget, count)


def test_five_views_share_one_budget():
    grid = (5, 27, 27)
    tokens, text, _ = picture(1, grid, width=8)
    pixels = torch.randn(1, 5, 3, 384, 384)  # 27 * 14 = 378: the last 6 pixels belong to no patch
    kept = ShirgGate(formula())(tokens, 768, grid, text, pixels)
    assert kept.tokens.shape == (1, 769, 8) and kept.clusters.unique().numel() == 405
    spoilt = pixels.clone()
    spoilt[..., 378:, :] = spoilt[..., 378:] = 50
    assert torch.equal(kept.scores, ShirgGate(formula())(tokens, 768, grid, text, spoilt).scores)


def test_a_view_axis_of_one_changes_nothing():
    tokens, text, pixels = picture()
    plain, viewed = (
        ShirgGate(formula())(tokens, 100, (24, 24), text, pixels),
        ShirgGate(formula())(tokens, 100, (1, 24, 24), text, pixels[:, None]),
    )
    assert torch.equal(plain.tokens, viewed.tokens)


@pytest.mark.parametrize("budget", [30, 31, 10**9])
def test_a_budget_of_all_keeps_all_and_adds_their_mean(budget):
    tokens, *_ = picture(2, (5, 6))
    kept = ShirgGate(formula())(tokens, budget, (5, 6))
    assert torch.equal(kept.tokens[:, :30], tokens) and kept.indices.tolist() == [list(range(30))] * 2
    torch.testing.assert_close(kept.tokens[:, 30], tokens.mean(1))


def test_no_summary_on_request():
    tokens, *_ = picture()
    kept = ShirgGate(formula(summary=False))(tokens, 50, (24, 24))
    assert torch.equal(kept.tokens[0], tokens[0, kept.indices[0]])


def test_all_equal_tokens_are_kept_from_the_front():
    # Every score ties. Two by two roots of 8: the first token of each, then the lowest indices.
    kept = ShirgGate(formula())(torch.full((1, 256, 5), 0.3), 20, (16, 16))
    clusters = kept.clusters[0].tolist()
    tops = {clusters.index(label) for label in set(clusters)}
    others = [i for i in range(256) if i not in tops][: 20 - len(tops)]
    assert kept.indices[0].tolist() == sorted([*tops, *others])


# --- images do not mix ------------------------------------------------------------------------------------------------


def test_batch_order_changes_nothing():
    tokens, text, pixels = picture(4)
    order = torch.tensor([2, 0, 3, 1])
    kept = ShirgGate(formula())(tokens, 90, (24, 24), text, pixels)
    moved = ShirgGate(formula())(tokens[order], 90, (24, 24), text[order], pixels[order])
    for field in dataclasses.fields(kept):
        assert torch.equal(getattr(kept, field.name)[order], getattr(moved, field.name)), field.name


def test_an_image_is_scored_as_if_alone():
    tokens, text, pixels = picture(3)
    tokens[1] *= 1000
    together = ShirgGate(formula())(tokens, 90, (24, 24), text, pixels)
    for i in range(3):
        alone = ShirgGate(formula())(tokens[i : i + 1], 90, (24, 24), text[i : i + 1], pixels[i : i + 1])
        assert torch.equal(together.indices[i], alone.indices[0]) and torch.equal(together.scores[i], alone.scores[0])


def test_inputs_are_left_alone():
    inputs = picture(2)
    copies = [value.clone() for value in inputs]
    ShirgGate(formula())(inputs[0], 90, (24, 24), *inputs[1:])
    assert all(torch.equal(value, copy) for value, copy in zip(inputs, copies, strict=True))


def test_non_contiguous_tokens():
    tokens, *_ = picture(2)
    strided = tokens.transpose(1, 2).contiguous().transpose(1, 2)
    kept, wanted = ShirgGate(formula())(strided, 90, (24, 24)), ShirgGate(formula())(tokens, 90, (24, 24))
    assert torch.equal(kept.indices, wanted.indices)
    torch.testing.assert_close(kept.tokens, wanted.tokens)


# --- what is worth keeping --------------------------------------------------------------------------------------------


def page_with_a_word(loudness: float, noise: float, with_pixels: bool, seed: int):
    """48 x 48 tokens of paper but for five of a word; `loudness` is the word's spread over that of the paper."""
    generator = torch.Generator().manual_seed(seed)
    paper = torch.randn(64, generator=generator)
    tokens = paper + noise * torch.randn(1, 2304, 64, generator=generator)
    row, col = (int(torch.randint(0, 43, (), generator=generator)) for _ in range(2))
    word = torch.arange(5) + 48 * row + col
    tokens[0, word] = loudness * torch.randn(5, 64, generator=generator)
    pixels = 1 + 0.1 * noise * torch.randn(1, 1, 672, 672, generator=generator).repeat(1, 3, 1, 1)
    ink = torch.rand(8, 60, generator=generator) > 0.5
    pixels[0, :, row * 14 + 3 : row * 14 + 11, col * 14 + 5 : col * 14 + 65] = 1 - 2 * ink.float()
    return tokens, word, pixels if with_pixels else None


@pytest.mark.parametrize("with_pixels", [True, False])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("loudness", [0.6, 1.0, 2.0])
def test_a_page_blank_but_for_a_word_keeps_the_word(loudness, noise, with_pixels):
    budgets = [42, 64, 144, 256, 768, 2000] if with_pixels else [64, 144, 256, 768, 2000]  # 36 clusters and up
    for seed in range(2):
        tokens, word, pixels = page_with_a_word(loudness, noise, with_pixels, seed)
        for budget in budgets:
            kept = ShirgGate(formula())(tokens, budget, (48, 48), pixels=pixels).indices[0]
            assert torch.isin(word, kept).all(), (budget, seed)


def test_a_single_rare_token_is_kept_as_soon_as_clusters_are_covered():
    tokens = torch.randn(64).expand(1, 2304, 64).clone()
    tokens[0, 1000] = torch.randn(64)
    for budget in (36, 37, 200, 1000):
        assert 1000 in ShirgGate(formula())(tokens, budget, (48, 48)).indices[0]


def test_a_few_huge_tokens_do_not_hide_the_text():
    # Two tokens of a thousandfold norm, as vision towers have; 60 lively tokens of text among paper
    generator = torch.Generator().manual_seed(0)
    tokens = 0.2 * torch.randn(1, 576, 32, generator=generator)
    text = torch.arange(200, 260)
    tokens[0, text] = torch.randn(60, 32, generator=generator)
    tokens[0, [5, 400]] *= 5000
    assert torch.isin(text, ShirgGate(formula())(tokens, 160, (24, 24)).indices[0]).all()


def test_text_raises_the_tokens_it_names():
    tokens, *_ = picture(1, width=64)
    named = torch.tensor([17, 300, 511])
    kept = ShirgGate(formula())(tokens, 40, (24, 24), text=tokens[:, named] - tokens.mean(1))
    assert torch.isin(named, kept.scores[0].topk(3).indices).all() and torch.isin(named, kept.indices[0]).all()


def test_text_that_names_nothing_does_no_harm():
    # 120 text tokens on noisy paper. The question has nothing in common with either.
    generator = torch.Generator().manual_seed(0)
    recall = {}
    tokens = 0.3 * torch.randn(1, 576, 256, generator=generator) + torch.randn(256, generator=generator)
    words = torch.arange(100, 220)
    tokens[0, words] += 1.2 * torch.randn(120, 256, generator=generator)
    for name, question in (("none", None), ("irrelevant", torch.randn(1, 8, 256, generator=generator))):
        kept = ShirgGate(formula())(tokens, 180, (24, 24), text=question)
        recall[name] = torch.isin(words, kept.indices[0]).float().mean().item()
    assert recall["none"] > 0.95 and recall["irrelevant"] > recall["none"] - 0.03


def test_relevance_takes_the_place_of_text():
    tokens, text, pixels = picture()
    centred = tokens - tokens.mean(1, keepdim=True)
    cosine = torch.cosine_similarity(centred[:, :, None], text[:, None], dim=-1).amax(-1)
    by_text = ShirgGate(formula())(tokens, 90, (24, 24), text, pixels)
    by_cosine = ShirgGate(formula())(tokens, 90, (24, 24), None, pixels, relevance=cosine)
    torch.testing.assert_close(by_text.scores, by_cosine.scores, rtol=1e-3, atol=1e-4)


# --- precision, gradients, compilation --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_equals_its_rounded_input_in_float32(dtype):
    half = [value.to(dtype) for value in picture(2)]
    low = ShirgGate(formula())(half[0], 90, (24, 24), *half[1:])
    high = ShirgGate(formula())(half[0].float(), 90, (24, 24), half[1].float(), half[2].float())
    assert low.tokens.dtype == dtype and torch.equal(low.scores, high.scores)
    assert torch.equal(low.indices, high.indices) and torch.equal(low.tokens, high.tokens.to(dtype))


def test_autocast_does_not_change_the_choice():
    tokens, text, pixels = picture()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ShirgGate(formula())(tokens, 90, (24, 24), text, pixels)
    assert torch.equal(inside.scores, ShirgGate(formula())(tokens, 90, (24, 24), text, pixels).scores)


def test_gradients_reach_every_token_through_kept_and_summary():
    tokens, text, _ = picture()
    tokens.requires_grad_()
    kept = ShirgGate(formula())(tokens, 90, (24, 24), text)
    kept.tokens[:, :90].sum().backward(retain_graph=True)
    wanted = torch.zeros(576).index_fill(0, kept.indices[0], 1.0)
    assert torch.equal(tokens.grad[0], wanted[:, None].expand(576, 16)) and not kept.scores.requires_grad
    tokens.grad = None
    kept.tokens[:, 90].sum().backward()
    torch.testing.assert_close(tokens.grad[0], ((1 - wanted) / 486)[:, None].expand(576, 16), rtol=1e-4, atol=1e-6)


def test_selection_is_the_same_with_and_without_gradients():
    tokens, *_ = picture()
    plain, tracked = (
        ShirgGate(formula())(tokens, 90, (24, 24)),
        ShirgGate(formula())(tokens.clone().requires_grad_(), 90, (24, 24)),
    )
    assert torch.equal(plain.indices, tracked.indices)
    torch.testing.assert_close(plain.tokens, tracked.tokens.detach())


def test_compiles_into_one_graph():
    # A value that reached the host, or a shape that depended on one, would break the graph.
    tokens, text, pixels = picture(1, (18, 9))
    gate = ShirgGate(formula())
    compiled = torch.compile(gate, fullgraph=True, backend="eager")
    for budget in (90, 120):
        ours, theirs = compiled(tokens, budget, (18, 9), text, pixels), gate(tokens, budget, (18, 9), text, pixels)
        assert torch.equal(ours.tokens, theirs.tokens) and torch.equal(ours.indices, theirs.indices)


# --- errors -----------------------------------------------------------------------------------------------------------

TOKENS = torch.randn(2, 12, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": TOKENS[0]}, r"tokens must be floating-point \[B, N, D\], got torch.float32 \[12, 4\]"),
        ({"tokens": TOKENS.long()}, r"got torch.int64 \[2, 12, 4\]"),
        ({"budget": 0}, r"at least 1 \(there are 12\), got 0"),
        ({"budget": -3}, "got -3"),
        ({"budget": 2.5}, "got 2.5"),
        ({"budget": True}, "got True"),
        ({"grid": (3, 5)}, r"grid \(3, 5\) holds 15 tokens, but tokens is \[2, 12, 4\]"),
        ({"grid": (12,)}, r"\(rows, cols\) or \(views, rows, cols\)"),
        ({"grid": (-3, -4)}, "each at least 1"),
        ({"text": torch.randn(2, 3, 7)}, "text is 7 wide and tokens are 4"),
        ({"text": torch.randn(1, 3, 4)}, r"B = 2 .* got \[1, 3, 4\]"),
        ({"text": torch.randn(2, 0, 4)}, r"L at least 1, got \[2, 0, 4\]"),
        ({"text": torch.randn(2, 3, 4), "relevance": torch.randn(2, 12)}, "not both"),
        ({"relevance": torch.randn(2, 11)}, r"\[2, 12\], got \[2, 11\]"),
        ({"pixels": torch.randn(2, 3, 42, 42)}, "42 x 42 hold 3 x 3 patches of 14 x 14, but the grid has 3 x 4"),
        ({"pixels": torch.randn(1, 3, 42, 56)}, r"pixels must be \[2, 3, H, W\], got \[1, 3, 42, 56\]"),
        ({"grid": (2, 2, 3), "pixels": torch.randn(2, 3, 28, 42)}, r"pixels must be \[2, 2, 3, H, W\]"),
        ({"tokens": TOKENS.masked_fill(TOKENS > 2, math.nan).index_fill(1, torch.tensor(3), math.nan)}, "tokens holds"),
        ({"tokens": TOKENS.index_fill(2, torch.tensor(0), math.inf)}, "tokens holds 24 NaN or infinite values of 96"),
        ({"text": torch.full((2, 3, 4), math.nan)}, "text holds 24 NaN"),
        ({"relevance": torch.full((2, 12), math.nan)}, "relevance holds 24 NaN"),
        ({"pixels": torch.full((2, 3, 42, 56), math.nan)}, "pixels holds"),
        ({"tokens": TOKENS * 1e30}, "too large to be squared"),
    ],
)
def test_misfits_are_refused_by_name(changes, message):
    call = {"tokens": TOKENS, "budget": 4, "grid": (3, 4)} | changes
    with pytest.raises(ValueError, match=message):
        ShirgGate(formula())(**call)


@pytest.mark.parametrize("selector", ["random", "uniform"])
def test_selectors_without_scores_refuse_nan_too(selector):
    with pytest.raises(ValueError, match="tokens holds 8 NaN"):
        ShirgGate(formula(selector=selector))(TOKENS.index_fill(1, torch.tensor(3), math.nan), 4, (3, 4))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", 1.5),
        ("alpha", math.nan),
        ("beta", -0.1),
        ("beta", math.inf),
        ("clusters_per_budget", 2.0),
        ("max_cell", 0),
        ("max_cell", 2.5),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        GateConfig(**{field: value})


def test_no_term_at_all_is_an_error():
    gate = ShirgGate(formula(alpha=0, beta=0))
    with pytest.raises(ValueError, match="leave nothing to rank by"):
        gate(TOKENS, 4, (3, 4))
    assert gate(TOKENS, 4, (3, 4), text=torch.randn(2, 3, 4)).indices.shape == (2, 4)
