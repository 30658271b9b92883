"""Conversations -> prompts."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from shirg.errors import UserError
from shirg.lavida import prompt
from shirg.lavida.chat import chat_text

if TYPE_CHECKING:
    from shirg.lavida import Lavida
    from shirg.serve.protocol import Message

_tokenizer = threading.Lock()  # a call of a fast tokenizer from two threads can raise "Already borrowed"


@dataclass(frozen=True)
class Prompt:
    """A conversation as ids, with `image_token_index` in the place of each image."""

    ids: Tensor
    """[L]"""
    question_ids: Tensor
    """[Q], the last question, for the relevance of patches."""


def check_turns(messages: Sequence[Message], max_turns: int, max_images: int) -> None:
    """Raise `UserError` for an order of roles that the model was not trained with, or too much of something."""
    if len(messages) > max_turns:
        raise UserError(f"messages: got {len(messages)} turns, at most {max_turns} are taken")
    images = sum(len(message.urls) for message in messages)
    if images > max_images:
        raise UserError(f"messages: got {images} images, at most {max_images} are taken")
    for place, message in enumerate(messages):
        if message.urls and message.role != "user":
            raise UserError(f"messages[{place}]: images are for turns of the user, not of the {message.role}")
        if prompt.IMAGE_MARK in message.text:
            raise UserError(f"messages[{place}]: the text contains {prompt.IMAGE_MARK}; send the image as a part")
    turns = [message.role for message in messages if message.role not in ("system", "developer")]
    wanted = ["user", "assistant"] * (len(turns) // 2) + ["user"]
    if turns != wanted:
        raise UserError(f"messages: got {', '.join(turns) or 'no turn'}, must be user and assistant in turn, user last")


def prompt_of(model: Lavida, messages: Sequence[Message], max_tokens: int) -> Prompt:
    """The prompt of a conversation that `check_turns` accepts.

    One question about one image has the prompt of `Lavida.answer`. The images of a turn come before its text, as in training.
    A system turn replaces the one that LaViDa was trained with.

    Raises:
        UserError: for a last turn without text, or more than `max_tokens` ids.
    """
    if sum(len(message.text) for message in messages) > 32 * max_tokens:  # not worth tokenising
        raise UserError(f"messages: the text is longer than {max_tokens} tokens")
    question = messages[-1].text
    if not question.strip():
        raise UserError(f"messages[{len(messages) - 1}]: the text is empty")
    assert model.tokenizer is not None, "checked when the server starts"
    system = [message.text for message in messages if message.role in ("system", "developer")]
    chat = [{"role": "system", "content": "\n".join(system) or prompt.SYSTEM_TEXT}]
    for message in messages:
        if message.role in ("user", "assistant"):
            marks = f"{prompt.IMAGE_MARK}\n" * len(message.urls)
            chat.append({"role": message.role, "content": marks + message.text})
    with _tokenizer:
        text = chat_text(model.tokenizer, chat, add_generation_prompt=True)
        ids = prompt.tokenize_with_images(model.tokenizer, text, model.config.image_token_index)
        question_ids = model.question_ids(model.prompt_ids(question))
    if len(ids) > max_tokens:
        raise UserError(f"messages: got {len(ids)} tokens of text, at most {max_tokens} are taken")
    return Prompt(ids, question_ids)
