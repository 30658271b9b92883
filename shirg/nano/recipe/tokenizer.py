"""The nano's tokenizer: the words that pages use as labels are tokens, everything else is read character by character.

A label as one token lets a question point at the word on the page in one look-up; values stay open, since they are spelled.
"""

from __future__ import annotations

import re
import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from shirg.data.render.lexicon import QUESTION_WORDS, label_words

END, MASK, TURN, USER, ASSISTANT, UNKNOWN = (
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|eot_id|>",
    "<|user|>",
    "<|assistant|>",
    "<|unknown|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|eot_id|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""The system turn is left out: a model this small has no use for instructions."""


def id_of(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token, the unknown one's if it has none."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int), "lists are for lists"
    return found


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words between spaces, otherwise single printable characters; ids are fixed by the sorted word lists."""
    words = sorted(set(label_words()) | set(QUESTION_WORDS))
    pieces = [END, MASK, TURN, USER, ASSISTANT, UNKNOWN, "\n", *string.printable[:95]]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    longest_first = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    alone = rf"(?<![\w.,$/-])(?:{longest_first})(?![\w]|[.,/-]\w)"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{alone}|[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        mask_token=MASK,
        unk_token=UNKNOWN,
        additional_special_tokens=[TURN, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        padding_side="right",
        model_max_length=4096,
        chat_template=CHAT_TEMPLATE,
    )
