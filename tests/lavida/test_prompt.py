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


def test_image_takes_the_place_of_the_placeholder():
    embedding = torch.nn.Embedding(4, 2)
    image = torch.tensor([[9.0, 9.0], [8.0, 8.0]])
    spliced = prompt.splice(embedding, torch.tensor([1, -200, 3]), [image], -200)
    torch.testing.assert_close(spliced, torch.cat([embedding.weight[1:2], image, embedding.weight[3:]]))
    with pytest.raises(UserError, match="1 image placeholders .* for 2 images"):
        prompt.splice(embedding, torch.tensor([1, -200, 3]), [image, image], -200)


def test_images_take_the_precision_of_the_words():
    model, ids = tiny_model().bfloat16(), torch.tensor([[1, -200, 3]])
    assert model.splice(ids[0], [torch.ones(2, 32)]).dtype == torch.bfloat16
    assert model.generate(ids, image_embeds=[torch.ones(2, 32)], max_new_tokens=2).shape == (1, 2)


def test_inference_prompt_embeddings_equal_the_official_code(reference, llada):
    theirs = reference.arrays("multimodal")
    with torch.no_grad():
        image = llada.encode_images([reference.image("square")], "hd")
        ours = llada.splice(theirs["prompt_square_ids"][0], image)
    torch.testing.assert_close(ours, theirs["prompt_square_embeds"][0], rtol=0, atol=2e-5)
    with torch.no_grad():
        wide = llada.splice(theirs["prompt_wide_ids"][0], llada.encode_images([reference.image("wide")], "hd"))
    assert len(wide) == theirs["prompt_wide_len"]


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
