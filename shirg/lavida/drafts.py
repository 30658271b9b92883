"""Drafts: the beginning of an answer, or its text with gaps that the model fills."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shirg.errors import UserError
from shirg.lavida.chat import end_of_turn_id, required
from shirg.lavida.config import LavidaConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = re.compile(r"\[(?:mask(?::(?P<count>[1-9]\d*))?|(?P<fim>fim))\]")
MALFORMED_MARK = re.compile(r"\[\s*(?:mask|fim)\b[^\]]*\]?", re.IGNORECASE)


@dataclass(frozen=True)
class Draft:
    """The ids of a draft. With gaps the answer is the draft with the gaps filled; without, the model continues the draft."""

    ids: tuple[int, ...]
    mask_token_id: int

    @classmethod
    def parse(
        cls, text: str, tokenizer: PreTrainedTokenizerBase, mask_token_id: int, fim_token_id: int | None
    ) -> Draft:
        """Read a draft. `[mask]` is a gap of one token, `[mask:N]` of N tokens, `[fim]` the control token of checkpoints that
        were trained for infilling; the pieces between are tokenised separately, with their special tokens.

        Raises:
            UserError: for an empty draft, a malformed mark, or `[fim]` if the model has no such token.
        """
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"draft must be a text that is not empty; got {text!r}")
        ids: list[int] = []
        end = 0
        for mark in MARK.finditer(text):
            ids += _ids_of(text[end : mark.start()], tokenizer)
            end = mark.end()
            if not mark["fim"]:
                ids += [mask_token_id] * int(mark["count"] or 1)
            elif fim_token_id is None:
                raise UserError("draft: [fim] is for checkpoints trained for infilling; this one has no such token")
            else:
                ids.append(fim_token_id)
        return cls((*ids, *_ids_of(text[end:], tokenizer)), mask_token_id)

    @property
    def has_gaps(self) -> bool:
        """Whether the model fills masks between the draft's words (infilling)."""
        return self.mask_token_id in self.ids

    def block(self, length: int, end_of_turn: int, end_of_text: int) -> Tensor:
        """The answer block [1, length] that denoising starts from. A draft with gaps is followed by the end of turn and of text,
        as in training; one without by masks.

        Raises:
            UserError: if the draft and one more token do not fit.
        """
        room = length - len(self.ids)
        if room < 1:
            raise UserError(
                f"draft: its {len(self.ids)} tokens leave no room in max_new_tokens={length}; "
                f"use at least {len(self.ids) + 1}"
            )
        rest = [end_of_turn] + [end_of_text] * (room - 1) if self.has_gaps else [self.mask_token_id] * room
        return torch.tensor([[*self.ids, *rest]])


def _ids_of(piece: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    malformed = MALFORMED_MARK.search(piece)
    if malformed:
        raise UserError(f"draft: cannot read {malformed[0]!r}; write [mask] or [mask:N] with N from 1 on, or [fim]")
    return tokenizer(piece, add_special_tokens=False).input_ids


@dataclass(frozen=True)
class AnswerBlock:
    """The block of tokens in which an answer is denoised."""

    length: int
    draft_tokens: Tensor | None = None
    """[1, length] with the draft's ids; None without a draft."""
    infill_length: int = 0
    """Number of leading tokens that are a draft with gaps; 0 for other drafts."""


def answer_block(
    draft: str | None,
    max_new_tokens: int | None,
    block_length: int | None,
    config: LavidaConfig,
    tokenizer: PreTrainedTokenizerBase | None,
) -> AnswerBlock:
    """The block for an answer, with the ids of a draft.

    Args:
        draft: see `Draft.parse`.
        max_new_tokens: length of the block; None is `config.answer_tokens`, or more if a draft with gaps needs it, rounded
            up to a multiple of `block_length`.

    Raises:
        UserError: for a draft that cannot be read or does not fit, or without a tokenizer.
    """
    if draft is None:
        return AnswerBlock(config.answer_tokens if max_new_tokens is None else max_new_tokens)
    tokenizer = required(tokenizer)
    parsed = Draft.parse(draft, tokenizer, config.mask_token_id, config.fim_token_id)
    infill_length = len(parsed.ids) if parsed.has_gaps else 0
    length = max_new_tokens
    if length is None:
        length = max(config.answer_tokens, infill_length + 1)
        length += -length % min(max(block_length or 1, 1), length)
    end_of_turn = end_of_turn_id(tokenizer, config.family)
    tokens = parsed.block(length, config.eos_token_id if end_of_turn is None else end_of_turn, config.eos_token_id)
    return AnswerBlock(length, tokens, infill_length)
