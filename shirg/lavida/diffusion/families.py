"""What `Lavida.generate` does differently for the two families."""

from __future__ import annotations

from typing import Required, TypedDict, Unpack

import torch
from torch import Tensor

from shirg.errors import UserError
from shirg.lavida.diffusion.dream import ALGORITHMS, DreamSettings, ShiftedAnswerModel, denoise_dream
from shirg.lavida.diffusion.generation import (
    AnswerModel,
    EarlyStop,
    GenerationSettings,
    OnPrefix,
    OnStep,
    Prefix,
    denoise,
)
from shirg.lavida.language import LanguageModel


class SharedSettings(TypedDict, total=False):
    """The fields that `GenerationSettings` and `DreamSettings` both have."""

    mask_token_id: Required[int]
    max_new_tokens: Required[int]
    step_ratio: float | None
    schedule: str | None
    schedule_kwargs: dict[str, float] | None
    temperature: float
    prefix_lm: bool
    early_stop: EarlyStop | None


def decoding_settings(
    family: str,
    *,
    steps: int | None,
    remasking: str,
    block_length: int | None,
    step_per_block: int | None,
    alg: str | None,
    alg_temp: float,
    top_p: float | None,
    top_k: int | None,
    **shared: Unpack[SharedSettings],
) -> GenerationSettings | DreamSettings:
    """The settings of "llada" or "dream"; `shared` are the fields that both have.

    What only the other family knows is refused, unless it is left at its default. Dream has no blocks; that its answer is
    a single one may be said.

    Raises:
        UserError: for keywords of the other family, and as the settings themselves.
    """
    if family == "dream":
        if step_per_block is not None or (block_length is not None and block_length < shared["max_new_tokens"]):
            raise UserError(
                f"block_length={block_length}, step_per_block={step_per_block}: only LLaDA checkpoints take these; Dream "
                "denoises its answer as a whole"
            )
        alg = alg or ALGORITHMS.get(remasking, remasking)
        top_k = DreamSettings.top_k if top_k is None else top_k
        return DreamSettings(**shared, steps=steps, alg=alg, alg_temp=alg_temp, top_p=top_p, top_k=top_k)
    of_dream = {"alg": alg, "alg_temp": alg_temp or None, "top_p": top_p, "top_k": top_k}
    given = [name for name, value in of_dream.items() if value is not None]
    if given:
        raise UserError(f"{', '.join(given)}: only Dream checkpoints take these; this one is LLaDA")
    length = GenerationSettings.block_length if block_length is None else block_length
    return GenerationSettings(
        **shared, block_length=length, step_per_block=step_per_block, total_steps=steps, remasking=remasking
    )


@torch.no_grad()
def denoise_answers(
    language: LanguageModel,
    prefix: Prefix,
    vocabulary: int,
    tokens: Tensor,
    settings: GenerationSettings | DreamSettings,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
    on_prefix: OnPrefix | None = None,
) -> Tensor:
    """Fill the masks of `tokens` [B, N] behind `prefix`, in the way of the settings' family; returns a new tensor.

    Args:
        vocabulary: the entries that may be generated are those below it.
        on_prefix: called with the prefix's cache once it is full; not at all without `settings.prefix_lm`.
    """
    arguments, tokens = (language, prefix, settings.prefix_lm, vocabulary), tokens.to(prefix.embeds.device)
    if isinstance(settings, GenerationSettings):
        in_blocks = AnswerModel(*arguments)
        _hand_out(in_blocks, on_prefix)
        return denoise(in_blocks, tokens, settings, generator=generator, on_step=on_step)
    shifted = ShiftedAnswerModel(*arguments)
    _hand_out(shifted, on_prefix)
    if settings.prefix_lm:  # the prefix alone decides the first token (LaViDa dream/generation_utils.py:421-428)
        first, given = shifted.first_token()[:, None], tokens[:, :1]
        first = torch.where(given == settings.mask_token_id, first, given)
        tokens = torch.cat([first, tokens[:, 1:]], dim=1)
    return denoise_dream(shifted, tokens, settings, generator=generator, on_step=on_step)


def _hand_out(answer_model: AnswerModel, on_prefix: OnPrefix | None) -> None:
    if on_prefix is not None and answer_model.cache is not None:
        on_prefix(answer_model.cache)
