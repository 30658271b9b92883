"""Questions -> prompt ids with an image placeholder -> embeddings with the image in its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from shirg.errors import ItemError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE_MARK = "<image>"
SYSTEM_TEXT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
"""System turn that LaViDa was trained with (llava/conversation.py:403,480)."""

END_OF_TURN = {"llada": "<|eot_id|>", "dream": "<|im_end|>"}


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase, family: str) -> int | None:
    """Id of the token that ends a turn, or None if the tokenizer has none."""
    found = tokenizer.convert_tokens_to_ids(END_OF_TURN[family])
    return found if isinstance(found, int) and found != tokenizer.unk_token_id else None


def question_marks(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that end a question, for `question_part`: every special token, and what ends a turn in either family.

    All that the tokenizer adds as special counts: LLaDA's marks of turns play no role in its config, so that
    `all_special_ids` lacks them. The unknown token is none of them; it stands for a word.
    """
    added = (id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special)
    ends = (end_of_turn_id(tokenizer, family) for family in END_OF_TURN)
    return known_ids({*added, *tokenizer.all_special_ids, *ends} - {tokenizer.unk_token_id})


def known_ids(ids: Iterable[int | None]) -> frozenset[int]:
    """The ids without the None of tokens that a tokenizer or config does not have."""
    return frozenset(id_ for id_ in ids if id_ is not None)


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
    """The text of ids."""
    text = tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
    assert isinstance(text, str), "a list of texts is for several lists of ids"
    return text


def chat_text(
    tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]], *, add_generation_prompt: bool = False
) -> str:
    """The chat's turns {"role", "content"} as the tokenizer's template writes them."""
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=add_generation_prompt)
    assert isinstance(text, str), "ids are for tokenize=True"
    return text


def prompt_text(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """The chat that asks `question` about one image, ready for the answer (LaViDa conversation.py:98-110).

    Raises:
        ItemError: for an empty question, or one that marks several images.
    """
    if not isinstance(question, str) or not question.strip():
        raise ItemError(f"question must be a non-empty text; got {question!r}")
    marks = question.count(IMAGE_MARK)
    if marks > 1:
        raise ItemError(f"question marks {marks} images with {IMAGE_MARK}; one image is asked about at a time")
    if not marks:
        question = f"{IMAGE_MARK}\n{question}"
    chat = [{"role": "system", "content": SYSTEM_TEXT}, {"role": "user", "content": question}]
    return chat_text(tokenizer, chat, add_generation_prompt=True)


def tokenize_with_images(tokenizer: PreTrainedTokenizerBase, text: str, image_token_index: int) -> Tensor:
    """Ids of `text` [L] with a placeholder for every `<image>`; the pieces between are tokenised on their own.

    When the text begins with the tokenizer's BOS, the first id of every later piece is dropped too: the official code
    takes it for a BOS that the tokenizer put there (LaViDa mm_utils.py:347-366). For LLaDA's prompt that is the
    newline after the image, so the models never saw one at inference.
    """
    pieces = [tokenizer(piece).input_ids for piece in text.split(IMAGE_MARK)]
    skip = int(bool(pieces[0]) and pieces[0][0] == tokenizer.bos_token_id)
    ids = list(pieces[0])
    for piece in pieces[1:]:
        ids += [image_token_index, *piece[skip:]]
    return torch.tensor(ids, dtype=torch.long)


def rows_of(input_ids: Tensor | Sequence[Tensor], attention_mask: Tensor | None = None) -> list[Tensor]:
    """Prompts [B, L] in one tensor, those of its ids for which the mask [B, L] is not 0, or [L_i] each, as a list.

    Raises:
        UserError: unless there is at least one prompt, and one id in each, or for a mask that does not fit.
    """
    if isinstance(input_ids, Tensor):
        if input_ids.ndim != 2 or 0 in input_ids.shape:
            raise UserError(f"input_ids must be [batch, length], both at least 1; got shape {list(input_ids.shape)}")
        return list(input_ids) if attention_mask is None else _unpadded(input_ids, attention_mask)
    if attention_mask is not None:
        raise UserError("attention_mask: a list of prompts has no padding; leave the mask out")
    shapes = [list(row.shape) for row in input_ids]
    if not shapes or any(len(shape) != 1 or shape[0] < 1 for shape in shapes):
        raise UserError(f"input_ids must be a list of prompts [length], at least 1 of length 1; got shapes {shapes}")
    return list(input_ids)


def _unpadded(input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
    if attention_mask.shape != input_ids.shape:
        raise UserError(
            f"attention_mask: got shape {list(attention_mask.shape)}, must be that of input_ids, {list(input_ids.shape)}"
        )
    real = attention_mask.to(input_ids.device).bool()
    if not real.any(dim=1).all():
        raise UserError("attention_mask: got a row without any id, must leave at least one in every prompt")
    return [row[kept] for row, kept in zip(input_ids, real, strict=True)]


def splice(embed_tokens: nn.Embedding, input_ids: Tensor, images: Sequence[Tensor], image_token_index: int) -> Tensor:
    """Embeddings [P, H] of `input_ids` [L] in which each placeholder gives way to its image's embeddings [n, H].

    In the precision of the words, whatever that of the images is.

    Raises:
        UserError: if placeholders and images differ in number.
    """
    places = (input_ids == image_token_index).nonzero().flatten().tolist()
    if len(places) != len(images):
        raise UserError(
            f"input_ids hold {len(places)} image placeholders ({image_token_index}) for {len(images)} images"
        )
    parts, start = [], 0
    for place, image in zip(places, images, strict=True):
        parts += [embed_tokens(input_ids[start:place]), image.to(embed_tokens.weight.dtype)]
        start = place + 1
    return torch.cat([*parts, embed_tokens(input_ids[start:])])


def question_part(input_ids: Tensor, image_token_index: int, marks: frozenset[int]) -> Tensor:
    """The ids [L] between the last image placeholder and the first of `marks`: what is asked about the image."""
    ids = input_ids.tolist()
    start = max((place for place, id_ in enumerate(ids) if id_ == image_token_index), default=-1) + 1
    end = next((place for place in range(start, len(ids)) if ids[place] in marks), len(ids))
    return input_ids[start:end]


_FUNCTION_WORDS = (
    "a an and are as at be by did do does for from give given has have how in is it its many much of on or read say says show "
    "shown that the their there these this those to was were what when where which who whose why will with you"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English words that questions are built of and that name nothing to look for."""


def naming_part(question_ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The ids of a question [L] that can name something on the page; all of them where none can.

    Function words and single signs go. Print is full of them: a page's every "the" would be lifted with what is asked for.
    Models read whole questions all the same; this is for comparing words with patches one by one.
    """
    texts = [text_of(tokenizer, [number]).strip().lower() for number in question_ids.tolist()]
    names = [text not in FUNCTION_WORDS and not (text.isascii() and len(text) < 2) for text in texts]
    return question_ids[torch.tensor(names, device=question_ids.device)] if any(names) else question_ids
