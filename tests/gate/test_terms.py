"""The terms of the saliency score, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from shirg.gate.config import EDGES
from shirg.gate.terms import (
    pixel_edges,
    relevance_term,
    robust_z,
    spread_edges,
    spread_relevance,
    squashed_z,
    text_cosine,
    token_edges,
    variance_term,
)


def moments(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return tokens.mean(-1), tokens.square().mean(-1)


def test_robust_z_is_distance_from_the_median_in_scaled_mads():
    # median 3, deviations 2 1 0 1 97, MAD 1; a tenth of the mean deviation (20.2 * 0.12533 = 2.53) is larger: outlier
    z = robust_z(torch.tensor([[1.0, 2.0, 3.0, 4.0, 100.0]]))
    torch.testing.assert_close(z, torch.tensor([[-2.0, -1.0, 0.0, 1.0, 97.0]]) / (0.12533 * 20.2))
    # median 3, deviations 2 1 0 1 2, MAD 1, mean deviation 1.2
    z = robust_z(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    torch.testing.assert_close(z, torch.tensor([[-2.0, -1.0, 0.0, 1.0, 2.0]]) / 1.4826)


def test_robust_z_without_a_mad_keeps_the_order_of_the_rare():
    values = torch.zeros(1, 100)
    values[0, 7], values[0, 8] = 1.0, 2.0
    z = robust_z(values)[0]
    assert z[8] > z[7] > 10 and z.isfinite().all() and z[0] == 0


def test_robust_z_of_equal_values_is_zero():
    assert robust_z(torch.full((2, 5), 3.7)).eq(0).all()


def test_unusualness_is_monotone_and_bounded_under_huge_outliers():
    values = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 1e6]])
    scaled = squashed_z(values)[0]
    assert (scaled.diff() > 0).all() and scaled.abs().max() <= 1


def test_variance_counts_only_above_the_median():
    # Tokens (s, -s) have variance s^2: 0 1 4 9 16; median 4, deviations 4 3 0 5 12, MAD 4, scale 5.9304
    s = torch.arange(5.0)
    term = variance_term(*moments(torch.stack([s, -s], -1)[None]))[0]
    z = torch.tensor([0.0, 0.0, 0.0, 5.0, 12.0]) / 5.9304
    torch.testing.assert_close(term, z**2 / (36 + z**2))


def test_variance_of_flat_tokens_is_not_read_out_of_rounding():
    tokens = torch.tensor([0.1, 3.3, 7.7, 1001.3, 0.7])[None, :, None].expand(1, 5, 48)
    assert variance_term(*moments(tokens)).eq(0).all()


def test_cosine_is_taken_from_the_image_mean_to_the_best_word():
    # mean (1, 1): deviations (1, 0), (-1, 0), (0, 1), (0, -1); words along (1, 0) and (1, 1)
    tokens = torch.tensor([[[2.0, 1.0], [0.0, 1.0], [1.0, 2.0], [1.0, 0.0]]])
    text = torch.tensor([[[3.0, 0.0], [5.0, 5.0]]])
    cosine = text_cosine(tokens, moments(tokens)[1], tokens.mean(1), text)[0]
    half = math.sqrt(0.5)
    torch.testing.assert_close(cosine, torch.tensor([1.0, -half, half, 0.0]))


def test_cosine_equals_its_definition():
    torch.manual_seed(0)
    tokens, text = torch.randn(2, 30, 16) + 1, torch.randn(2, 4, 16)
    centre = tokens.mean(1)
    wanted = torch.cosine_similarity((tokens - centre[:, None])[:, :, None], text[:, None], dim=-1).amax(-1)
    torch.testing.assert_close(text_cosine(tokens, moments(tokens)[1], centre, text), wanted)


def test_relevance_gate_opens_at_two_deviations_and_is_open_at_six():
    # 0 +- 1, 1, 2 ... around a median of 0 with MAD 1 = 0.6745 deviations
    unit = 1.4826
    values = torch.tensor([[-1.0] * 20 + [0.0] * 21 + [1.0] * 20 + [2 * unit, 4 * unit, 6 * unit, 9 * unit]])
    # sorted |v|: 21 zeros, 40 ones, 4 larger: the median (33rd of 65) is 1
    torch.testing.assert_close(relevance_term(values)[0, -4:], torch.tensor([0.0, 0.5, 1.0, 1.0]))
    assert relevance_term(values)[0, :-4].eq(0).all()


def test_relevance_ignores_rounding_noise_among_cosines():
    torch.manual_seed(0)
    assert relevance_term(0.3 + 1e-6 * torch.randn(1, 400)).eq(0).all()


def test_pixel_edges_by_hand():
    # One white patch on black. Forward differences see its right column (13 pixels), its bottom row (13 pixels) and the
    # corner between (root 2); nothing is seen from the black side.
    pixels = torch.zeros(1, 1, 3, 28, 28)
    pixels[..., :14, :14] = 1
    edges = pixel_edges(pixels, 2, 2)
    torch.testing.assert_close(edges, torch.tensor([[(26 + math.sqrt(2)) / 196, 0.0, 0.0, 0.0]]))


def test_pixel_edges_weigh_colours_as_the_eye_does():
    pixels = torch.zeros(1, 3, 3, 14, 14)
    for view in range(3):
        pixels[0, view, view, :, 7:] = 1  # a red, a green and a blue half: one column of differences
    torch.testing.assert_close(pixel_edges(pixels, 1, 1), torch.tensor([[0.299, 0.587, 0.114]]) / 14)


def test_pixels_beyond_the_last_patch_do_not_count():
    pixels = torch.rand(1, 1, 3, 34, 34)
    changed = pixels.clone()
    changed[..., 28:, :] = changed[..., 28:] = 9
    assert torch.equal(pixel_edges(pixels, 2, 2), pixel_edges(changed, 2, 2))


def test_density_is_the_share_of_steep_pixels():
    # 27 steep pixels of 196 in one patch, whatever their contrast: the mean squared gradient is that of 28 x 28 pixels
    pixels = torch.zeros(1, 1, 3, 28, 28)
    pixels[..., :14, :14] = 0.01
    torch.testing.assert_close(pixel_edges(pixels, 2, 2, "density"), torch.tensor([[27 / 196, 0.0, 0.0, 0.0]]))


def test_density_counts_grey_print_as_much_as_black_and_grain_not_at_all():
    torch.manual_seed(0)
    pixels = 0.02 * torch.randn(1, 1, 1, 28, 42).expand(1, 1, 3, 28, 42)
    pixels = pixels.clone()
    pixels[..., 2:12, 2:12:4] -= 1.6  # black strokes
    pixels[..., 2:12, 16:26:4] -= 0.8  # the same in grey
    black, grey, *blank = pixel_edges(pixels, 2, 3, "density")[0].tolist()
    assert grey == pytest.approx(black, rel=0.1) and max(blank) == 0
    black, grey, *_ = pixel_edges(pixels, 2, 3)[0].tolist()
    assert grey < 0.6 * black


def test_density_has_a_threshold_for_every_image_not_for_every_view():
    strokes = torch.zeros(14, 14)
    strokes[:, ::2] = 1
    faint, strong = 0.1 * strokes, strokes
    pixels = torch.stack([torch.stack([strong, faint]), torch.stack([faint, faint])])  # [B, V, H, W]
    edges = pixel_edges(pixels.unsqueeze(2).expand(2, 2, 3, 14, 14), 1, 1, "density")
    # 13 of 14 columns are steep: more than half, so none is above twice the mean where all views are alike
    assert edges[0, 0] > 0.8 and edges[0, 1] == 0 and edges[1].eq(0).all()


def test_strokes_are_the_lesser_of_steep_to_the_right_and_steep_downwards():
    # Three patches: a white square of 4 x 6 (12 steep pixels to the right, left and right side of 6 rows each; 8
    # downwards, above and below 4 columns each), a rule of one row, a bar of one column
    pixels = torch.zeros(1, 1, 3, 14, 42)
    pixels[..., 4:10, 4:8] = 1
    pixels[..., 7, 14:28] = 1
    pixels[..., 35] = 1
    edges = pixel_edges(pixels, 1, 3, "strokes")
    # The rule begins and ends: its first pixel is steep from the patch to the left, its last from its own
    torch.testing.assert_close(edges, torch.tensor([[8 / 196, 1 / 196, 0.0]]))
    density = pixel_edges(pixels, 1, 3, "density")[0]
    assert density[1] > density[0]  # the rule outranks the glyph there


def test_print_takes_the_lesser_share_in_each_half_of_a_patch():
    pixels = torch.zeros(1, 1, 3, 14, 98)
    pixels[..., 3, :56] = 1.0  # a rule in the upper half of four patches,
    pixels[..., 7:, 7] = 1.0  # a frame in the lower half of the first,
    pixels[..., 9:12, 30] = 1.0  # and a stroke with ends, three high, in that of the third; three are blank
    strokes, printed = (pixel_edges(pixels, 1, 7, kind)[0] for kind in ("strokes", "print"))
    assert strokes[0] > 0 and printed[:2].tolist() == [0, 0]
    # The stroke has 6 steep pixels to the right and 2 downwards; the rule, in the other half, adds to the latter alone.
    assert (float(strokes[2]), float(printed[2])) == pytest.approx((6 / 196, 2 / 196))


def test_print_is_what_stands_above_the_grain_of_the_page():
    draws = torch.Generator().manual_seed(0)
    grain = 0.1 * torch.randn(1, 1, 1, 56, 56, generator=draws).expand(1, 1, 3, 56, 56)
    word = torch.zeros(1, 1, 3, 56, 56)
    word[..., 16:26:3, 16:26:3] = 1.0  # dots in the second patch of the second row
    pale, clean = 0.1 * word, pixel_edges(0.1 * word, 4, 4, "print")[0]
    grained = pixel_edges(grain + word, 4, 4, "print")[0]
    others = torch.arange(16) != 5
    assert clean[5] > 0.1 and clean[others].eq(0).all()  # pale on a clean page
    assert grained[5] > 10 * grained[others].max()
    assert pixel_edges(grain + pale, 4, 4, "print")[0].max() < 0.05  # as pale as the grain: no print
    assert torch.equal(pixel_edges(pale, 4, 4, "runs")[0], clean)  # joined elsewhere


def test_print_is_seen_where_no_patch_is_blank():
    dots = torch.zeros(1, 1, 3, 56, 56)
    dots[..., ::4, ::4] = 1.0
    assert pixel_edges(dots, 4, 4, "print").min() > 0.05


def test_variance_of_the_luminance_by_hand():
    # half of a patch at 1, half at 0: 1/4; red alone counts by its weight squared
    pixels = torch.zeros(1, 1, 3, 14, 28)
    pixels[0, 0, :, :, 7:14] = 1
    pixels[0, 0, 0, :, 21:] = 1
    torch.testing.assert_close(pixel_edges(pixels, 1, 2, "variance"), torch.tensor([[0.25, 0.25 * 0.299**2]]))


@pytest.mark.parametrize("kind", EDGES)
def test_no_edge_in_a_flat_image(kind):
    assert pixel_edges(torch.full((2, 1, 3, 28, 28), 0.5), 2, 2, kind).abs().max() < 1e-7


def test_edges_are_lent_to_the_sides_and_a_third_of_that_up_and_down():
    edges = torch.zeros(1, 2 * 3 * 4)
    edges[0, 5] = 1.0  # first view, row 1, column 1: nothing goes to the second view
    wanted = torch.zeros(2, 3, 4)
    wanted[0, 1, 1], wanted[0, 1, 0], wanted[0, 1, 2] = 1, 0.6, 0.6
    wanted[0, 0, 1], wanted[0, 2, 1] = 0.2, 0.2
    torch.testing.assert_close(spread_edges(edges, (2, 3, 4), 0.6)[0], wanted.flatten())


def test_edges_may_lend_more_up_and_down():
    edges = torch.zeros(1, 9)
    edges[0, 4] = 1.0
    lent = spread_edges(edges, (1, 3, 3), 0.4, 0.75)[0]
    torch.testing.assert_close(lent, torch.tensor([0, 0.3, 0, 0.4, 1, 0.4, 0, 0.3, 0]))


def test_relevance_is_lent_to_its_row_and_nothing_falls():
    relevance = torch.zeros(2, 2 * 2 * 3)
    relevance[0, 1], relevance[0, 2] = 1.0, 0.6  # first image, first view, first row
    relevance[0, 6] = 0.5  # second view, first row
    wanted = torch.zeros(2, 2, 2, 3)
    wanted[0, 0, 0] = torch.tensor([0.5, 1.0, 0.6])
    wanted[0, 1, 0] = torch.tensor([0.5, 0.25, 0.25])
    torch.testing.assert_close(spread_relevance(relevance, (2, 2, 3), 0.5), wanted.flatten(1))


def test_equal_edges_stay_equal_at_the_border():
    spread = spread_edges(torch.full((2, 12), 0.5), (1, 3, 4), 0.3)
    torch.testing.assert_close(spread, torch.full((2, 12), 0.5 * 1.8))
    assert spread_edges(torch.ones(1, 1), (1, 1, 1), 0.3).shape == (1, 1)


def test_token_edges_by_hand():
    # A lone token of length 5 in a 3 x 3 grid: four distances of 5 to itself, one to each neighbour, none to the corners
    tokens = torch.zeros(1, 1, 3, 3, 2)
    tokens[0, 0, 1, 1] = torch.tensor([3.0, 4.0])
    assert token_edges(tokens)[0].tolist() == [0, 5, 0, 5, 10, 5, 0, 5, 0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1)])
def test_token_edges_of_narrow_grids(shape):
    assert token_edges(torch.rand(2, 1, *shape, 3)).shape == (2, shape[0] * shape[1])
