"""Step tables and noise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shirg.errors import UserError
from shirg.lavida.diffusion import complementary_copies, draw_noise, forward_process, sample_times, transfer_counts
from shirg.lavida.diffusion.schedule import SCHEDULES


def test_step_tables_equal_the_official_code(reference):
    cases = reference.json("schedules")
    assert len(cases) > 20
    for case in cases:
        keywords = case["schedule_kwargs"]
        (ours,) = transfer_counts([case["num_masked"]], case["steps"], case["schedule"], keywords)
        assert ours == case["num_transfer_tokens"], case


def test_step_tables_by_hand():
    assert transfer_counts([32], 8, "shift") == [[2, 2, 2, 2, 4, 4, 7, 9]]
    assert transfer_counts([32], 8, "cosine") == [[2, 3, 5, 6, 7, 5, 3, 1]]
    assert transfer_counts([7, 2], 3) == [[3, 2, 2], [1, 1, 0]]


@given(st.integers(1, 80), st.integers(1, 80), st.sampled_from([None, *SCHEDULES]))
def test_every_table_commits_all_masks_and_no_scheduled_step_is_idle(masked, steps, schedule):
    (counts,) = transfer_counts([masked], steps, schedule)
    assert sum(counts) == masked
    assert len(counts) <= steps
    assert schedule is None or min(counts) >= 1


def test_rows_with_fewer_masks_than_steps_end():
    (long, short) = transfer_counts([8, 2], 6, "shift")
    assert (len(long), sum(long), len(short)) == (6, 8, 6)


def test_wrong_schedules_are_refused():
    with pytest.raises(UserError, match="'shift', 'cosine'"):
        transfer_counts([4], 2, "quadratic")
    with pytest.raises(UserError, match="do not belong"):
        transfer_counts([4], 2, "cosine", {"shift": 2})
    with pytest.raises(UserError, match="steps=0"):
        transfer_counts([4], 0)
    for shift in (0, -1, -3, float("nan")):
        with pytest.raises(UserError, match="does not increase; use shift above 0"):
            transfer_counts([32], 8, "shift", {"shift": shift})


def test_forward_process_equals_the_official_code(reference):
    train = reference.arrays("train")
    for index in range(3):
        masked, probability = forward_process(train[f"fp{index}_t"], train[f"fp{index}_noise"])
        assert torch.equal(masked, train[f"fp{index}_masked"])
        torch.testing.assert_close(probability, train[f"fp{index}_p_mask"])


def test_noise_is_drawn_after_the_times_and_for_whole_rows():
    """What the reference's seeds give is compared in test_loss.py, as a part of the training forward."""
    masked, probability = draw_noise(3, 40, "logit_normal", generator=torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    times = torch.sigmoid(torch.randn(3, generator=draws))
    torch.testing.assert_close(probability, (0.001 + 0.999 * times)[:, None])
    assert torch.equal(masked, torch.rand(3, 40, generator=draws) <= probability)


def test_copies_complement_each_other_and_arguments_stay():
    embeds, labels = torch.randn(3, 8, 4), torch.tensor([[-100, -100, 1, 2, 3, 9, 4, 5]] * 3)
    drawn = torch.rand(3, 8) < 0.5
    arguments = [tensor.clone() for tensor in (embeds, labels, drawn)]
    copies = complementary_copies(embeds, labels, drawn, torch.zeros(4), fim_token_id=9)
    assert all(torch.equal(old, new) for old, new in zip(arguments, (embeds, labels, drawn), strict=True))
    first, second = copies.masked.chunk(2)
    assert torch.equal(first ^ second, (labels != -100) & (labels != 9))
    assert torch.equal(copies.labels != -100, copies.masked)
    assert (copies.embeds[copies.masked] == 0).all()
    assert torch.equal(copies.embeds[~copies.masked], torch.cat([embeds, embeds])[~copies.masked])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_at_least_one_position_of_each_row_is_masked(times):
    noise = torch.rand(len(times), 6)
    masked, probability = forward_process(torch.tensor(times), noise)
    assert masked.any(dim=1).all()
    assert ((probability >= 1e-3) & (probability <= 1)).all()


@pytest.mark.parametrize("policy", ["uniform", "logit_normal", "mode"])
def test_times_are_in_range_and_repeat_with_the_generator(policy):
    draws = [sample_times(500, policy, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    assert 0 <= draws[0].min() < 0.1 < 0.9 < draws[0].max() <= 1


def test_wrong_policies_are_refused():
    with pytest.raises(UserError, match="'cosine'"):
        sample_times(1, "cosine")
    with pytest.raises(UserError, match=r"\['std'\]"):
        sample_times(1, "logit_normal", {"std": 1})
