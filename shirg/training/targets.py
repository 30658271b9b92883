"""The answer's token ids as the language model is asked to predict them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shirg.errors import UserError
from shirg.lavida.samples import answer_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnswerTargets:
    """Answers -> [N] ids: the answer and its end of turn as LaViDa's own samples have them, then end-of-text up to N.

    The end-of-text padding is a target like any other: generation denoises a whole block of N positions at once, so
    where the answer ends is something the model has to write itself (LaViDa llava_llada.py:131-132).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, *, family: str, eos_token_id: int, length: int):
        """
        Args:
            tokenizer: the model's, None where it has none.
            family: "llada" or "dream".
            eos_token_id: end-of-text, as the model's config has it.
            length: answer positions N.

        Raises:
            UserError: if there is no tokenizer.
        """
        if tokenizer is None:
            raise UserError("model: it has no tokenizer, which training needs; load a folder that holds tokenizer.json")
        self.tokenizer = tokenizer
        self.family = family
        self.eos_token_id = eos_token_id
        self.length = length

    def __call__(self, answer: str) -> tuple[Tensor, bool]:
        """The ids [N] Long of one answer, and whether its end had to be cut off to fit."""
        _header, ids = answer_ids(self.tokenizer, self.family, answer.strip())
        padded = ids[: self.length] + [self.eos_token_id] * (self.length - len(ids))
        return torch.tensor(padded, dtype=torch.long), len(ids) > self.length
