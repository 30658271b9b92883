"""Seeds derived from what a draw is for."""

from __future__ import annotations

import torch

from shirg.seeds import derived_seed, scoped_seed


def test_seeds_are_fixed_for_all_time():
    """Another number here would break every resume across versions."""
    assert derived_seed(0, "budget", 3) == 4518394564689097644
    assert derived_seed(0, "budget", 3) != derived_seed(0, "budget", 4) != derived_seed("0", "budget", 4)


def test_scoped_seed_repeats_inside_and_restores_outside():
    torch.manual_seed(5)
    expected = torch.rand(2).tolist()
    torch.manual_seed(5)
    got = []
    for step in (0, 0, 1):
        with scoped_seed(torch.device("cpu"), 7, step):
            got.append(torch.rand(2).tolist())
    assert got[0] == got[1] != got[2]
    assert torch.rand(2).tolist() == expected
