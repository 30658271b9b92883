"""Drafts: the beginning of an answer, or its text with gaps that the model fills."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shirg.errors import UserError
from shirg.lavida.config import FIM_TOKEN
from shirg.lavida.prompt import known_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = re.compile(r"\[(?:mask(?::(?P<count>[1-9]\d*))?|(?P<fim>fim))\]")
MALFORMED_MARK = re.compile(r"\[\s*(?:mask|fim)\b[^\]]*\]?", re.IGNORECASE)
FILLER_TOKEN = "<|reserved_token_2|>"
"""Token that a checkpoint trained for infilling generates for unused positions (LaViDa llava/train/infill_utils.py:4-5)."""


@dataclass(frozen=True)
class Draft:
    """The ids of a draft.

    A draft with gaps is a form: the model fills the gaps, and the answer ends with the form. A draft without gaps is the
    beginning of an answer, which the model continues.
    """

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
    def is_form(self) -> bool:
        """Whether it has gaps."""
        return self.mask_token_id in self.ids

    def block(self, length: int, end_of_turn: int, end_of_text: int) -> Tensor:
        """The answer block [1, length] that denoising starts from. After a form come the end of turn and of text, as in
        training; after a beginning come masks.

        Raises:
            UserError: if the draft and one more token do not fit.
        """
        room = length - len(self.ids)
        if room < 1:
            raise UserError(
                f"draft: its {len(self.ids)} tokens leave no room in max_new_tokens={length}; "
                f"use at least {len(self.ids) + 1}"
            )
        rest = [end_of_turn] + [end_of_text] * (room - 1) if self.is_form else [self.mask_token_id] * room
        return torch.tensor([[*self.ids, *rest]])


def _ids_of(piece: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    malformed = MALFORMED_MARK.search(piece)
    if malformed:
        raise UserError(f"draft: cannot read {malformed[0]!r}; write [mask] or [mask:N] with N from 1 on, or [fim]")
    return tokenizer(piece, add_special_tokens=False).input_ids


def starting_tokens(draft: Tensor | None, batch: int, length: int, mask_token_id: int) -> Tensor:
    """Tokens that denoising starts from, Long [batch, length] on the CPU: masks, with a draft's ids at the beginning.

    Raises:
        UserError: for a draft that is not [1 or batch, at most length].
    """
    tokens = torch.full((batch, length), mask_token_id)
    if draft is not None:
        if draft.ndim != 2 or len(draft) not in (1, batch) or draft.shape[1] > length:
            raise UserError(
                f"draft_tokens must be [1 or {batch}, at most {length} (max_new_tokens)]; got {list(draft.shape)}"
            )
        tokens[:, : draft.shape[1]] = draft.to(tokens)
    return tokens


def control_ids(tokenizer: PreTrainedTokenizerBase, fim_token_id: int | None) -> frozenset[int]:
    """Ids of infilling that are no text: the control token and the filler."""
    known = tokenizer.get_added_vocab()
    return known_ids((known.get(FIM_TOKEN), known.get(FILLER_TOKEN), fim_token_id))
