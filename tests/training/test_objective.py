"""The three layouts of the loss: equal where they must be, and each what it says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shirg.training.objective import answer_losses, block_mask, dense_mask, lay_out, noisy_copies
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


def losses(model, family, prefixes, targets, masked, objective, **keywords):
    return answer_losses(
        model.language,
        prefixes,
        targets,
        masked,
        mask_token_id=model.config.mask_token_id,
        objective=objective,
        shift=SETTINGS[family],
        **keywords,
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


def layout(lengths, questions, objective):
    """A layout of one-channel prefixes and answers of one position."""
    asked = [[torch.ones(length, 1) for length in row] for row in questions]
    copies = torch.ones(sum(map(len, asked)), 2, 1, 1)
    return lay_out([torch.ones(length, 1) for length in lengths], asked, copies, objective)


def test_packed_mask_written_out():
    """Prefixes of 2 and 1, one answer position: columns are [P P A B] and [P A B padding]."""
    got = dense_mask(layout([2, 1], [[0], [0]], "packed"))[:, 0].int().tolist()
    assert got[0] == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert got[1][:3] == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]]


def test_two_row_masks_written_out():
    """Prefixes of 1 and 2: two rows each, the first two with padding."""
    prefix = dense_mask(layout([1, 2], [[0], [0]], "prefix"))[:, 0].int().tolist()
    assert [row[:2] for row in prefix[:2]] == [[[1, 0, 0], [1, 1, 0]]] * 2
    assert prefix[2] == prefix[3] == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    both = dense_mask(layout([1, 2], [[0], [0]], "bidirectional"))[:, 0].int().tolist()
    assert [row[:2] for row in both[:2]] == [[[1, 1, 0], [1, 1, 0]]] * 2
    assert both[2] == both[3] == [[1, 1, 1]] * 3


def test_mask_of_two_turns_written_out():
    """One prefix position, questions of 2 and 1: columns are [P Q1 Q1 A1 B1 Q2 A2 B2]."""
    made = layout([1], [[2, 1]], "packed")
    assert dense_mask(made)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 0, 1, 1, 0],
        [1, 0, 0, 0, 0, 1, 0, 1],
    ]
    assert made.positions.tolist() == [[0, 1, 2, 3, 3, 1, 2, 2]]
    assert (made.starts.tolist(), made.ends.tolist()) == ([[3, 4], [6, 7]], [[2, 2], [5, 5]])


def test_positions_places_and_padding_written_out():
    copies = torch.full((2, 2, 2, 2), 5.0)
    made = lay_out([torch.ones(1, 2), torch.ones(3, 2)], [[torch.ones(0, 2)]] * 2, copies, "packed")
    assert made.embeds[0, :, 0].tolist() == [1, 5, 5, 5, 5, 0, 0]
    assert made.questions.tolist() == [[0, 1, 1, 1, 1, -1, -1], [0, 0, 0, 1, 1, 1, 1]]
    assert made.positions.tolist() == [[0, 1, 2, 1, 2, 0, 0], [0, 1, 2, 3, 4, 3, 4]]
    assert made.rows.tolist() == [[0, 0], [1, 1]]
    assert (made.starts.tolist(), made.ends.tolist()) == ([[1, 3], [3, 5]], [[0, 0], [2, 2]])


def several_turns(model, seed=3):
    """Two images with three and one questions, that want gradients; targets and masks of the four answers."""
    draws = torch.Generator().manual_seed(seed)

    def embeds(length):
        return torch.randn(length, 32, generator=draws, dtype=torch.float64).requires_grad_()

    prefixes, questions = [embeds(6), embeds(9)], [[embeds(3), embeds(1), embeds(0)], [embeds(4)]]
    targets = torch.randint(0, 256, (4, LENGTH), generator=draws)
    return prefixes, questions, targets, torch.rand(4, LENGTH, generator=draws) < 0.5


def turns_by_hand(model, family, prefix, question, target, hidden):
    """As `by_hand`, with a cache that is filled twice: by the prefix, which sees itself, then by the question."""
    from shirg.lavida import PrefixCache

    language, cache = model.language, PrefixCache()
    before = language(prefix[None], cache=cache)
    if len(question):
        before = language(question[None], cache=cache)
    answer = language.embed_tokens(torch.where(hidden, model.config.mask_token_id, target))[None]
    states = torch.cat([before[:, -1:], language(answer, cache=cache.freeze())], dim=1)[0]
    places = hidden.nonzero().flatten() + int(not SETTINGS[family])
    return F.cross_entropy(language.logits(states[places]).float(), target[hidden], reduction="sum")


@pytest.mark.parametrize("objective", ["packed", "prefix"])
def test_turns_that_share_a_prefix_equal_the_sum_done_by_hand(model, family, objective):
    prefixes, questions, targets, masked = several_turns(model)
    got = losses(model, family, prefixes, targets, masked, objective, questions=questions).sum()
    pairs = [(prefix, one) for prefix, asked in zip(prefixes, questions, strict=True) for one in asked]
    expected = sum(
        turns_by_hand(model, family, *pair, target, hidden)
        for pair, target, mask in zip(pairs, targets, masked, strict=True)
        for hidden in (mask, ~mask)
    )
    assert got.item() == pytest.approx(expected.item(), abs=1e-5)
    inputs = [*prefixes, *(one for asked in questions for one in asked if len(one))]
    for one, other in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_turn_is_the_same_with_and_without_its_neighbours(model, family):
    prefixes, questions, targets, masked = several_turns(model)
    together = losses(model, family, prefixes, targets, masked, "packed", questions=questions)
    for index in range(3):
        row = slice(index, index + 1)
        alone = losses(
            model, family, prefixes[:1], targets[row], masked[row], "packed", questions=[[questions[0][index]]]
        )
        torch.testing.assert_close(together[row], alone, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_flex_attention_sees_what_the_dense_mask_shows(model):
    prefixes, questions, targets, masked = several_turns(model)
    copies = noisy_copies(model.language.embed_tokens, targets, masked, 9)
    made = lay_out(prefixes, questions, copies, "packed")
    dense, flex = (
        model.language(made.embeds, attention_mask=make(made), position_ids=made.positions)
        for make in (dense_mask, block_mask)
    )
    torch.testing.assert_close(flex, dense, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("objective", ["packed", "prefix", "bidirectional"])
def test_a_gpu_gives_the_cpus_losses_and_gradients(family, objective):
    """Flex-attention compiles for heads of at least 16 channels, the tiny model's have 8: this one is a little wider."""
    wide = tiny_model(family, **({"d_model": 64} if family == "llada" else {"hidden_size": 64}))
    draws = torch.Generator().manual_seed(0)
    prefixes = [torch.randn(length, 64, generator=draws) for length in (300, 140)]
    targets = torch.randint(0, 256, (2, LENGTH), generator=draws)
    masked = torch.rand(2, LENGTH, generator=draws) < 0.5
    found = []
    for device in ("cpu", "cuda"):
        wide.to(device)
        inputs = [prefix.to(device).requires_grad_() for prefix in prefixes]
        loss = losses(wide, family, inputs, targets.to(device), masked.to(device), objective).sum()
        found.append([one.cpu() for one in (loss.detach(), *torch.autograd.grad(loss, inputs))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_copies_are_complementary():
    table = torch.nn.Embedding(10, 1)
    table.weight.data = torch.arange(10.0)[:, None]
    copies = noisy_copies(table, torch.tensor([[3, 4, 5]]), torch.tensor([[True, False, True]]), mask_token_id=9)
    assert copies[0, :, :, 0].tolist() == [[9, 4, 9], [3, 9, 5]]
