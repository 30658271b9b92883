"""Questions and answers -> token ids of LaViDa's chats, with a placeholder for the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shirg.errors import ItemError
from shirg.lavida.chat import chat_text, decode, question_end_ids, stop_ids, turn_text
from shirg.lavida.config import LavidaConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE_MARK = "<image>"
SYSTEM_TEXT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
"""System turn that LaViDa was trained with (llava/conversation.py:403,480)."""

ANSWER_SLOT = "[[answer]]"


def prompt_text(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """The chat that asks `question` about one image, up to the start of the answer (LaViDa conversation.py:98-110).

    Raises:
        ItemError: for an empty question, or one with several `<image>`.
    """
    if not isinstance(question, str) or not question.strip():
        raise ItemError(f"question must be a non-empty text; got {question!r}")
    marks = question.count(IMAGE_MARK)
    if marks > 1:
        raise ItemError(f"question contains {IMAGE_MARK} {marks} times; a question is about one image")
    if not marks:
        question = f"{IMAGE_MARK}\n{question}"
    chat = [{"role": "system", "content": SYSTEM_TEXT}, {"role": "user", "content": question}]
    return chat_text(tokenizer, chat, add_generation_prompt=True)


def answer_ids(tokenizer: PreTrainedTokenizerBase, family: str, answer: str) -> tuple[list[int], list[int]]:
    """Ids of an assistant turn: those of its header, and those of the answer and its end of turn.

    For Dream the end includes the newline that its template puts after every turn. The turn is tokenised as a whole, since the
    last newline of the header may be another token without a text after it. LaViDa has 6 header ids for LLaDA and 3 for Dream
    (train.py:856-858, 989-991); here they are counted in the text, which gives the same for its tokenizers.
    """
    header = turn_text(tokenizer, family, "assistant", ANSWER_SLOT).partition(ANSWER_SLOT)[0]
    text = turn_text(tokenizer, family, "assistant", answer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    count = sum(start < len(header) for start, _end in encoded["offset_mapping"])
    return encoded["input_ids"][:count], encoded["input_ids"][count:]


def tokenize_with_images(tokenizer: PreTrainedTokenizerBase, text: str, image_token_index: int) -> Tensor:
    """Ids of `text` [L] with a placeholder for every `<image>`; the pieces between are tokenised separately.

    If the text begins with the tokenizer's BOS, the first id of every later piece is dropped: the official code assumes that
    the tokenizer put a BOS there (LaViDa mm_utils.py:347-366). In LLaDA's prompt it is the newline after the image, so the
    models never see it in inference.
    """
    pieces = [tokenizer(piece).input_ids for piece in text.split(IMAGE_MARK)]
    skip = int(bool(pieces[0]) and pieces[0][0] == tokenizer.bos_token_id)
    ids = list(pieces[0])
    for piece in pieces[1:]:
        ids += [image_token_index, *piece[skip:]]
    return torch.tensor(ids, dtype=torch.long)


def question_ids(input_ids: Tensor, config: LavidaConfig, tokenizer: PreTrainedTokenizerBase | None) -> Tensor:
    """The part of a prompt [L] after its last image placeholder and before the end of the question."""
    end_ids = stop_ids(config, tokenizer)
    if tokenizer is not None:  # some templates begin the answer without an end of the question's turn
        end_ids |= question_end_ids(tokenizer)
    return question_part(input_ids, config.image_token_index, end_ids)


def question_part(input_ids: Tensor, image_token_index: int, end_ids: frozenset[int]) -> Tensor:
    """The ids of a prompt [L] between the last image placeholder and the first of `end_ids`: the question about the image."""
    ids = input_ids.tolist()
    start = max((place for place, id_ in enumerate(ids) if id_ == image_token_index), default=-1) + 1
    end = next((place for place in range(start, len(ids)) if ids[place] in end_ids), len(ids))
    return input_ids[start:end]


_FUNCTION_WORDS = (
    "a an and are as at be by did do does for from give given has have how in is it its many much of on or read say says show "
    "shown that the their there these this those to was were what when where which who whose why will with you"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English words of questions that name nothing on a page."""


def content_words(question_ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The ids of a question [L] without function words and single ASCII characters; all ids if none would be left.

    For the comparison of single words with patches, where every "the" of a page would match. The model reads the whole question.
    """
    texts = [decode(tokenizer, [number]).strip().lower() for number in question_ids.tolist()]
    names = [text not in FUNCTION_WORDS and not (text.isascii() and len(text) < 2) for text in texts]
    return question_ids[torch.tensor(names, device=question_ids.device)] if any(names) else question_ids
