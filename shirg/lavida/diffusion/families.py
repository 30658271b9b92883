"""What `Lavida.generate` does differently for the two families."""

from __future__ import annotations

import torch
from torch import Tensor

from shirg.errors import UserError
from shirg.lavida.diffusion.dream import ALGORITHMS, DreamSettings, ShiftedAnswerModel, denoise_dream
from shirg.lavida.diffusion.generation import AnswerModel, GenerationSettings, OnPrefix, OnStep, Prefix, denoise
from shirg.lavida.language import LanguageModel


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
    **shared: object,
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
    blocks = {"block_length": length, "step_per_block": step_per_block, "total_steps": steps}
    return GenerationSettings(**shared, **blocks, remasking=remasking)


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
    of_llada = isinstance(settings, GenerationSettings)
    answer_model = AnswerModel(*arguments) if of_llada else ShiftedAnswerModel(*arguments)
    if on_prefix is not None and answer_model.cache is not None:
        on_prefix(answer_model.cache)
    if of_llada:
        return denoise(answer_model, tokens, settings, generator=generator, on_step=on_step)
    if settings.prefix_lm:  # the prefix alone decides the first token (LaViDa dream/generation_utils.py:421-428)
        first, given = answer_model.first_token()[:, None], tokens[:, :1]
        first = torch.where(given == settings.mask_token_id, first, given)
        tokens = torch.cat([first, tokens[:, 1:]], dim=1)
    return denoise_dream(answer_model, tokens, settings, generator=generator, on_step=on_step)
