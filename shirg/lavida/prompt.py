"""Text and token ids of LaViDa's chats, and prompts with image placeholders."""

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
CHAT_STARTS = {
    "llada": ("<|startoftext|>",),
    "dream": ("<|beginoftext|>", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"),
}
"""What a family's template puts before the first turn; removed from a turn that is rendered alone (LaViDa
train.py:850-854, 985-987)."""
CHAT_ENDS = {"llada": "<|start_header_id|>assistant<|end_header_id|>\n\n", "dream": ""}
"""What LLaDA's template always puts after the last turn (LaViDa train.py:851-854)."""
ANSWER_SLOT = "[[answer]]"


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase, family: str) -> int | None:
    """Id of the token that ends a turn, or None if the tokenizer has none."""
    found = tokenizer.convert_tokens_to_ids(END_OF_TURN[family])
    return found if isinstance(found, int) and found != tokenizer.unk_token_id else None


def question_end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that end a question: all special tokens but the unknown token, and the ends of turn of both families.

    Special added tokens are included, since `all_special_ids` lacks LLaDA's turn tokens, which its config does not name.
    """
    added = (id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special)
    ends = (end_of_turn_id(tokenizer, family) for family in END_OF_TURN)
    return known_ids({*added, *tokenizer.all_special_ids, *ends} - {tokenizer.unk_token_id})


def known_ids(ids: Iterable[int | None]) -> frozenset[int]:
    """The ids without None, which is the id of a token that a tokenizer or config does not have."""
    return frozenset(id_ for id_ in ids if id_ is not None)


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
    """The text of ids."""
    text = tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
    assert isinstance(text, str), "a list of texts is for several lists of ids"
    return text


def chat_text(
    tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]], *, add_generation_prompt: bool = False
) -> str:
    """The text of turns {"role", "content"} by the tokenizer's template."""
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=add_generation_prompt)
    assert isinstance(text, str), "ids are for tokenize=True"
    return text


def turn_text(tokenizer: PreTrainedTokenizerBase, family: str, role: str, content: str) -> str:
    """The text of one turn alone. Only the system turn, which comes first, keeps the start of the chat."""
    text = chat_text(tokenizer, [{"role": role, "content": content}])
    if role != "system":
        for start in CHAT_STARTS[family]:
            text = text.removeprefix(start)
    return text.removesuffix(CHAT_ENDS[family])


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


def prompt_rows(input_ids: Tensor | Sequence[Tensor], attention_mask: Tensor | None = None) -> list[Tensor]:
    """Prompts [B, L], or a list of prompts [L_i], as a list; positions where `attention_mask` [B, L] is 0 are removed.

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
    """Embeddings [P, H] of `input_ids` [L], with each placeholder replaced by its image's embeddings [n, H].

    The result has the precision of the word embeddings.

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
