from __future__ import annotations

import pytest
import torch

from shirg.lavida import PrefixCache
from shirg.lavida.language import rotary_tables
from shirg.lavida.pretraining.loss import prefix_lm_mask
from tests.tiny import tiny_model


def hidden_states(language, embeds: torch.Tensor) -> torch.Tensor:
    """[layers + 1, L, H] of one sequence: what goes into every block, and the normed output of the last."""
    inputs = []
    hooks = [
        layer.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0][0]))
        for layer in language.layers
    ]
    output = language(embeds)[0]
    for hook in hooks:
        hook.remove()
    return torch.stack([*inputs, output])


@torch.no_grad()
def test_llada_forward_equals_the_official_code(reference, llada):
    theirs, embeds = reference.arrays("forward"), reference.arrays("multimodal")["prompt_square_embeds"]
    language, length = llada.language, embeds.shape[1]
    answer = language.embed_tokens(theirs["answer_ids"])
    everything = torch.cat([embeds, answer], dim=1)

    def near(ours, name):
        torch.testing.assert_close(ours, theirs[name], rtol=0, atol=2e-4)

    hidden = language(everything)
    near(language.logits(hidden)[:, length:], "full_logits_answer")
    near(language.logits(hidden)[:, :length:8], "full_logits_prompt_every8")
    near(hidden_states(language, everything)[:, -8:], "hidden_last8")
    cache = PrefixCache()
    near(language.logits(language(embeds, cache=cache))[:, ::8], "prefill_logits_every8")
    near(language.logits(language(answer, cache=cache.freeze())), "cached_logits_answer")
    masked = language.logits(language(everything, prefix_lm_mask(torch.tensor([length]), everything.shape[1])))
    near(masked[:, length:], "prefixlm_logits_answer")
    near(masked[:, :length:8], "prefixlm_logits_prompt_every8")
    near(language.logits(language(language.embed_tokens(theirs["text_ids"]))), "text_logits")


@torch.no_grad()
def test_dream_forward_equals_the_official_code(reference, dream):
    theirs = reference.arrays("dream")
    language, embeds = dream.language, theirs["prompt_embeds"]
    length, answer = embeds.shape[1], dream.language.embed_tokens(theirs["answer_ids"])

    def near(ours, name):
        torch.testing.assert_close(ours, theirs[name], rtol=0, atol=2e-4)

    logits = language.logits(language(torch.cat([embeds, answer], dim=1)))
    near(logits[:, length:], "full_logits_answer")
    near(logits[:, :length:8], "full_logits_prompt_every8")
    cache = PrefixCache()
    near(language.logits(language(embeds, cache=cache))[:, -1:], "prefill_last_logits")
    near(language.logits(language(answer, cache=cache.freeze())), "cached_logits_answer")


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_cached_equals_uncached_under_the_prefix_mask(family, dtype, tolerance):
    language = tiny_model(family).to(dtype).language
    embeds = torch.randn(2, 50, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    cache = PrefixCache()
    language(embeds[:, :40], cache=cache)
    cached = language(embeds[:, 40:], cache=cache.freeze())
    uncached = language(embeds, prefix_lm_mask(torch.tensor([40]), 50))[:, 40:]
    assert cached.dtype == dtype
    torch.testing.assert_close(cached, uncached, rtol=0, atol=tolerance)


@torch.no_grad()
def test_every_position_sees_every_other_and_order_matters():
    language = tiny_model().language
    embeds = torch.randn(1, 6, 32)
    changed = embeds.clone()
    changed[:, 5] += 1
    assert (language(changed) - language(embeds))[0, 0].abs().max() > 1e-4
    assert not torch.allclose(language(embeds.flip(1)).flip(1), language(embeds), atol=1e-3)


@torch.no_grad()
def test_positions_are_only_relative_and_may_be_given():
    language = tiny_model().language
    embeds = torch.randn(1, 6, 32)
    torch.testing.assert_close(
        language(embeds, position_ids=torch.arange(6)[None] + 11), language(embeds), atol=1e-4, rtol=0
    )
    permutation = torch.tensor([3, 1, 0, 2, 5, 4])
    moved = language(embeds[:, permutation], position_ids=permutation[None])
    torch.testing.assert_close(moved, language(embeds)[:, permutation], atol=1e-4, rtol=0)


def test_rotation_is_float32_in_a_bfloat16_model():
    cosine, sine = rotary_tables(torch.tensor([[0, 3001]]), 8, 10000.0)
    assert cosine.dtype == sine.dtype == torch.float32
    assert cosine[0, 1, 0] == torch.tensor(3001.0).cos()
    model = tiny_model().bfloat16()
    assert model.language(torch.randn(1, 5, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_autocast_runs_and_gradients_reach_the_embeddings():
    language = tiny_model().language
    embeds = torch.randn(1, 5, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = language(embeds)
    hidden.float().square().sum().backward()
    assert embeds.grad.abs().min() > 0


def test_checkpointed_blocks_give_the_same_gradient():
    language = tiny_model().language.train()
    embeds = torch.randn(1, 5, 32, requires_grad=True)
    (plain,) = torch.autograd.grad(language(embeds).square().sum(), embeds)
    language.set_gradient_checkpointing(True)
    (checkpointed,) = torch.autograd.grad(language(embeds).square().sum(), embeds)
    torch.testing.assert_close(checkpointed, plain)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_positions_that_nobody_reads_change_no_others(family, masked):
    """Hidden states, gradients and the cache are those of the whole pass."""
    language = tiny_model(family).double().language
    length, start = 9, 5
    mask = torch.rand(2, 1, length, length, generator=torch.Generator().manual_seed(0)) < 0.7
    mask = (mask | torch.eye(length, dtype=torch.bool)) if masked else None
    found = []
    for read_from in (0, start):
        torch.manual_seed(1)
        embeds = torch.randn(2, length, 32, dtype=torch.float64).requires_grad_()
        cache = PrefixCache()
        hidden = language(embeds, mask, cache=cache, read_from=read_from)[:, -(length - start) :]
        hidden.square().sum().backward()
        found.append([hidden, embeds.grad, *cache.keys, *cache.values])
    for whole, part in zip(*found, strict=True):
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-12)
