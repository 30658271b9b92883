"""The three layouts of the loss: equal where they must be, and each what it says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shirg.training.objective import answer_losses, attention_mask, noisy_copies, pad_prefixes, positions
from tests.tiny import tiny_model

LENGTH = 5
SETTINGS = {"llada": False, "dream": True}


@pytest.fixture(scope="module", params=SETTINGS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return tiny_model(family).double()


def case(model, lengths=(7, 4, 9), seed=0):
    """Prefixes that want a gradient, targets, and what copy A hides (the last record: everything)."""
    draws = torch.Generator().manual_seed(seed)
    prefixes = [torch.randn(length, 32, generator=draws, dtype=torch.float64).requires_grad_() for length in lengths]
    targets = torch.randint(0, 256, (len(lengths), LENGTH), generator=draws)
    masked = torch.rand(len(lengths), LENGTH, generator=draws) < 0.5
    masked[-1] = True
    return prefixes, targets, masked


def losses(model, family, prefixes, targets, masked, objective):
    return answer_losses(
        model.language,
        prefixes,
        targets,
        masked,
        mask_token_id=model.config.mask_token_id,
        objective=objective,
        shift=SETTINGS[family],
    )


def by_hand(model, family, prefix, target, hidden, *, see_all):
    """Loss of the hidden targets of one copy [sum over targets], one position at a time and with no mask in sight.

    The prefix-LM form is computed as inference does it: the prefix alone fills a cache, and the answer reads it.
    """
    from shirg.lavida import PrefixCache

    language = model.language
    ids = torch.where(hidden, model.config.mask_token_id, target)
    answer = language.embed_tokens(ids)[None]
    if see_all:
        states = language(torch.cat([prefix[None], answer], dim=1))[0]
    else:
        cache = PrefixCache()
        before = language(prefix[None], cache=cache)
        cache.freeze()
        states = torch.cat([before, language(answer, cache=cache)], dim=1)[0]
    total = torch.zeros((), dtype=torch.float64)
    for place in hidden.nonzero().flatten().tolist():
        position = len(prefix) + place - SETTINGS[family]
        total = total + F.cross_entropy(language.logits(states[position])[None].float(), target[place][None])
    return total


@pytest.mark.parametrize("objective", ["packed", "prefix", "bidirectional"])
def test_every_layout_equals_the_sum_done_by_hand_with_gradients(model, family, objective):
    prefixes, targets, masked = case(model)
    got = losses(model, family, prefixes, targets, masked, objective).sum()
    expected = sum(
        by_hand(model, family, prefix, target, hidden, see_all=objective == "bidirectional")
        for prefix, target, mask in zip(prefixes, targets, masked, strict=True)
        for hidden in (mask, ~mask)
    )
    assert got.item() == pytest.approx(expected.item(), abs=1e-5)
    ours = torch.autograd.grad(got, prefixes)
    theirs = torch.autograd.grad(expected, prefixes)
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_packed_equals_prefix_and_bidirectional_differs(model, family):
    prefixes, targets, masked = case(model)
    packed, prefix, both = (
        losses(model, family, prefixes, targets, masked, name) for name in ("packed", "prefix", "bidirectional")
    )
    torch.testing.assert_close(packed, prefix, atol=1e-5, rtol=0)
    assert (packed - both).abs().max() > 1e-2
    for one, other in zip(
        torch.autograd.grad(packed.sum(), prefixes), torch.autograd.grad(prefix.sum(), prefixes), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", ["packed", "prefix", "bidirectional"])
def test_padded_batch_equals_single_records(model, family, objective):
    prefixes, targets, masked = case(model, lengths=(3, 12, 1))
    together = losses(model, family, prefixes, targets, masked, objective)
    for row in range(3):
        alone = losses(model, family, [prefixes[row]], targets[row : row + 1], masked[row : row + 1], objective)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-6, rtol=1e-6)


def test_a_visible_copy_never_leaks_its_target(model, family):
    """Changing a target changes the loss of another position only through the copy in which it is visible."""
    prefixes, targets, masked = case(model)
    masked[0] = torch.tensor([True, True, False, False, False])
    other = targets.clone()
    other[0, 0] = (targets[0, 0] + 1) % 256  # hidden in A, visible in B
    before = losses(model, family, prefixes, targets, masked, "packed")
    after = losses(model, family, prefixes, other, masked, "packed")
    assert before[0, 1] == after[0, 1]  # predicted from A
    assert (before[0, 3:] != after[0, 3:]).all()  # predicted from B
    assert torch.equal(before[1:], after[1:])


def test_inputs_are_left_as_they_were(model, family):
    prefixes, targets, masked = case(model)
    copies = [tensor.clone() for tensor in (*prefixes, targets, masked)]
    losses(model, family, prefixes, targets, masked, "packed")
    assert all(torch.equal(one, other) for one, other in zip((*prefixes, targets, masked), copies, strict=True))


def test_packed_mask_written_out():
    """Prefixes of 2 and 1, one answer position: columns are [P P A B]."""
    real = torch.tensor([[True, True], [False, True]])
    got = attention_mask(real, 1, "packed")[:, 0].int().tolist()
    assert got[0] == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert got[1] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1]]


def test_two_row_masks_written_out():
    real = torch.tensor([[False, True]])
    assert attention_mask(real, 1, "prefix")[0, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert attention_mask(real, 1, "bidirectional")[0, 0].int().tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 1]]


def test_positions_and_padding_written_out():
    embeds, real = pad_prefixes([torch.ones(1, 2), torch.ones(3, 2)])
    assert real.tolist() == [[False, False, True], [True, True, True]]
    assert embeds[0].tolist() == [[0, 0], [0, 0], [1, 1]]
    assert positions(real, 2, copies=2).tolist() == [[0, 0, 0, 1, 2, 1, 2], [0, 1, 2, 3, 4, 3, 4]]


def test_copies_are_complementary():
    table = torch.nn.Embedding(10, 1)
    table.weight.data = torch.arange(10.0)[:, None]
    copies = noisy_copies(table, torch.tensor([[3, 4, 5]]), torch.tensor([[True, False, True]]), mask_token_id=9)
    assert copies[0, :, :, 0].tolist() == [[9, 4, 9], [3, 9, 5]]
