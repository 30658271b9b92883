"""Keywords of `Lavida.generate` -> settings of denoising, for LLaDA or Dream."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

from shirg.errors import UserError
from shirg.lavida.diffusion.dream import ALGORITHMS, DreamSettings
from shirg.lavida.diffusion.generation import EarlyStop, GenerationSettings


class DecodingKeywords(TypedDict, total=False):
    """Keywords of `Lavida.generate` that set how an answer is denoised.

    They are described, with their defaults, in `GenerationSettings` (LLaDA) and `DreamSettings`.
    """

    max_new_tokens: int
    steps: int | None
    step_ratio: float | None
    schedule: str | None
    schedule_kwargs: dict[str, float] | None
    threshold: float | None
    factor: float | None
    remasking: str
    temperature: float
    prefix_lm: bool
    block_length: int | None
    step_per_block: int | None
    alg: str | None
    alg_temp: float
    top_p: float | None
    top_k: int | None


DREAM_ONLY = ("alg", "alg_temp", "top_p", "top_k")
NONE_IS_DEFAULT = ("block_length", "alg", "top_k")


def decoding_settings(
    family: str, mask_token_id: int, early_stop: EarlyStop | None = None, **keywords: Unpack[DecodingKeywords]
) -> GenerationSettings | DreamSettings:
    """The settings of "llada" or "dream" for these keywords.

    A keyword of the other family is refused, unless it has its default. Dream has no blocks, but takes a `block_length` of at
    least the whole answer.

    Raises:
        TypeError: for an unknown keyword.
        UserError: for keywords of the other family, and as the settings themselves.
    """
    unknown = keywords.keys() - DecodingKeywords.__annotations__.keys()
    if unknown:
        raise TypeError(f"generate() got unexpected keyword arguments: {', '.join(sorted(unknown))}")
    fields: dict[str, Any] = {
        name: value for name, value in keywords.items() if value is not None or name not in NONE_IS_DEFAULT
    }
    if family == "dream":
        block_length, step_per_block = fields.pop("block_length", None), fields.pop("step_per_block", None)
        length = fields.get("max_new_tokens", DreamSettings.max_new_tokens)
        if step_per_block is not None or (block_length is not None and block_length < length):
            raise UserError(
                f"block_length={block_length}, step_per_block={step_per_block}: only LLaDA checkpoints take these; Dream "
                "denoises its answer as a whole"
            )
        remasking = fields.pop("remasking", "low_confidence")
        fields["alg"] = fields.get("alg") or ALGORITHMS.get(remasking, remasking)
        return DreamSettings(mask_token_id, early_stop=early_stop, **fields)
    of_dream = {name: fields.pop(name, None) for name in DREAM_ONLY}
    of_dream["alg_temp"] = of_dream["alg_temp"] or None  # the default is 0
    given = [name for name, value in of_dream.items() if value is not None]
    if given:
        raise UserError(f"{', '.join(given)}: only Dream checkpoints take these; this one is LLaDA")
    return GenerationSettings(mask_token_id, total_steps=fields.pop("steps", None), early_stop=early_stop, **fields)
