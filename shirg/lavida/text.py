"""Generated ids -> the text of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from shirg.lavida.chat import decode, infill_ids, required, stop_ids
from shirg.lavida.config import LavidaConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def answer_text(
    tokens: Tensor, config: LavidaConfig, tokenizer: PreTrainedTokenizerBase | None, infill_length: int = 0
) -> str:
    """The text of generated ids [N] up to the first stop token, without special tokens.

    Args:
        infill_length: number of leading tokens that are a draft with gaps. A stop token among them is an empty gap.

    Raises:
        UserError: without a tokenizer.
    """
    tokenizer, ids, stops = required(tokenizer), tokens.tolist(), stop_ids(config, tokenizer)
    end = next((place for place in range(infill_length, len(ids)) if ids[place] in stops), len(ids))
    hidden = stops | infill_ids(tokenizer, config.fim_token_id) | {config.mask_token_id}
    shown = [token for token in ids[:end] if token not in hidden]
    return decode(tokenizer, shown, skip_special_tokens=True).strip()
