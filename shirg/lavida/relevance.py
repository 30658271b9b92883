"""How well each visual token matches the question, compared in the language model's space or in SigLIP's.

Neither space was trained for single tokens: similarities may carry little, or be inverted, for a given checkpoint.
`VisionSettings.relevance` and `relevance_sign` choose, and measuring both is the only way to know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shirg.errors import UserError
from shirg.gate.terms import relevance_term, text_cosine
from shirg.lavida.prompt import content_words, decode
from shirg.lavida.settings import NO_FLOOR, VisionSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from shirg.lavida.text_tower import TextTower

NULL_WORDS, LEAST_NULL = 256, 128
"""Words that tell what cosine a token has by chance, and how few of them are too few."""
SURE = 3.5
"""Standard deviations of these cosines that a match must be above their mean. A question has several words and a page 2304
tokens: at 2.3, which one word exceeds at one token in a hundred, questions of random vectors still cost words."""


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

    In the space of "llm" the best of the question's words counts. Function words are left out where a tokenizer names them
    (`prompt.content_words`), and cosines that may be chance do not count (`calibrated_relevance`). A checkpoint with a border
    of its own, `settings.relevance_floor`, has its cosines raised to that instead.

    None where the image alone decides: without a question, with `settings.relevance == "none"`, or with "llm" where the
    vocabulary is too small to tell what chance gives.

    Args:
        tokens: [V, N, D] of the tower.
        question_ids: ids [L] of the question, on any device.
        projector: with or without an adapter; tokens are projected as without, see `base_projection`.
        embed: the language model's vocabulary.
        tokenizer, text_tower: of the model, where it has them.

    Raises:
        UserError: if relevance is "siglip" and there is no text tower, or no tokenizer to read the question with.
    """
    kind = settings.relevance
    if kind == "none" or question_ids is None or not len(question_ids):
        return None
    # Autocast would round the scores, and so choose other tokens in training than at inference.
    with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
        if kind == "siglip":
            scores = _need_text_tower(text_tower).relevance(tokens, _question_text(tokenizer, question_ids))
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
    """max(floor, sign * max_j cos(v_i, t_j)) [N] float32 of base-projected tokens, centred by their mean, and words.

    Args:
        projector: with or without an adapter, see `base_projection`.
        tokens: [N, D] of the tower.
        words: embeddings [L, hidden].
        sign: 1 or -1, see `VisionSettings`.
        floor: cosine to which lower ones are raised, see `VisionSettings`.
    """
    return (sign * _greatest_cosine(base_projection(projector, tokens).float(), words)).clamp_min(floor)


def _greatest_cosine(projected: Tensor, words: Tensor) -> Tensor:
    """Greatest cosine of every token [N, hidden], centred by their mean, to words [L, hidden]: [N]."""
    tokens = projected[None]
    return text_cosine(tokens, tokens.square().mean(-1), tokens.mean(1), words[None].float())[0]


def calibrated_relevance(
    projector: nn.Module, tokens: Tensor, embed: nn.Embedding, ids: Tensor, sign: int = 1, floor: float = NO_FLOOR
) -> Tensor | None:
    """`word_relevance` of the words `ids`, where it cannot be chance; where the gate would lift a token by chance it is the
    greatest cosine that the gate does not lift, which leaves the median and the scale of all cosines alone: [N] float32.

    A space in which tokens and words do not meet still has cosines, and some are the greatest. What chance gives is measured
    with `NULL_WORDS` words drawn once for all from the vocabulary, the question's own left out: a token's cosine to the
    question counts where it is `SURE` standard deviations above the token's mean cosine to these.

    A model with a `floor` was trained to have that border, and keeps it. None where fewer than `LEAST_NULL`
    words are left to measure with.

    Args:
        projector: with or without an adapter, see `base_projection`.
        tokens: [N, D] of the tower.
        embed: the vocabulary, an embedding with `weight` [V, hidden].
        ids: [L], the question.
        sign, floor: as for `word_relevance`.
    """
    if floor > NO_FLOOR:
        return word_relevance(projector, tokens, embed(ids), sign, floor)
    drawn = torch.randperm(len(embed.weight), generator=torch.Generator().manual_seed(0))[:NULL_WORDS].to(ids.device)
    drawn = drawn[~torch.isin(drawn, ids)]
    if len(drawn) < LEAST_NULL:
        return None
    projected = base_projection(projector, tokens).float()
    found = sign * _greatest_cosine(projected, embed(ids))
    directions = functional.normalize(projected - projected.mean(0), dim=-1)
    chance = sign * directions @ functional.normalize(embed(drawn).float(), dim=-1).T  # [N, NULL_WORDS]
    sure = found > chance.mean(-1) + SURE * chance.std(-1)
    lifted = relevance_term(found[None])[0] > 0
    return torch.where(lifted & ~sure, found.masked_fill(lifted, -torch.inf).max(), found)


def base_projection(projector: nn.Module, tokens: Tensor) -> Tensor:
    """Tower tokens [..., D] -> [..., hidden] by the projector as it is without any adapter.

    Training the adapter therefore never moves the choice of tokens.

    Raises:
        UserError: if an adapter is merged into the projector, since what it was before is then not at hand.
    """
    projector = _unwrapped(projector)
    for layer in projector if isinstance(projector, nn.Sequential) else [projector]:
        layer = _unwrapped(layer)
        # Up to peft 0.6 an adapted layer is no wrapper but a subclass of the layer that was there.
        adapted = type(layer).__module__.startswith("peft.")
        tokens = super(type(layer), layer).forward(tokens) if adapted else layer(tokens)
    return tokens


def _unwrapped(module: Any) -> Any:
    """A module without what peft put around it: adapters (from 0.7 on), or a copy that is trained (`modules_to_save`)."""
    if getattr(module, "merged", False):
        raise UserError(
            "model: an adapter is merged into its projector, so that tokens cannot be compared with a question as "
            "without the adapter; undo it with peft's unmerge_adapter()"
        )
    inside = getattr(module, "base_layer", getattr(module, "original_module", None))
    return module if inside is None else _unwrapped(inside)


def _need_text_tower(text_tower: TextTower | None) -> TextTower:
    if text_tower is None:
        raise UserError(
            'relevance "siglip" compares tokens with the question in SigLIP\'s space, and LaViDa checkpoints hold no '
            "text tower: call model.load_text_tower(SigLIP folder or hub id), on the command line give --text-tower"
        )
    return text_tower


def _question_text(tokenizer: PreTrainedTokenizerBase | None, question_ids: Tensor) -> str:
    if tokenizer is None:
        raise UserError(
            'relevance "siglip" reads the question as text, and this model came without a tokenizer; use "llm" or "none"'
        )
    return decode(tokenizer, question_ids.tolist(), skip_special_tokens=True).strip()
