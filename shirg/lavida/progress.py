"""The state and text of an answer's tokens after each denoising step."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from shirg.lavida.chat import decode

if TYPE_CHECKING:
    from shirg.lavida.model import Lavida

State = Literal["masked", "new", "kept", "new-special", "special"]
"""Of a token: masked; committed by the last step, or earlier; the same two for tokens without text, such as the end of turn."""


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of the same state."""

    state: State
    tokens: int
    text: str
    """Text of the tokens; empty for masks and special tokens."""


class AnswerProgress:
    """Compares the tokens of one answer with those after the step before.

    Args:
        model: a model with a tokenizer.
    """

    def __init__(self, model: Lavida):
        assert model.tokenizer is not None, "text needs a tokenizer"
        self.tokenizer, self.mask_token_id = model.tokenizer, model.config.mask_token_id
        self.special = set(self.tokenizer.all_special_ids) | model.stop_ids
        self.ids: list[int] = []
        """The tokens after the last step."""

    def spans(self, tokens: Tensor) -> list[Span]:
        """The spans after a step whose result is `tokens` [1, N]; before the first step all tokens were masked."""
        ids = tokens[0].tolist()
        before = self.ids or [self.mask_token_id] * len(ids)
        self.ids = ids
        states = [self._state(token, old) for token, old in zip(ids, before, strict=True)]
        spans = []
        for state, pairs in itertools.groupby(zip(states, ids, strict=True), key=lambda pair: pair[0]):
            members = [token for _, token in pairs]
            text = decode(self.tokenizer, members) if state in ("new", "kept") else ""
            spans.append(Span(state, len(members), text))
        return spans

    def _state(self, token: int, before: int) -> State:
        if token == self.mask_token_id:
            return "masked"
        new = before == self.mask_token_id
        if token in self.special:
            return "new-special" if new else "special"
        return "new" if new else "kept"
