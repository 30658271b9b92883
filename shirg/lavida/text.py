"""Between text and ids for one model: questions -> prompts, drafts -> answer blocks, generated ids -> answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from shirg.errors import UserError
from shirg.lavida import prompt
from shirg.lavida.config import LavidaConfig
from shirg.lavida.drafts import Draft, control_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class AnswerBlock:
    """The block of tokens in which an answer is denoised."""

    length: int
    draft_tokens: Tensor | None = None
    """[1, length] with the draft's ids; None without a draft."""
    form_length: int = 0
    """Leading tokens that belong to a draft with gaps."""


@dataclass(frozen=True)
class ChatText:
    """Text of a model with this config and tokenizer. Without a tokenizer only properties and `question_ids` work."""

    config: LavidaConfig
    tokenizer: PreTrainedTokenizerBase | None

    def prompt_ids(self, question: str) -> Tensor:
        """Ids [L] of the chat that asks `question` about one image, with `config.image_token_index` in the image's place.

        Raises:
            UserError: for an empty question, or without a tokenizer.
        """
        tokenizer = self._need_tokenizer()
        text = prompt.prompt_text(tokenizer, question)
        return prompt.tokenize_with_images(tokenizer, text, self.config.image_token_index)

    def question_ids(self, input_ids: Tensor) -> Tensor:
        """The part of a prompt [L] after its last image placeholder and before the end of the question."""
        end_ids = self.stop_ids
        if self.tokenizer is not None:  # some templates begin the answer without an end of the question's turn
            end_ids |= prompt.question_end_ids(self.tokenizer)
        return prompt.question_part(input_ids, self.config.image_token_index, end_ids)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: the config's and the tokenizer's end of text, and the tokenizer's end of turn."""
        stops: list[int | None] = [self.config.eos_token_id]
        if self.tokenizer is not None:
            stops += [self.tokenizer.eos_token_id, prompt.end_of_turn_id(self.tokenizer, self.config.family)]
        return prompt.known_ids(stops)

    @property
    def vocabulary_size(self) -> int:
        """Entries that can be generated: those that the tokenizer knows. Embedding tables are padded to round numbers, and the
        official loader shrinks them (LaViDa builder.py:297-298)."""
        rows = self.config.body.vocab_size
        return rows if self.tokenizer is None else min(rows, len(self.tokenizer))

    def answer_block(self, draft: str | None, max_new_tokens: int | None, block_length: int | None) -> AnswerBlock:
        """The block for an answer, with the ids of a draft.

        Args:
            draft: see `Draft.parse`.
            max_new_tokens: length of the block; None is `config.answer_tokens`, or more if a draft with gaps needs it, rounded
                up to a multiple of `block_length`.

        Raises:
            UserError: for a draft that cannot be read or does not fit, or without a tokenizer.
        """
        config = self.config
        if draft is None:
            return AnswerBlock(config.answer_tokens if max_new_tokens is None else max_new_tokens)
        tokenizer = self._need_tokenizer()
        parsed = Draft.parse(draft, tokenizer, config.mask_token_id, config.fim_token_id)
        form_length = len(parsed.ids) if parsed.is_form else 0
        length = max_new_tokens
        if length is None:
            length = max(config.answer_tokens, form_length + 1)
            length += -length % min(max(block_length or 1, 1), length)
        end_of_turn = prompt.end_of_turn_id(tokenizer, config.family)
        stops = (config.eos_token_id if end_of_turn is None else end_of_turn), config.eos_token_id
        tokens = parsed.block(length, *stops)
        return AnswerBlock(tokens.shape[1], tokens, form_length)

    def answer_text(self, tokens: Tensor, form_length: int = 0) -> str:
        """The text of generated ids [N] up to the first stop token, without special tokens.

        Args:
            form_length: tokens of a draft with gaps, at the start of the answer; 0 without one. Stop tokens
                among them are empty gaps.
        """
        ids, stops = tokens.tolist(), self.stop_ids
        end = next((place for place in range(form_length, len(ids)) if ids[place] in stops), len(ids))
        tokenizer = self._need_tokenizer()
        hidden = stops | control_ids(tokenizer, self.config.fim_token_id) | {self.config.mask_token_id}
        shown = [token for token in ids[:end] if token not in hidden]
        return prompt.decode(tokenizer, shown, skip_special_tokens=True).strip()

    def _need_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise UserError("this model came without a tokenizer: use generate with input_ids instead of text")
        return self.tokenizer
