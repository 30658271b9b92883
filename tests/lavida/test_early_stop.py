"""Ending at the end of text: the same answers in fewer passes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.lavida import Lavida
from shirg.lavida.diffusion.dream import DreamSettings, denoise_dream
from shirg.lavida.diffusion.generation import AnswerModel, EarlyStop, GenerationSettings, denoise
from shirg.lavida.diffusion.schedule import SCHEDULES
from shirg.lavida.prefix import Prefix
from tests.tiny import tiny_model, tiny_page

MASK, STOP, OTHER_STOP, END, WORDS = 0, 1, 2, 3, 12
STOPS = EarlyStop(MASK, frozenset({STOP, OTHER_STOP}), END)


@pytest.mark.parametrize(
    ("rows", "reached"),
    [
        ([[5, 6, STOP, MASK]], True),
        ([[STOP, MASK, MASK, MASK]], True),
        ([[5, 6, 7, 8]], True),  # nothing to do
        ([[5, MASK, STOP, MASK]], False),
        ([[5, 6, 7, MASK]], False),
        ([[MASK, STOP, 5, OTHER_STOP]], False),
        ([[5, OTHER_STOP, MASK, STOP], [5, 6, STOP, MASK]], True),
        ([[5, OTHER_STOP, MASK, STOP], [5, MASK, STOP, MASK]], False),
        ([[5, END, MASK, MASK]], False),  # what is filled in need not be a stop
    ],
)
def test_the_end_by_hand(rows, reached):
    tokens = torch.tensor(rows)
    assert STOPS.reached(tokens) is reached
    assert torch.equal(STOPS.fill(tokens), torch.tensor([[token or END for token in row] for row in rows]))


class ToyModel:
    """Logits that depend on every token of a row, and on nothing outside it; counts its calls."""

    def __init__(self, seed: int, length: int, stop_bias: float):
        chance = torch.Generator().manual_seed(seed)
        self.embeds = torch.randn(WORDS, 8, generator=chance)
        self.places = torch.randn(length, 8, generator=chance)
        self.head = torch.randn(8, WORDS, generator=chance)
        self.bias = torch.zeros(WORDS)
        self.bias[[STOP, OTHER_STOP]] = stop_bias
        self.calls = 0

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        hidden = self.embeds[tokens]
        return torch.tanh(hidden + self.places + hidden.mean(1, keepdim=True)) @ self.head + self.bias


def answers(tokens: torch.Tensor) -> list[list[int]]:
    """Each row up to its first stop."""
    stops = torch.isin(tokens, torch.tensor([STOP, OTHER_STOP]))
    ends = [int(row.nonzero()[0]) if row.any() else tokens.shape[1] for row in stops]
    return [row[:end].tolist() for row, end in zip(tokens, ends, strict=True)]


@settings(max_examples=120, deadline=None)
@given(
    family=st.sampled_from(["llada", "dream"]),
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    block=st.sampled_from([2, 4, 8]),
    steps=st.integers(1, 8),
    schedule=st.sampled_from([None, *SCHEDULES]),
    ranking=st.integers(0, 2),
    stop_bias=st.sampled_from([0.0, 1.0, 2.0, 4.0]),
    kept=st.integers(0, 3),
)
def test_answers_are_the_same_and_no_pass_runs_after_the_end(
    family, seed, batch, block, steps, schedule, ranking, stop_bias, kept
):
    tokens = torch.full((batch, 8), MASK)
    tokens[:, 1 : 1 + kept] = torch.randint(1, WORDS, (batch, kept), generator=torch.Generator().manual_seed(seed))

    def run(early_stop):
        model, history = ToyModel(seed, 8, stop_bias), []
        shared = {"mask_token_id": MASK, "max_new_tokens": 8, "schedule": schedule, "early_stop": early_stop}
        keywords = {"on_step": lambda number, state: history.append(state)}
        if family == "llada":
            remasking = ("low_confidence", "entropy", "margin")[ranking]
            setup = GenerationSettings(**shared, block_length=block, total_steps=steps, remasking=remasking)
            return denoise(model, tokens, setup, **keywords), history, model.calls
        setup = DreamSettings(**shared, steps=steps, alg=("maskgit_plus", "entropy", "topk_margin")[ranking])
        return denoise_dream(model, tokens, setup, **keywords), history, model.calls

    whole, history, _ = run(None)
    early, seen, calls = run(STOPS)
    assert answers(early) == answers(whole)
    settled = [STOPS.reached(state) for state in [tokens, *history]]
    passes = settled.index(True) if True in settled else len(history)
    assert calls == len(seen) == passes
    assert not seen or torch.equal(seen[-1], early)
    if settled[passes]:
        assert torch.equal(early, STOPS.fill([tokens, *history][passes]))


def ending_model(family: str, bias: float = 25.0):
    """A tiny model that likes to end its answers."""
    model = tiny_model(family)
    liked = torch.zeros(model.config.body.vocab_size)
    liked[model.config.eos_token_id] = bias
    model.language.lm_head.register_forward_hook(lambda _module, _given, logits: logits + liked)
    return model


def passes_and_texts(model, stop_early: bool, **keywords) -> tuple[int, list[str]]:
    passes = []
    tokens = model.generate(on_step=lambda number, _tokens: passes.append(number), stop_early=stop_early, **keywords)
    assert not stop_early or (tokens != model.config.mask_token_id).all()
    return len(passes), [model.answer_text(row) for row in tokens]


@pytest.mark.parametrize("prefix_lm", [True, False])
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_batch_of_ragged_prompts_has_the_same_texts(family, prefix_lm):
    model = ending_model(family)
    place = model.config.image_token_index
    images = [torch.randn(length, 32, generator=torch.Generator().manual_seed(length)) for length in (3, 9, 6)]
    keywords = {
        "input_ids": torch.tensor([[65, place, 66], [67, place, 68], [69, place, 70]]),
        "image_embeds": images,
        "max_new_tokens": 24,
        "block_length": {"llada": 8, "dream": None}[family],
        "prefix_lm": prefix_lm,
    }
    (few, early), (many, whole) = (passes_and_texts(model, early, **keywords) for early in (True, False))
    assert early == whole
    assert few < many


def test_answer_stops_early_and_generate_does_not():
    model = ending_model("llada", bias=1000.0)  # sure of nothing but the end, at every position: the first is committed

    def passes(ask, *arguments, **keywords):
        numbers = []
        ask(*arguments, on_step=lambda number, _tokens: numbers.append(number), **keywords)
        return len(numbers)

    page, small = tiny_page(), {"mode": "lowres", "max_new_tokens": 8, "block_length": 4}
    assert passes(model.answer, page, "Total?", **small) == 1
    assert passes(model.answer, page, "Total?", stop_early=False, **small) == 8
    assert passes(model.generate, model.prompt_ids("Total?")[None], [page], **small) == 8


@torch.no_grad()
def test_the_nano_has_the_same_texts_in_fewer_steps():
    """Rows of one batch that end in different blocks; prompts and so prefixes differ in length."""
    from shirg.data.render import render_page

    model, page = Lavida.from_pretrained("nano"), render_page("receipt", 3, size=384, text_px=(14.0, 22.0))
    image = model.encode_images([page.image], "lowres")
    rows = [model.splice(model.prompt_ids(question), image) for question in ("What is the Total?", "Customer?")]
    settings_of = {"mask_token_id": model.config.mask_token_id, "max_new_tokens": 32, "block_length": 8}
    early_stop = EarlyStop(model.config.mask_token_id, model.stop_ids, model.config.eos_token_id)

    def run(rows, early_stop):
        answer_model, passes = AnswerModel(model.language, Prefix.of(rows), True, model.vocabulary_size), []
        tokens = torch.full((len(rows), 32), model.config.mask_token_id)
        setup = GenerationSettings(**settings_of, early_stop=early_stop)
        tokens = denoise(answer_model, tokens, setup, on_step=lambda number, _tokens: passes.append(number))
        return len(passes), [model.answer_text(row) for row in tokens]

    alone = [run([row], early_stop) for row in rows]
    assert alone[0][0] < alone[1][0] < 32
    assert run(rows, early_stop) == (alone[1][0], alone[0][1] + alone[1][1])
    assert run(rows, None) == (32, alone[0][1] + alone[1][1])
