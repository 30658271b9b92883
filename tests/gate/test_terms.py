"""The terms of the saliency score, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from shirg.gate.terms import (
    pixel_edges,
    relevance_term,
    robust_z,
    text_cosine,
    token_edges,
    unusualness,
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
    scaled = unusualness(values)[0]
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


def test_token_edges_by_hand():
    # A lone token of length 5 in a 3 x 3 grid: four distances of 5 to itself, one to each neighbour, none to the corners
    tokens = torch.zeros(1, 1, 3, 3, 2)
    tokens[0, 0, 1, 1] = torch.tensor([3.0, 4.0])
    assert token_edges(tokens)[0].tolist() == [0, 5, 0, 5, 10, 5, 0, 5, 0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1)])
def test_token_edges_of_narrow_grids(shape):
    assert token_edges(torch.rand(2, 1, *shape, 3)).shape == (2, shape[0] * shape[1])
