"""Denoising answers with either family, LLaDA or Dream."""

from __future__ import annotations

import torch
from torch import Tensor

from shirg.errors import UserError
from shirg.lavida.diffusion.dream import DreamSettings, ShiftedAnswerModel, denoise_dream
from shirg.lavida.diffusion.generation import AnswerModel, GenerationSettings, OnPrefix, OnStep, denoise
from shirg.lavida.language import LanguageModel
from shirg.lavida.prefix import Prefix


@torch.no_grad()
def denoise_answers(
    language: LanguageModel,
    prefix: Prefix,
    vocabulary: int,
    draft_tokens: Tensor | None,
    settings: GenerationSettings | DreamSettings,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
    on_prefix: OnPrefix | None = None,
) -> Tensor:
    """Denoise the answers that follow `prefix` as the settings' family does; returns their tokens, Long [B, max_new_tokens].

    Args:
        vocabulary: number of entries that may be generated, the first of the embedding table.
        draft_tokens: [B or 1, at most max_new_tokens], the start of the answers; only its masks are filled.
        on_prefix: called with the prefix's cache once it is complete; not called without `settings.prefix_lm`.

    Raises:
        UserError: for draft tokens of another shape.
    """
    tokens = starting_tokens(draft_tokens, len(prefix.lengths), settings.max_new_tokens, settings.mask_token_id)
    tokens = tokens.to(prefix.embeds.device)
    model_class = AnswerModel if isinstance(settings, GenerationSettings) else ShiftedAnswerModel
    answer_model = model_class(language, prefix, settings.prefix_lm, vocabulary)
    if on_prefix is not None and answer_model.cache is not None:
        on_prefix(answer_model.cache)
    if isinstance(settings, GenerationSettings):
        return denoise(answer_model, tokens, settings, generator=generator, on_step=on_step)
    if isinstance(answer_model, ShiftedAnswerModel) and settings.prefix_lm:
        tokens = answer_model.with_first_token(tokens, settings.mask_token_id)
    return denoise_dream(answer_model, tokens, settings, generator=generator, on_step=on_step)


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
