"""Conversations -> samples -> batches, as LaViDa prepares its training data.

TR stands for LaViDa's llava/train/train.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from shirg.errors import UserError
from shirg.lavida.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from shirg.lavida.prompt import IMAGE_MARK, SYSTEM_TEXT, chat_text, tokenize_with_images

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENINGS = {
    "llada": ("<|startoftext|>",),
    "dream": ("<|beginoftext|>", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"),
}
"""What a family's template puts before the first turn, taken off a turn that is rendered alone (TR:850-854, 985-987)."""
CLOSINGS = {"llada": "<|start_header_id|>assistant<|end_header_id|>\n\n", "dream": ""}
"""What LLaDA's template puts behind the last turn even where nothing is to be generated (TR:851-854)."""
EXTRA_PAD = 128
"""A batch is padded by up to one less than this beyond its longest sample (TR:1559-1612)."""
HOLE = "[[answer]]"


@dataclass
class Sample:
    """One conversation as ids [L] Long, `IMAGE_TOKEN_INDEX` where an image goes, and labels [L] Long, -100 where
    nothing is to be predicted."""

    input_ids: Tensor
    labels: Tensor


@dataclass
class Batch:
    """Samples of one length."""

    input_ids: Tensor
    """[B, L] Long."""
    labels: Tensor
    """[B, L] Long, -100 where nothing is to be predicted."""
    attention_mask: Tensor
    """[B, L] Boolean, False at padding; the 0 and 1 of a tokenizer become it."""

    def __post_init__(self) -> None:
        self.attention_mask = self.attention_mask.bool()  # numbers would be taken for places


def chat_sample(
    tokenizer: PreTrainedTokenizerBase,
    family: str,
    conversation: Sequence[Mapping[str, str]],
    *,
    has_image: bool = True,
    turn: int | None = None,
    generator: torch.Generator | None = None,
    image_token_index: int = IMAGE_TOKEN_INDEX,
) -> Sample:
    """A sample of stages 2 and 3: LaViDa's system turn, then one question of the conversation and its answer.

    Targets are the answer and what the template ends it with (TR:761-885 for LLaDA, TR:889-1018 for Dream).

    Args:
        family: "llada" or "dream".
        conversation: entries {"from": "human" or "gpt", "value": text}, in LLaVA's format; see `image_first`.
        has_image: put an image before a question that does not mark its place with `<image>`. Without an image that mark
            is text like any other.
        turn: place in `conversation` of the question; None draws one of those that have an answer.
        generator: source of that draw; None is torch's own.

    Raises:
        UserError: if the conversation has no question with an answer, or `turn` is none.
    """
    pairs = [
        place
        for place, (asked, answered) in enumerate(zip(conversation, conversation[1:], strict=False))
        if (asked.get("from"), answered.get("from")) == ("human", "gpt")
    ]
    if turn not in (None, *pairs) or not pairs:
        roles = [entry.get("from") for entry in conversation]
        raise UserError(
            f"turn={turn} of a conversation between {roles}: expected a 'human' entry with a 'gpt' entry behind it; "
            f"such are at {pairs}"
        )
    if turn is None:
        turn = pairs[int(torch.randint(len(pairs), (1,), generator=generator))]
    question, answer = conversation[turn]["value"], conversation[turn + 1]["value"]
    if has_image and IMAGE_MARK not in question:
        question = f"{IMAGE_MARK}\n{question}"
    ids = tokenizer(_turn_text(tokenizer, family, "system", SYSTEM_TEXT), add_special_tokens=False).input_ids
    # The mark is a token of its own while LaViDa tokenises, so what stands before and after it never shares one.
    asked = _turn_text(tokenizer, family, "user", question)
    first, *rest = asked.split(IMAGE_MARK) if has_image else [asked]
    ids += tokenizer(first, add_special_tokens=False).input_ids
    for piece in rest:
        ids += [image_token_index, *tokenizer(piece, add_special_tokens=False).input_ids]
    header, target = answer_ids(tokenizer, family, answer)
    labels = [IGNORE_INDEX] * (len(ids) + len(header)) + target
    return Sample(torch.tensor(ids + header + target), torch.tensor(labels))


def plain_sample(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, str]],
    image_token_index: int = IMAGE_TOKEN_INDEX,
) -> Sample:
    """A sample of stage 1: the image, then its caption and a newline as targets, whatever was asked (TR:1181-1200).

    Raises:
        UserError: unless the conversation is one question about an image, and its answer.
    """
    if len(conversation) != 2 or IMAGE_MARK not in conversation[0]["value"]:
        raise UserError(
            f"conversation of {len(conversation)} entries: expected two, the first with {IMAGE_MARK} in its value"
        )
    text = f"{IMAGE_MARK}{conversation[1]['value']}\n"
    ids = tokenize_with_images(tokenizer, text, image_token_index)
    labels = ids.clone()
    labels[: ids.tolist().index(image_token_index) + 1] = IGNORE_INDEX
    return Sample(ids, labels)


def image_first(conversation: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """A copy in which an entry that marks one image marks it at its start, as LaViDa's data loader has it before it
    makes a sample of either kind (TR:390-415)."""
    moved = []
    for entry in conversation:
        text = entry["value"]
        if text.count(IMAGE_MARK) == 1 and not text.startswith(IMAGE_MARK):
            text = f"{IMAGE_MARK}\n{text.replace(IMAGE_MARK, '').strip()}".strip()
        moved.append({**entry, "value": text})
    return moved


def collate(
    samples: Sequence[Sample],
    pad_token_id: int,
    *,
    max_length: int | None = None,
    extra_pad: int | None = None,
    generator: torch.Generator | None = None,
) -> Batch:
    """Samples padded on the right to the longest and `extra_pad` positions more (TR:1559-1612).

    Padding with the end-of-text id is a real target, see `shirg.lavida.batches.end_of_text_targets`, and the extra
    positions teach that an answer may end anywhere in the block that generation denoises.

    Args:
        pad_token_id: the tokenizer's. LaViDa's tokenizers pad with the end of text.
        max_length: samples are cut to it; LaViDa's is the tokenizer's `model_max_length`.
        extra_pad: positions beyond the longest sample, none if negative; None draws from -128 .. 127 as LaViDa does.
        generator: source of that draw; None is torch's own.

    Raises:
        UserError: without samples.
    """
    if not samples:
        raise UserError("samples: got none, expected at least one")
    if extra_pad is None:
        extra_pad = int(torch.randint(-EXTRA_PAD, EXTRA_PAD, (1,), generator=generator))
    ids = pad_sequence([sample.input_ids[:max_length] for sample in samples], True, pad_token_id)
    labels = pad_sequence([sample.labels[:max_length] for sample in samples], True, IGNORE_INDEX)
    more = (0, max(extra_pad, 0))
    ids = torch.nn.functional.pad(ids, more, value=pad_token_id)
    labels = torch.nn.functional.pad(labels, more, value=IGNORE_INDEX)
    return Batch(ids, labels, ids != pad_token_id)


def answer_ids(tokenizer: PreTrainedTokenizerBase, family: str, answer: str) -> tuple[list[int], list[int]]:
    """An assistant turn as the ids of its header and those behind it: the answer, its end of turn, and for Dream the
    newline that ends every turn of its template.

    The turn is tokenised whole, since a header's last newline may be another token where nothing follows. LaViDa counts 6
    header ids for LLaDA and 3 for Dream (TR:856-858, 989-991); counted in text they are the same for its tokenizers,
    and right for others.
    """
    header = _turn_text(tokenizer, family, "assistant", HOLE).partition(HOLE)[0]
    text = _turn_text(tokenizer, family, "assistant", answer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    count = sum(start < len(header) for start, _end in encoded["offset_mapping"])
    return encoded["input_ids"][:count], encoded["input_ids"][count:]


def _turn_text(tokenizer: PreTrainedTokenizerBase, family: str, role: str, content: str) -> str:
    """One turn on its own. Only the system turn keeps what opens the chat, since it comes first."""
    text = chat_text(tokenizer, [{"role": role, "content": content}])
    if role != "system":
        for opening in OPENINGS[family]:
            text = text.removeprefix(opening)
    return text.removesuffix(CLOSINGS[family])
