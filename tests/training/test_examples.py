"""Records become examples: targets, and features that are remembered."""

from __future__ import annotations

import pytest
import torch

from shirg.training.checkpoints import RunState
from shirg.training.examples import ExampleMaker, FeatureCache, answer_target
from shirg.training.plan import make_accelerator, make_plan
from tests.tiny import tiny_model
from tests.training.helpers import RESOLUTION, FakeRecord, loader, small_trainer


@pytest.mark.parametrize(("family", "end"), [("llada", "<|eot_id|>"), ("dream", "<|im_end|>\n")])
def test_targets_are_answer_end_of_turn_and_padding(family, end):
    model = tiny_model(family)
    tokenizer = model.tokenizer
    eos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    end = tokenizer(end, add_special_tokens=False).input_ids
    length = 5 + len(end)
    letters = tokenizer("abcdefgh", add_special_tokens=False).input_ids
    for answer, expected, tokens in (
        (" ab ", [*letters[:2], *end, eos, eos, eos], 2 + len(end)),
        ("abcde", [*letters[:5], *end], length),
        ("abcdefgh", letters[:length], 8 + len(end)),
    ):
        ids, count = answer_target(model, answer, length)
        assert ids.tolist() == expected and count == tokens


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


def test_a_steps_answers_are_padded_to_its_longest_and_a_little(tmp_path):
    trainer = small_trainer(tmp_path, max_answer_tokens=20)
    lengths = {}
    for step in range(60):
        for batches in ([[FakeRecord("a", "p", answers=("1234",)), FakeRecord("b", "p", answers=("1",))]], [[], []]):
            lengths.setdefault(len(batches), []).append(length_of(trainer, batches, step))
    assert set(lengths[1]) == {5 + 1 + more for more in range(5)}  # four letters and the end of turn
    assert [length - 5 for length in lengths[1]] == lengths[2]  # the step decides how many more
    long = [[FakeRecord("c", "p", answers=("1" * 18,))]]
    assert {length_of(trainer, long, step) for step in range(20)} == {20}
    full = small_trainer(tmp_path / "full", answer_padding="full", max_answer_tokens=20)
    assert length_of(full, [[]], 0) == 20


def length_of(trainer, micro_batches, step) -> int:
    accelerator, precision = make_accelerator("no", trainer.model.device)
    data = loader([FakeRecord("a", "p")])
    plan = make_plan(trainer.config, trainer.model, data, None, accelerator, precision, started_from=None)
    maker = ExampleMaker(plan, trainer.model, FeatureCache(trainer.model, 0), RunState())
    return maker.step_length(micro_batches, accelerator, step)
