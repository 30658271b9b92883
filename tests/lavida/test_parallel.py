"""Parallel decoding: steps that commit every confident prediction."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shirg.errors import UserError
from shirg.lavida.diffusion.generation import GenerationSettings, confident, denoise
from tests.tiny import tiny_model

NO = -torch.inf
SCORES = torch.tensor([[0.95, NO, 0.91, 0.5], [0.2, 0.8, NO, 0.3], [NO, NO, NO, NO]])


def test_threshold_by_hand():
    assert confident(SCORES, 0.9, None).tolist() == [
        [True, False, True, False],
        [False, True, False, False],  # none is above, so the best one
        [False, False, False, False],
    ]


def test_factor_by_hand():
    """The n-th best needs 1 - 1 / (n + 1): the first nothing, the second 2/3, the third 3/4."""
    assert confident(SCORES, None, 1.0).tolist() == [
        [True, False, True, False],
        [False, True, False, False],
        [False, False, False, False],
    ]
    assert confident(SCORES, None, 2.1)[0].tolist() == [True, False, True, True]  # 0.5 >= 1 - 2.1 / 4


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_lower_threshold_commits_no_fewer(scores, first, second):
    row = torch.tensor([scores], dtype=torch.float64)
    low, high = (confident(row, one, None)[0] for one in sorted((first, second)))
    assert high.any() and bool((low | ~high).all())
    assert set(row[0, low].tolist()) - {row.max().item()} == {one for one in scores if one >= min(first, second)} - {
        max(scores)
    }


def logits_of(confidences: list[float]):
    """A model whose prediction at each position is token 1 with this probability, of a vocabulary of 3, and never the mask, 2."""
    odds = torch.tensor(confidences, dtype=torch.float64)
    row = torch.stack([(1 - odds).log(), odds.log(), torch.full_like(odds, -1e9)], dim=-1)
    return lambda tokens: row.expand(len(tokens), -1, -1)


@pytest.mark.parametrize(
    ("keywords", "steps"), [({"threshold": 0.9}, 3), ({"threshold": 0.5}, 1), ({}, 4), ({"factor": 0.3}, 3)]
)
def test_steps_by_hand(keywords, steps):
    counted = []
    settings = GenerationSettings(2, max_new_tokens=4, **keywords)
    masks = torch.full((1, 4), 2)
    found = denoise(
        logits_of([0.95, 0.92, 0.8, 0.7]), masks, settings, on_step=lambda number, _: counted.append(number)
    )
    assert found.tolist() == [[1, 1, 1, 1]] and counted[-1] == steps


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("keywords", [{"threshold": 0.05}, {"factor": 3.0}], ids=str)
def test_rows_are_as_alone_and_need_fewer_steps(family, keywords):
    model = tiny_model(family).to(torch.float64)
    prompts = [torch.arange(5, 9 + 3 * number) for number in range(3)]
    steps: list[int] = []
    together = model.generate(prompts, **keywords, on_step=lambda number, _: steps.append(number))
    alone = [model.generate(prompt[None], **keywords)[0] for prompt in prompts]
    assert torch.equal(together, torch.stack(alone)) and steps[-1] < 32
    assert not (together == model.config.mask_token_id).any()


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"threshold": 0.0}, "threshold: got 0.0, must be a number above 0 and at most 1"),
        ({"factor": -1.0}, "factor: got -1.0"),
        ({"threshold": 0.9, "factor": 1.0}, "threshold=0.9 and factor=1.0: give one of them"),
        ({"threshold": 0.9, "steps": 4}, "threshold=0.9 and steps=4: give one of them"),
        ({"factor": 0.9, "schedule": "shift"}, "factor=0.9 and schedule=shift: give one of them"),
        ({"threshold": 0.9, "remasking": "entropy"}, "threshold: .*its confidence is no probability"),
    ],
)
def test_what_does_not_fit_is_refused(family, keywords, words):
    with pytest.raises(UserError, match=words):
        tiny_model(family).generate(torch.tensor([[1, 2]]), **keywords)
