"""Drafts: what is kept, what is filled, and where the answer ends."""

from __future__ import annotations

import pytest
import torch

from shirg.errors import UserError
from shirg.lavida import Lavida
from shirg.lavida.diffusion.dream import DreamSettings, denoise_dream
from shirg.lavida.drafts import Draft
from tests.tiny import tiny_model, tiny_page, tiny_tokenizer

FAMILIES = ["llada", "dream"]
MASK = 261


def ids(text: str) -> list[int]:
    return tiny_tokenizer()(text).input_ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab", [*ids("ab")]),
        ("a[mask]b", [*ids("a"), MASK, *ids("b")]),
        ("[mask:3]", [MASK] * 3),
        ("a [mask:2][fim] b[mask]", [*ids("a "), MASK, MASK, 7, *ids(" b"), MASK]),
        ("a<|mdm_mask|><|eot_id|>", [*ids("a"), MASK, 260]),  # as LaViDa's own demo writes them
        ("[masks] [b]", ids("[masks] [b]")),
    ],
)
def test_drafts_by_hand(text, expected):
    draft = Draft.parse(text, tiny_tokenizer(), MASK, 7)
    assert list(draft.ids) == expected
    assert draft.has_gaps == (MASK in expected)


def test_a_form_is_closed_and_a_beginning_is_open():
    assert Draft((5, MASK, 6), MASK).block(6, 260, 257).tolist() == [[5, MASK, 6, 260, 257, 257]]
    assert Draft((5, 6), MASK).block(4, 260, 257).tolist() == [[5, 6, MASK, MASK]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"draft": " "}, "draft must be a text"),
        ({"draft": 3}, "draft must be a text"),
        ({"draft": "a [mask:0]"}, r"cannot read '\[mask:0\]'; write \[mask\] or \[mask:N\]"),
        ({"draft": "a [Mask: 6] b"}, r"cannot read '\[Mask: 6\]'"),
        ({"draft": "[mask:6"}, r"cannot read '\[mask:6'"),
        ({"draft": "[mask][fim]"}, "this one has no such token"),
        ({"draft": "[mask:8]", "max_new_tokens": 8}, "8 tokens leave no room in max_new_tokens=8; use at least 9"),
        ({"draft": "a", "max_new_tokens": 0}, "max_new_tokens=0"),
        ({"draft": "x" * 32}, "32 tokens leave no room in max_new_tokens=32"),
        ({"draft": "a", "draft_tokens": torch.zeros(1, 2)}, "not both"),
    ],
)
def test_drafts_that_cannot_be_used_are_refused(family, keywords, message):
    with pytest.raises(UserError, match=message):
        tiny_model(family).answer(tiny_page(), "Total?", "lowres", **keywords)


@pytest.mark.parametrize("family", FAMILIES)
def test_forms_come_back_filled(family):
    model, seen = tiny_model(family), []
    said = model.answer(
        tiny_page(),
        "Total?",
        "lowres",
        draft="Total: [mask:3] USD, [mask:40] paid",
        on_step=lambda _number, tokens: seen.append(tokens[0]),
    )
    assert said.startswith("Total: ") and " USD, " in said and said.endswith(" paid")
    (last,) = seen[-1:]
    kept = [*ids("Total: "), *[MASK] * 3, *ids(" USD, "), *[MASK] * 40, *ids(" paid")]
    assert all(old in (MASK, new) for old, new in zip(kept, last.tolist(), strict=False))
    assert len(last) == len(kept) + 1  # grown beyond the model's 32, by the end of the turn
    assert MASK not in last.tolist()


@pytest.mark.parametrize(("block_length", "length"), [(8, 40), (37, 37), (64, 37)])
def test_a_form_takes_whole_blocks(block_length, length):
    seen = []
    said = tiny_model().answer(
        tiny_page(),
        "Total?",
        "lowres",
        draft="Total: [mask:25] USD",
        block_length=block_length,
        on_step=lambda _number, tokens: seen.append(tokens.shape[1]),
    )
    assert said.endswith(" USD") and set(seen) == {length}
    with pytest.raises(UserError, match="max_new_tokens=37 must be a multiple of block_length=8"):
        tiny_model().answer(tiny_page(), "?", "lowres", 9, 37, draft="Total: [mask:25] USD", block_length=8)


@pytest.mark.parametrize("family", FAMILIES)
def test_beginnings_are_continued(family):
    model = tiny_model(family)
    said = model.answer(tiny_page(), "Total?", "lowres", draft="The total", max_new_tokens=20)
    free = model.answer(tiny_page(), "Total?", "lowres", max_new_tokens=20)
    assert said.startswith("The total") and said != free


def test_stops_in_a_gap_end_nothing(monkeypatch):
    model, filled = tiny_model(), iter([*ids("12"), 257, 260, 257, *ids("Z"), 257])

    def generate(*_arguments, draft_tokens, stop_early, **_keywords):
        assert stop_early is False
        return torch.tensor([[next(filled) if token == MASK else token for token in draft_tokens[0].tolist()]])

    monkeypatch.setattr(model, "generate", generate)
    assert model.answer(tiny_page(), "Total?", draft="Total: [mask:4] USD [mask:3]!") == "Total: 12 USD Z!"
    assert model.answer_text(torch.tensor([*ids("12"), 257, *ids(" USD")])) == "12"


def fim_model(reference):
    """A tiny model with the tokenizer of the reference outputs, which has the control tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reference.folder / "tokenizer_llada")
    named = {"mask_token_id": "<|mdm_mask|>", "eos_token_id": "<|endoftext|>", "pad_token_id": "<|endoftext|>"}
    named["fim_token_id"] = "<|reserved_token_1|>"
    numbers = {name: tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    model = tiny_model(tokenizer=False, vocab_size=len(tokenizer), embedding_size=len(tokenizer), **numbers)
    model.tokenizer = tokenizer
    return model


def test_control_tokens_are_kept_and_not_part_of_the_text(reference):
    model, seen = fim_model(reference), []
    fim, filler = model.tokenizer.convert_tokens_to_ids(["<|reserved_token_1|>", "<|reserved_token_2|>"])
    said = model.answer(
        tiny_page(),
        "Total?",
        "lowres",
        draft="Total: [mask:4][fim] USD",
        on_step=lambda _number, tokens: seen.append(tokens[0].tolist()),
    )
    place = len(model.tokenizer("Total: ").input_ids) + 4
    assert {state[place] for state in seen} == {fim}
    assert said.startswith("Total:") and said.endswith(" USD")
    words = model.tokenizer("12 USD").input_ids
    assert model.answer_text(torch.tensor([words[0], filler, words[1], filler, filler, fim, *words[2:]])) == "12 USD"


def test_names_decide_where_the_tokenizer_does_not_call_them_special(reference):
    model = fim_model(reference)
    fillers = model.tokenizer.convert_tokens_to_ids(["<|reserved_token_1|>", "<|reserved_token_2|>"])
    plain = model.tokenizer("12").input_ids
    decode = model.tokenizer.decode
    model.tokenizer.decode = lambda ids, skip_special_tokens: decode(ids)
    assert model.answer_text(torch.tensor([*fillers, *plain, model.config.mask_token_id])) == "12"


@pytest.mark.parametrize("prefix_lm", [True, False])
def test_dream_keeps_a_draft_from_its_first_token_on(prefix_lm):
    model = tiny_model("dream")
    prompt = torch.tensor([[1, 2, 3]]).expand(2, -1)
    free = model.generate(prompt, max_new_tokens=8, prefix_lm=prefix_lm)
    draft = torch.tensor([[65, MASK, 66, MASK], [MASK, 67, MASK, 68]])
    tokens = model.generate(prompt, max_new_tokens=8, draft_tokens=draft, prefix_lm=prefix_lm)
    assert tokens[0, [0, 2]].tolist() == [65, 66] and tokens[1, [1, 3]].tolist() == [67, 68]
    assert (tokens != MASK).all()
    if prefix_lm:  # a masked first token is the prefix's, as without a draft
        assert tokens[1, 0] == free[1, 0]


def test_dream_ends_when_nothing_is_masked():
    calls = []

    def flat(tokens):
        calls.append(1)
        return torch.zeros(*tokens.shape, 8).index_fill(-1, torch.tensor([5]), 1.0)

    settings = DreamSettings(0, max_new_tokens=6, schedule="linear")
    assert denoise_dream(flat, torch.tensor([[1, 2, 3, 4, 0, 6]]), settings).tolist() == [[1, 2, 3, 4, 5, 6]]
    assert len(calls) == 1
    denoise_dream(flat, torch.tensor([[1, 2, 3, 4, 5, 6]]), settings)
    assert len(calls) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_without_gaps_does_not_hurry_the_others(family):
    model, passes = tiny_model(family), []
    draft = torch.tensor([[65] * 6, [65, 66, *[MASK] * 4]])
    model.generate(
        torch.tensor([[1, 2, 3]] * 2),
        draft_tokens=draft,
        max_new_tokens=6,
        schedule="shift",
        on_step=lambda number, _tokens: passes.append(number),
    )
    assert passes == [1, 2, 3, 4]


@torch.no_grad()
def test_the_nano_fills_what_it_reads():
    from shirg.data.render import render_page

    page = render_page("receipt", 3, size=384, text_px=(14.0, 22.0))
    (total,) = next(question.answers for question in page.questions if "Total" in question.question)
    said = Lavida.from_pretrained("nano").answer(page.image, "What is the Total?", draft=f"{total[:-2]}[mask:2] USD")
    assert said.startswith(total[:-2]) and said.endswith(" USD")
