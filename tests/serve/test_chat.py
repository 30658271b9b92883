"""Conversations become the prompts that the model was trained with."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="shirg serve needs the extra `serve`")

from shirg.errors import UserError
from shirg.serve.chat import check_turns, prompt_of
from shirg.serve.protocol import Message
from tests.serve.running import question
from tests.tiny import tiny_model


def turns(*given: tuple[str, object]) -> list[Message]:
    return [Message.model_validate({"role": role, "content": content}) for role, content in given]


PAGE = question("What is it?", "data:,")[0]["content"]


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_one_question_has_the_prompt_of_the_library(family):
    model = tiny_model(family)
    for content in (PAGE, PAGE[::-1]):  # the image comes first, wherever the client put it
        found = prompt_of(model, turns(("user", content)), 1000)
        assert found.ids.tolist() == model.prompt_ids("What is it?").tolist()
        assert found.question_ids.tolist() == model.question_ids(found.ids).tolist()


def test_a_conversation_turn_by_turn():
    model = tiny_model()
    chat = turns(("system", "Be brief."), ("user", PAGE), ("assistant", "A page."), ("user", "Whose?"))
    check_turns(chat, 4, 1)
    found = prompt_of(model, chat, 1000)
    place = model.config.image_token_index
    assert found.ids.tolist().count(place) == 1
    before, after = (
        model.tokenizer.decode(part)
        for part in (found.ids[: found.ids.tolist().index(place)], found.ids[found.ids.tolist().index(place) + 1 :])
    )
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert before == f"<|startoftext|>{head.format('system')}Be brief.<|eot_id|>{head.format('user')}"
    assert after == (  # the newline after the image is lost in the official tokenisation, too
        f"What is it?<|eot_id|>{head.format('assistant')}A page.<|eot_id|>{head.format('user')}Whose?<|eot_id|>"
        f"{head.format('assistant')}"
    )
    assert model.tokenizer.decode(found.question_ids) == "Whose?"


def test_a_question_without_an_image():
    found = prompt_of(tiny_model(), turns(("user", "Hello?")), 1000)
    assert tiny_model().config.image_token_index not in found.ids.tolist()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([("user", "a"), ("user", "b")], "got user, user, must be user and assistant in turn"),
        ([("user", "a"), ("assistant", "b")], "got user, assistant"),
        ([("system", "a")], "got no turn"),
        ([("user", "a"), ("assistant", PAGE), ("user", "b")], r"messages\[1\]: images are for turns of the user"),
        ([("user", PAGE), ("assistant", "a"), ("user", PAGE)], "got 2 images, at most 1"),
        ([("user", "a"), ("assistant", "b")] * 2 + [("user", "c")], "got 5 turns, at most 4"),
    ],
)
def test_what_the_model_was_not_trained_with(given, words):
    with pytest.raises(UserError, match=words):
        check_turns(turns(*given), 4, 1)
