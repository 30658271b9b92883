"""Records become examples: targets, and features that are remembered."""

from __future__ import annotations

import pytest
import torch

from shirg.training.examples import FeatureCache, answer_target
from tests.tiny import tiny_model
from tests.training.helpers import RESOLUTION, FakeRecord


@pytest.mark.parametrize(("family", "end"), [("llada", "<|eot_id|>"), ("dream", "<|im_end|>\n")])
def test_targets_are_answer_end_of_turn_and_padding(family, end):
    model = tiny_model(family)
    tokenizer = model.tokenizer
    eos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    end = tokenizer(end, add_special_tokens=False).input_ids
    length = 5 + len(end)
    letters = tokenizer("abcdefgh", add_special_tokens=False).input_ids
    for answer, expected, cut in (
        (" ab ", [*letters[:2], *end, eos, eos, eos], False),
        ("abcde", [*letters[:5], *end], False),
        ("abcdefgh", letters[:length], True),
    ):
        ids, was_cut = answer_target(model, answer, length)
        assert ids.tolist() == expected and was_cut is cut


def test_cache_is_exact_bounded_and_forgets_the_least_used():
    model = tiny_model(shirg={"resolution": RESOLUTION})
    one, two, three = (FakeRecord(name, name) for name in ("one", "two", "three"))
    fresh = model.image_features(one.open_image(), "shirg")
    size = fresh.tokens.nbytes + fresh.pixels.nbytes
    cache = FeatureCache(model, max_bytes=2 * size)
    for record in (one, two, one, three, one, two):
        assert cache.get(record, "shirg").tokens.shape == (1, 64, 16)
        assert cache.nbytes <= 2 * size
    assert (cache.hits, cache.misses) == (2, 4)  # "two" was forgotten for "three"
    assert torch.equal(cache.get(one, "shirg").tokens, fresh.tokens)
    assert cache.get(one, "hd").views == "tiles"
