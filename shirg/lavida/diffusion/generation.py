"""Denoising an answer block by block after a prefix that is encoded once (LaViDa generate.py:117-274)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from shirg import ranges
from shirg.errors import UserError
from shirg.lavida.cache import PrefixCache
from shirg.lavida.diffusion.schedule import transfer_counts
from shirg.lavida.language import LanguageModel
from shirg.lavida.prefix import Prefix

REMASKING = ("low_confidence", "random", "entropy", "margin")
OnStep = Callable[[int, Tensor], None]
"""Called with (number of denoising steps so far, tokens [B, N]) after each step."""
OnPrefix = Callable[[PrefixCache], None]
"""Called with the cache of the prefix before the first step."""


@dataclass(frozen=True)
class EarlyStop:
    """Ends denoising once no row has a mask before its first stop token. The official code always fills every block.

    The text of an answer is then final, since a committed token never changes; the masks after the stop token become end of text.
    """

    mask_token_id: int
    stop_ids: frozenset[int]
    """Ids that end an answer."""
    fill_id: int
    """Id that replaces the remaining masks."""

    def reached(self, tokens: Tensor) -> bool:
        """Whether every row of `tokens` [B, N] has no mask, or none before its first stop token."""
        stops = torch.isin(tokens, torch.tensor(sorted(self.stop_ids), device=tokens.device))
        ended = stops.cumsum(dim=1) > 0
        return not bool(((tokens == self.mask_token_id) & ~ended).any())

    def fill(self, tokens: Tensor) -> Tensor:
        """`tokens` with every mask replaced by `fill_id`."""
        return tokens.masked_fill(tokens == self.mask_token_id, self.fill_id)


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of denoising with LLaDA.

    Raises:
        UserError: for a value outside its range, with the name of the setting.
    """

    mask_token_id: int
    max_new_tokens: int = 32
    block_length: int = 32
    """Tokens denoised together, from left to right; must divide `max_new_tokens`. Larger values count as `max_new_tokens`."""
    step_ratio: float | None = None
    """Steps per token of a block. Default: one step per token."""
    step_per_block: int | None = None
    """Steps per block, at most one per token, instead of `step_ratio`."""
    total_steps: int | None = None
    """Steps for the whole answer (`steps` of `Lavida.generate`), instead of the two above. Its blocks share them evenly, with at
    least one step per block and at most one per token. (The official code ignores it for LLaDA, generate.py:146.)"""
    schedule: str | None = None
    schedule_kwargs: dict[str, float] | None = None
    threshold: float | None = None
    """Commit at every step all predictions of at least this confidence, and the best one; instead of a number of steps."""
    factor: float | None = None
    """The same with the n-th best confidence at least 1 - factor / (n + 1), instead of `threshold`."""
    remasking: str = "low_confidence"
    """Confidence of predictions: probability, random, negative entropy, or the margin between the two best."""
    temperature: float = 0.0
    prefix_lm: bool = True
    """The prefix attends only to itself and is encoded once; False encodes prefix and answer together at every step."""
    early_stop: EarlyStop | None = None

    def __post_init__(self) -> None:
        ranges.TOKENS.check("max_new_tokens", self.max_new_tokens)
        ranges.TOKENS.check("block_length", self.block_length)
        if self.max_new_tokens % self.block:
            raise UserError(
                f"max_new_tokens={self.max_new_tokens} must be a multiple of block_length={self.block_length}"
            )
        self._check_steps()
        if self.remasking.replace("entrophy", "entropy") not in REMASKING:
            raise UserError(
                f"remasking={self.remasking!r} is unknown; expected {', '.join(map(repr, REMASKING))} "
                "(or 'entrophy', as LaViDa spells it)"
            )
        ranges.TEMPERATURE.check("temperature", self.temperature)
        check_parallel(
            *(self.threshold, self.factor, self.remasking in ("low_confidence", "margin")),
            steps=self.total_steps,
            step_ratio=self.step_ratio,
            step_per_block=self.step_per_block,
            schedule=self.schedule,
        )
        transfer_counts([self.block], self.steps, self.schedule, self.schedule_kwargs)

    def _check_steps(self) -> None:
        settings = {"steps": self.total_steps, "step_ratio": self.step_ratio, "step_per_block": self.step_per_block}
        given = [f"{name}={value}" for name, value in settings.items() if value is not None]
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)} each decide the number of steps: give one of them")
        if self.total_steps is not None:
            ranges.TOKENS.check("steps", self.total_steps)
        if self.step_per_block is not None:
            ranges.TOKENS.check("step_per_block", self.step_per_block)
        if self.step_ratio is not None:
            ranges.STEP_RATIO.check("step_ratio", self.step_ratio)

    @property
    def parallel(self) -> bool:
        """Whether confidence decides how many predictions a step commits."""
        return self.threshold is not None or self.factor is not None

    @property
    def block(self) -> int:
        """Tokens in a block."""
        return min(self.block_length, self.max_new_tokens)

    @property
    def steps(self) -> int:
        """Denoising steps per block (LaViDa generate.py:172-187), at most if they are `parallel`."""
        if self.total_steps is not None:
            return min(max(self.total_steps * self.block // self.max_new_tokens, 1), self.block)
        if self.step_per_block is not None:
            return min(self.step_per_block, self.block)
        return self.block if self.step_ratio is None else int(self.block * self.step_ratio)


class AnswerModel:
    """Logits of answer tokens after a prefix, which is encoded once, or in every call (`prefix_lm=False`)."""

    def __init__(self, language: LanguageModel, prefix: Prefix, prefix_lm: bool, vocabulary: int):
        self.language, self.prefix, self.vocabulary = language, prefix, vocabulary
        self.cache = None
        if prefix_lm:
            self.cache, self.last_of_prefix = _encode_prefix(language, prefix)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits [B, N, V] of the answer's tokens [B, N]."""
        return self.logits(self.hidden(tokens)[1])

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the vocabulary entries that may be generated."""
        return self.language.logits(hidden)[..., : self.vocabulary]

    def hidden(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of the last prefix position [B, 1, H] and of the answer [B, N, H]."""
        count = tokens.shape[1]
        embeds = self.language.embed_tokens(tokens)
        mask, positions = self.prefix.mask(count), self.prefix.positions(count)
        if self.cache is not None:
            return self.last_of_prefix, self.language(embeds, _expand_queries(mask, count), positions, self.cache)
        length = self.prefix.embeds.shape[1]
        start = torch.arange(length, device=tokens.device).expand(len(tokens), -1)
        all_embeds = torch.cat([self.prefix.embeds, embeds.to(self.prefix.embeds.dtype)], dim=1)
        all_positions = torch.cat([start, positions], dim=1)
        ends = self.prefix.lengths - 1
        read_from = int(ends.min())
        hidden = self.language(all_embeds, _expand_queries(mask, length + count), all_positions, read_from=read_from)
        rows = torch.arange(len(hidden), device=hidden.device)
        return hidden[rows, ends - read_from][:, None], hidden[:, -count:]


def _encode_prefix(language: LanguageModel, prefix: Prefix) -> tuple[PrefixCache, Tensor]:
    """The prefix's keys and values, and the hidden states [B, 1, H] of its rows' last positions.

    Rows of unequal length are encoded one by one, without padding and mask.
    """
    if not prefix.ragged:
        cache = PrefixCache()
        ends = language(prefix.embeds, cache=cache, read_from=prefix.embeds.shape[1] - 1)
        return cache.freeze(), ends
    caches, ends = [], []
    for row, length in zip(prefix.embeds, prefix.lengths.tolist(), strict=True):
        caches.append(PrefixCache())
        ends.append(language(row[None, :length], cache=caches[-1], read_from=length - 1))
    return PrefixCache.padded(caches).freeze(), torch.cat(ends)


@torch.no_grad()
def denoise(
    answer_model: Callable[[Tensor], Tensor],
    tokens: Tensor,
    settings: GenerationSettings,
    *,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Fill the masks of `tokens` [B, N] block by block; returns a new tensor of the same shape.

    A position whose prediction is the mask token counts as committed in its step and stays masked, so masks can remain.

    Args:
        answer_model: tokens [B, N] -> logits [B, N, V].
        tokens: all mask tokens, or a draft with some of them filled in.
        on_step: called after every step with its number and a copy of the tokens.
    """
    return run_denoising(_steps(answer_model, tokens, settings, generator), tokens, settings.early_stop, on_step)


def run_denoising(
    steps: Iterable[Tensor], tokens: Tensor, early_stop: EarlyStop | None, on_step: OnStep | None
) -> Tensor:
    """Run denoising steps to the last one, or to an early stop; returns the tokens [B, N].

    Args:
        steps: the tokens [B, N] after each step; a step is computed when its result is requested.
        tokens: [B, N] before the first step.
    """
    tokens = tokens.clone()
    if early_stop is not None and early_stop.reached(tokens):  # a draft can be complete
        return early_stop.fill(tokens)
    for number, tokens in enumerate(steps, start=1):
        final = early_stop is not None and early_stop.reached(tokens)
        if early_stop is not None and final:
            tokens = early_stop.fill(tokens)
        if on_step is not None:
            on_step(number, tokens.clone())
        if final:
            break
    return tokens


def _steps(
    answer_model: Callable[[Tensor], Tensor],
    tokens: Tensor,
    settings: GenerationSettings,
    generator: torch.Generator | None,
) -> Iterator[Tensor]:
    for start in range(0, settings.max_new_tokens, settings.block):
        end = start + settings.block
        masked_per_row = (tokens[:, start:end] == settings.mask_token_id).sum(dim=1).tolist()
        counts = transfer_counts(masked_per_row, settings.steps, settings.schedule, settings.schedule_kwargs)
        for step in range(len(counts[0])):
            masked = tokens == settings.mask_token_id
            if not masked[:, start:end].any():
                break
            logits = answer_model(tokens)
            predictions = _sample(logits, settings.temperature, generator)
            score = _confidence(logits, predictions, settings.remasking, generator).masked_fill(~masked, -torch.inf)
            score[:, end:] = -torch.inf
            if settings.parallel:
                chosen = confident(score, settings.threshold, settings.factor)
            else:
                quota = torch.tensor([row[step] for row in counts], device=tokens.device)
                rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
                chosen = (rank < quota[:, None]) & (score > -torch.inf)
            tokens = torch.where(chosen, predictions, tokens)
            yield tokens


def confident(score: Tensor, threshold: float | None, factor: float | None) -> Tensor:
    """The positions that a parallel step commits, Boolean [B, N] (Fast-dLLM, arXiv 2505.22618, section 3.3 and its factor form).

    They are the longest run of best confidences in which the n-th is at least `threshold`, or 1 - `factor` / (n + 1); the best
    one is always committed, so that a step makes progress.

    Args:
        score: confidences [B, N], -inf at positions that cannot be committed.
    """
    ordered, order = score.sort(dim=1, descending=True, stable=True)
    needed = torch.full_like(ordered[0], threshold if threshold is not None else 0.0)
    if factor is not None:
        needed = 1 - factor / torch.arange(2, len(needed) + 2, device=score.device, dtype=score.dtype)
    needed[0] = -torch.inf
    good = ((ordered >= needed) & (ordered > -torch.inf)).cumprod(dim=1).bool()
    return torch.zeros_like(good).scatter(1, order, good)


def check_parallel(threshold: float | None, factor: float | None, is_probability: bool, **steps: object) -> None:
    """Raise `UserError` unless `threshold` and `factor` are in their ranges and nothing else decides what a step commits.

    Args:
        is_probability: whether confidences are from 0 to 1.
        steps: other settings of that kind.
    """
    given = {"threshold": threshold, "factor": factor}
    chosen = [f"{name}={value}" for name, value in (given | steps).items() if value is not None]
    if threshold is not None:
        ranges.THRESHOLD.check("threshold", threshold)
    if factor is not None:
        ranges.FACTOR.check("factor", factor)
    if (threshold is not None or factor is not None) and (len(chosen) > 1 or not is_probability):
        reason = f"{' and '.join(chosen)}: give one of them" if len(chosen) > 1 else "its confidence is no probability"
        raise UserError(f"{chosen[0].partition('=')[0]}: decides how many tokens a step commits; {reason}")


def _expand_queries(mask: Tensor | None, count: int) -> Tensor | None:
    return None if mask is None else mask.expand(-1, -1, count, -1)


def _sample(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """The most likely token, or one drawn by the Gumbel trick in float64 (LaViDa generate.py:8-19)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    wide = logits.to(torch.float64)
    uniform = torch.rand(wide.shape, dtype=torch.float64, device=wide.device, generator=generator)
    return (wide.exp() / (-uniform.log()) ** temperature).argmax(dim=-1)


def _confidence(logits: Tensor, predictions: Tensor, remasking: str, generator: torch.Generator | None) -> Tensor:
    """Confidence of `predictions` [B, N], from the raw logits in float64."""
    if remasking == "random":
        return torch.rand(predictions.shape, device=predictions.device, generator=generator)
    probabilities = logits.to(torch.float64).softmax(dim=-1)
    if remasking == "low_confidence":
        return probabilities.gather(-1, predictions[..., None]).squeeze(-1)
    if remasking == "margin":
        best = probabilities.topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]
    return (probabilities * (probabilities + 1e-10).log()).sum(dim=-1)
