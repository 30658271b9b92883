"""Relevance of each visual token to the question: a cosine in the language model's space or in SigLIP's.

Neither space was trained for single tokens, so similarities can be uninformative or inverted; `VisionSettings.relevance` and
`relevance_sign` should be measured for a checkpoint (docs/relevance.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shirg.errors import UserError
from shirg.gate.terms import relevance_term, text_cosine
from shirg.lavida.chat import decode
from shirg.lavida.prompt import content_words
from shirg.lavida.settings import NO_FLOOR, VisionSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from shirg.lavida.text_tower import TextTower

NULL_WORDS, MIN_NULL_WORDS = 256, 128
"""Number of random words of a token's null distribution of cosines, and the smallest number that suffices."""
SIGNIFICANCE = 3.5
"""A match must exceed the mean cosine to random words by this many standard deviations. At 2.3, which one word exceeds at one
token in a hundred, questions of random vectors still cost word recall."""


def token_relevance(
    settings: VisionSettings,
    tokens: Tensor,
    question_ids: Tensor | None,
    *,
    projector: nn.Module,
    embed: nn.Embedding,
    tokenizer: PreTrainedTokenizerBase | None = None,
    text_tower: TextTower | None = None,
) -> Tensor | None:
    """Cosine of every token of all views to the question, times `settings.relevance_sign`: [1, V * N] float32.

    With "llm" it is the largest cosine to a word of the question, without function words if there is a tokenizer
    (`prompt.content_words`). Cosines that are not significant are replaced (`calibrated_relevance`). With a
    `settings.relevance_floor` cosines are raised to that floor instead.

    None, so that the image alone decides, without a question, with `settings.relevance == "none"`, and with "llm" if the
    vocabulary is too small for calibration.

    Args:
        tokens: [V, N, D] of the tower.
        question_ids: ids [L] of the question, on any device.
        projector: with or without an adapter, which is not applied, see `base_projection`.
        embed: the language model's word embeddings.
        tokenizer, text_tower: of the model, or None.

    Raises:
        UserError: if relevance is "siglip" and there is no text tower or no tokenizer.
    """
    kind = settings.relevance
    if kind == "none" or question_ids is None or not len(question_ids):
        return None
    # Autocast would round the scores, and so select other tokens in training than in inference.
    with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
        if kind == "siglip":
            scores = _required_text_tower(text_tower).relevance(tokens, _question_text(tokenizer, question_ids))
            return settings.relevance_sign * scores[None]
        if tokenizer is not None:
            question_ids = content_words(question_ids, tokenizer)
        ids = question_ids.to(embed.weight.device)
        sign, floor = settings.relevance_sign, settings.relevance_floor
        found = calibrated_relevance(projector, tokens.flatten(0, 1), embed, ids, sign, floor)
        return None if found is None else found[None]


def word_relevance(
    projector: nn.Module, tokens: Tensor, words: Tensor, sign: int = 1, floor: float = NO_FLOOR
) -> Tensor:
    """max(floor, sign * max_j cos(v_i, t_j)) [N] float32 of base-projected tokens, minus their mean, and words.

    Args:
        projector: with or without an adapter, see `base_projection`.
        tokens: [N, D] of the tower.
        words: embeddings [L, hidden].
        sign: 1 or -1, see `VisionSettings`.
        floor: lower limit, see `VisionSettings`.
    """
    return (sign * _largest_cosine(base_projection(projector, tokens).float(), words)).clamp_min(floor)


def _largest_cosine(projected: Tensor, words: Tensor) -> Tensor:
    """Largest cosine of every token [N, hidden], minus their mean, to words [L, hidden]: [N]."""
    tokens = projected[None]
    return text_cosine(tokens, tokens.square().mean(-1), tokens.mean(1), words[None].float())[0]


def calibrated_relevance(
    projector: nn.Module, tokens: Tensor, embed: nn.Embedding, ids: Tensor, sign: int = 1, floor: float = NO_FLOOR
) -> Tensor | None:
    """`word_relevance` of the words `ids`, with cosines that are not significant replaced: [N] float32.

    A replaced cosine becomes the largest one to which the gate gives no relevance, which keeps the median and the scale of all.

    The null distribution of a token is measured with `NULL_WORDS` words of the
    vocabulary (the same in every call, without the question's own). A cosine that would raise the token's score must be
    `SIGNIFICANCE` standard deviations above the mean of these.

    With a `floor`, which the model was trained with, there is no calibration. None if fewer than `MIN_NULL_WORDS` words are left.

    Args:
        projector: with or without an adapter, see `base_projection`.
        tokens: [N, D] of the tower.
        embed: the word embeddings, with `weight` [V, hidden].
        ids: [L], the question.
        sign, floor: as for `word_relevance`.
    """
    if floor > NO_FLOOR:
        return word_relevance(projector, tokens, embed(ids), sign, floor)
    drawn = torch.randperm(len(embed.weight), generator=torch.Generator().manual_seed(0))[:NULL_WORDS].to(ids.device)
    drawn = drawn[~torch.isin(drawn, ids)]
    if len(drawn) < MIN_NULL_WORDS:
        return None
    projected = base_projection(projector, tokens).float()
    found = sign * _largest_cosine(projected, embed(ids))
    directions = functional.normalize(projected - projected.mean(0), dim=-1)
    null = sign * directions @ functional.normalize(embed(drawn).float(), dim=-1).T  # [N, NULL_WORDS]
    significant = found > null.mean(-1) + SIGNIFICANCE * null.std(-1)
    raised = relevance_term(found[None])[0] > 0
    return torch.where(raised & ~significant, found.masked_fill(raised, -torch.inf).max(), found)


def base_projection(projector: nn.Module, tokens: Tensor) -> Tensor:
    """Tower tokens [..., D] -> [..., hidden] by the projector without its adapter.

    So training the adapter cannot change the selection of tokens.

    Raises:
        UserError: if an adapter is merged into the projector, whose base weights are then unknown.
    """
    projector = _unwrapped(projector)
    for layer in projector if isinstance(projector, nn.Sequential) else [projector]:
        layer = _unwrapped(layer)
        # Up to peft 0.6 an adapted layer is not a wrapper but a subclass of the base layer's class.
        adapted = type(layer).__module__.startswith("peft.")
        tokens = super(type(layer), layer).forward(tokens) if adapted else layer(tokens)
    return tokens


def _unwrapped(module: Any) -> Any:
    """A module without peft's wrappers: adapters (since peft 0.7), or a trained copy (`modules_to_save`)."""
    if getattr(module, "merged", False):
        raise UserError(
            "model: an adapter is merged into its projector, so that tokens cannot be compared with a question as "
            "without the adapter; undo it with peft's unmerge_adapter()"
        )
    inside = getattr(module, "base_layer", getattr(module, "original_module", None))
    return module if inside is None else _unwrapped(inside)


def _required_text_tower(text_tower: TextTower | None) -> TextTower:
    if text_tower is None:
        raise UserError(
            'relevance "siglip" compares tokens with the question in SigLIP\'s space, and LaViDa checkpoints contain no '
            "text tower: call model.load_text_tower(SigLIP folder or hub id), on the command line give --text-tower"
        )
    return text_tower


def _question_text(tokenizer: PreTrainedTokenizerBase | None, question_ids: Tensor) -> str:
    if tokenizer is None:
        raise UserError(
            'relevance "siglip" reads the question as text, and this model came without a tokenizer; use "llm" or "none"'
        )
    return decode(tokenizer, question_ids.tolist(), skip_special_tokens=True).strip()
