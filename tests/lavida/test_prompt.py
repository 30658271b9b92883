from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from shirg.errors import UserError
from shirg.lavida import Lavida, prompt
from shirg.nano.recipe.tokenizer import build_tokenizer
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_prompts_equal_the_official_code(reference, family):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(reference.folder / f"tokenizer_{family}")
    (case,) = [case for case in reference.json("text")["prompts"] if case["template"] == family]
    assert prompt.prompt_text(tokenizer, case["question"].removeprefix("<image>\n")) == case["prompt"]
    assert prompt.prompt_text(tokenizer, case["question"]) == case["prompt"]
    ids = prompt.tokenize_with_images(tokenizer, case["prompt"], -200)
    assert ids.tolist() == case["input_ids"]


@pytest.mark.parametrize("family", ["llada", "dream", "nano"])
def test_question_part_is_the_question(family):
    model = Lavida.from_pretrained("nano") if family == "nano" else tiny_model(family)  # the nano ends no turn
    ids = model.question_ids(model.prompt_ids("How much?"))
    assert model.tokenizer.decode(ids).strip() == "How much?"
    assert prompt.question_part(torch.tensor([5, 6]), -200, frozenset({6})).tolist() == [5]


@pytest.mark.parametrize("question", ["", "  \n", None])
def test_empty_questions_are_refused(question):
    with pytest.raises(UserError, match="question"):
        prompt.prompt_text(tiny_tokenizer(), question)
    with pytest.raises(UserError, match="<image> 2 times"):
        prompt.prompt_text(tiny_tokenizer(), "<image> or <image>?")


@pytest.mark.parametrize(
    ("question", "named"),
    [("\nWhat is the Total?", "Total"), ("How much is Olives?", "Olives"), ("What is it?", "What is it?")],
)
def test_function_words_and_single_signs_name_nothing(question, named):
    tokenizer = build_tokenizer()
    ids = torch.tensor(tokenizer(question)["input_ids"])
    assert tokenizer.decode(prompt.content_words(ids, tokenizer)) == named
