"""An answer while it fills in, as text: which of its tokens are masks still, which are new, which were there before."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from shirg.lavida.prompt import decode

if TYPE_CHECKING:
    from shirg.lavida.model import Lavida

State = Literal["masked", "new", "kept", "new-unsaid", "unsaid"]
"""Of a token: still masked; committed by the last step, or earlier; the same for what is no text, as the end of a turn."""


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one state."""

    state: State
    tokens: int
    text: str
    """What they say; empty for masks and for what is no text."""


class Filling:
    """Follows the tokens of one answer of `model`, which has a tokenizer, from step to step."""

    def __init__(self, model: Lavida):
        assert model.tokenizer is not None, "there is no text to follow"
        self.tokenizer, self.mask_token_id = model.tokenizer, model.config.mask_token_id
        self.unsaid = set(self.tokenizer.all_special_ids) | model.stop_ids
        self.ids: list[int] = []
        """The tokens after the last step."""

    def runs(self, tokens: Tensor) -> list[Run]:
        """The next step, which ended with `tokens` [1, N]; before the first one everything was masked."""
        ids = tokens[0].tolist()
        before = self.ids or [self.mask_token_id] * len(ids)
        self.ids = ids
        states = [self._state(token, old) for token, old in zip(ids, before, strict=True)]
        runs = []
        for state, pairs in itertools.groupby(zip(states, ids, strict=True), key=lambda pair: pair[0]):
            run = [token for _, token in pairs]
            runs.append(Run(state, len(run), decode(self.tokenizer, run) if state in ("new", "kept") else ""))
        return runs

    def _state(self, token: int, before: int) -> State:
        if token == self.mask_token_id:
            return "masked"
        new = before == self.mask_token_id
        if token in self.unsaid:
            return "new-unsaid" if new else "unsaid"
        return "new" if new else "kept"
