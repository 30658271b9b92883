from __future__ import annotations

import torch

from shirg.lavida import PrefixCache
from tests.tiny import tiny_model


@torch.no_grad()
def test_cache_grows_until_it_is_frozen_and_counts_its_bytes():
    language = tiny_model().language
    cache = PrefixCache()
    assert (cache.length, cache.nbytes) == (0, 0)
    embeds = torch.randn(1, 9, 32)
    language(embeds[:, :4], cache=cache)
    language(embeds[:, 4:7], cache=cache)
    assert cache.length == 7
    language(embeds[:, 7:], cache=cache.freeze())
    assert cache.length == 7
    assert cache.nbytes == 2 * 2 * 2 * 7 * 8 * 4  # layers, keys and values, kv heads, positions, width, bytes
    language.bfloat16()
    half = PrefixCache()
    language(embeds[:, :7].bfloat16(), cache=half)
    assert half.nbytes * 2 == cache.nbytes


@torch.no_grad()
def test_a_frozen_cache_serves_answers_of_any_length():
    """Answers are appended to the prefix in a reused buffer; the prefix does not change."""
    language = tiny_model().double().language
    prefix, short, long = (torch.randn(1, count, 32, dtype=torch.float64) for count in (7, 2, 5))
    cache = PrefixCache()
    language(prefix, cache=cache)
    kept = [tensor.clone() for tensor in (*cache.keys, *cache.values)]
    size = cache.freeze().nbytes
    for answer in (short, short + 1, long, short, long + 1):
        fresh = PrefixCache(kept[:2], kept[2:]).freeze()
        assert torch.equal(language(answer, cache=cache), language(answer, cache=fresh))
        assert cache.nbytes == size and cache.length == 7
        assert all(torch.equal(*pair) for pair in zip((*cache.keys, *cache.values), kept, strict=True))


@torch.no_grad()
def test_caches_of_unequal_prefixes_are_padded_with_zeros_on_the_right():
    language = tiny_model().language
    rows = []
    for length in (3, 6):
        rows.append(PrefixCache())
        language(torch.randn(1, length, 32), cache=rows[-1])
    whole = PrefixCache.padded(rows)
    assert whole.length == 6 and whole.keys[0].shape[0] == 2
    for number, row in enumerate(rows):
        assert torch.equal(whole.values[1][number, :, : row.length], row.values[1][0])
        assert not whole.keys[1][number, :, row.length :].any()
