"""The answer's token ids as the language model is asked to predict them."""

from __future__ import annotations

import torch
from torch import Tensor

from shirg.errors import UserError
from shirg.lavida.prompt import end_of_turn_id


class AnswerTargets:
    """Answers -> [N] ids: the answer, its end of turn, then end-of-text up to N.

    The end-of-text padding is a target like any other: generation denoises a whole block of N positions at once, so
    where the answer ends is something the model has to write itself (LaViDa llava_llada.py:131-132).
    """

    def __init__(self, tokenizer, *, family: str, eos_token_id: int, length: int):
        """
        Args:
            tokenizer: the model's tokenizer.
            family: "llada" or "dream"; decides which token ends a turn.
            eos_token_id: end-of-text, as the model's config has it.
            length: answer positions N.

        Raises:
            UserError: if there is no tokenizer.
        """
        if tokenizer is None:
            raise UserError("model: it has no tokenizer, which training needs; load a folder that holds tokenizer.json")
        end = end_of_turn_id(tokenizer, family)
        self.end_of_turn_id = eos_token_id if end is None else end
        self.tokenizer = tokenizer
        self.eos_token_id = eos_token_id
        self.length = length

    def __call__(self, answer: str) -> tuple[Tensor, bool]:
        """The ids [N] Long of one answer, and whether it had to be cut to fit (a cut answer has no end of turn)."""
        ids = self.tokenizer(answer.strip(), add_special_tokens=False).input_ids + [self.end_of_turn_id]
        padded = ids[: self.length] + [self.eos_token_id] * (self.length - len(ids))
        return torch.tensor(padded, dtype=torch.long), len(ids) > self.length
