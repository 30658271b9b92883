"""Conversations -> samples -> batches, as LaViDa prepares its training data.

TR is LaViDa's llava/train/train.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from shirg.errors import UserError
from shirg.lavida.chat import turn_text
from shirg.lavida.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from shirg.lavida.prompt import IMAGE_MARK, SYSTEM_TEXT, answer_ids, tokenize_with_images

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXTRA_PAD = 128
"""A batch is padded by 0 to 127 positions beyond its longest sample (TR:1559-1612)."""


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
        self.attention_mask = self.attention_mask.bool()  # integers would index


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

    Targets are the answer and the template's end of the turn (TR:761-885 for LLaDA, TR:889-1018 for Dream).

    Args:
        family: "llada" or "dream".
        conversation: entries {"from": "human" or "gpt", "value": text}, in LLaVA's format; see `image_first`.
        has_image: if the question has no `<image>`, an image is put before it. Without an image `<image>` is ordinary text.
        turn: index of the question in `conversation`; None draws one of those with an answer.
        generator: random generator of that draw; None is torch's own.

    Raises:
        UserError: if the conversation has no question with an answer, or `turn` is not one.
    """
    pairs = [
        place
        for place, (asked, answered) in enumerate(zip(conversation, conversation[1:], strict=False))
        if (asked.get("from"), answered.get("from")) == ("human", "gpt")
    ]
    if turn not in (None, *pairs) or not pairs:
        roles = [entry.get("from") for entry in conversation]
        raise UserError(
            f"turn={turn} of a conversation between {roles}: expected a 'human' entry followed by a 'gpt' entry; "
            f"such are at {pairs}"
        )
    if turn is None:
        turn = pairs[int(torch.randint(len(pairs), (1,), generator=generator))]
    question, answer = conversation[turn]["value"], conversation[turn + 1]["value"]
    if has_image and IMAGE_MARK not in question:
        question = f"{IMAGE_MARK}\n{question}"
    ids = tokenizer(turn_text(tokenizer, family, "system", SYSTEM_TEXT), add_special_tokens=False).input_ids
    # LaViDa tokenises `<image>` as one token, so the text before and after it is tokenised separately.
    asked = turn_text(tokenizer, family, "user", question)
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
    """A sample of stage 1: the image, then its caption and a newline as targets; the question is ignored (TR:1181-1200).

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
    """A copy in which every entry with one `<image>` has it at its start, as LaViDa's data loader does (TR:390-415)."""
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
    """Samples padded on the right to the longest plus `extra_pad` positions (TR:1559-1612).

    Padding is end of text and a target, see `batches.end_of_text_targets`; the extra positions train answers that end anywhere
    in the block that generation denoises.

    Args:
        pad_token_id: the tokenizer's. LaViDa's tokenizers pad with the end of text.
        max_length: samples are truncated to it; LaViDa's is the tokenizer's `model_max_length`.
        extra_pad: positions beyond the longest sample, 0 if negative; None draws from -128 .. 127 as LaViDa does.
        generator: random generator of that draw; None is torch's own.

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
