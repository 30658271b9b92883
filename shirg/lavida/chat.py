"""The chat of a checkpoint: its tokenizer's template, the ids of special tokens, and text of ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from shirg.errors import UserError
from shirg.lavida.config import FIM_TOKEN, LavidaConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TURN = {"llada": "<|eot_id|>", "dream": "<|im_end|>"}
CHAT_STARTS = {
    "llada": ("<|startoftext|>",),
    "dream": ("<|beginoftext|>", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"),
}
"""What a family's template puts before the first turn; removed from a turn that is rendered alone (LaViDa
train.py:850-854, 985-987)."""
CHAT_ENDS = {"llada": "<|start_header_id|>assistant<|end_header_id|>\n\n", "dream": ""}
"""What LLaDA's template always puts after the last turn (LaViDa train.py:851-854)."""
FILLER_TOKEN = "<|reserved_token_2|>"
"""Token that a checkpoint trained for infilling generates for unused positions (LaViDa llava/train/infill_utils.py:4-5)."""


def required(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """The tokenizer; raises `UserError` if there is none."""
    if tokenizer is None:
        raise UserError("this model came without a tokenizer: use generate with input_ids instead of text")
    return tokenizer


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


def stop_ids(config: LavidaConfig, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """Ids that end an answer: the config's and the tokenizer's end of text, and the tokenizer's end of turn."""
    stops: list[int | None] = [config.eos_token_id]
    if tokenizer is not None:
        stops += [tokenizer.eos_token_id, end_of_turn_id(tokenizer, config.family)]
    return known_ids(stops)


def infill_ids(tokenizer: PreTrainedTokenizerBase, fim_token_id: int | None) -> frozenset[int]:
    """Ids of infilling without text: the control token and the filler."""
    known = tokenizer.get_added_vocab()
    return known_ids((known.get(FIM_TOKEN), known.get(FILLER_TOKEN), fim_token_id))
