"""What every vision path costs: tokens, time by stage, bytes of the prefix cache."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from shirg.errors import ItemError
from shirg.evaluation.answering import Decoding, Page, adapter_switched, generated_texts, image_embeds
from shirg.evaluation.computed import computed_costs
from shirg.evaluation.memory import peak_bytes
from shirg.evaluation.variants import BUDGETED_MODES, Variant
from shirg.lavida import Lavida, PrefixCache, VisionFeatures
from shirg.threads import LEAST_SECONDS, spare_threads

WARM_UP = 1
"""Untimed runs of every stage: the first one pays for memory and kernels."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

KV_REFERENCES = ("hd", "highres")
"""Paths whose cache a selection's is compared with: LaViDa's own, and all tokens of the 672 grid."""


@torch.no_grad()
def measure_efficiency(
    model: Lavida,
    image: Image.Image,
    prompt: str,
    variants: Sequence[Variant],
    decoding: Decoding,
    repeats: int,
    advance: Callable[[str, int], None],
) -> dict[str, Any]:
    """Time each stage of answering one question about one page, batch of one; milliseconds, median of `repeats`.

    Returns:
        `rows`, one for each variant that can be asked about the page: `tokens` (visual), `prefix_tokens` (with the prompt),
        `tower_ms`, `selection_ms`
        (None where nothing is selected; relevance to the question, and the attention and keys that some rules look at,
        included), `embedding_ms` (from tower tokens to what is spliced into the prompt: selection or pooling, and
        projector), `total_ms` (image to text, image preparation included), `peak_memory_bytes` (see
        `memory.peak_bytes`), and what `_of_length` measures. `savings` of cache bytes, for each selection against each
        reference, of the visual part
        and of the whole prefix. `computed`, what the paths cost at the size of LaViDa-LLaDA-8B.
    """
    bench = _Bench(model, image, prompt, decoding, _Clock(torch.device(model.device), repeats))
    rows = []
    with spare_threads() as threads:
        threads.adjust(wait=LEAST_SECONDS if threads.most > 1 else 0.0)
        for variant in variants:
            with adapter_switched(model, variant.adapter):
                advance(f"timing {variant.name}", 0)
                try:
                    rows.append(bench.row(variant))
                except ItemError as error:  # this page cannot be shown so, others can
                    logger.warning("%s is not timed: %s", variant.name, error)
                advance(f"timing {variant.name}", 1)
    return {
        "repeats": repeats,
        "warm_up": WARM_UP,
        "page_size": list(image.size),
        "rows": rows,
        "savings": _savings(rows),
        "computed": computed_costs(variants, model.vision.resolution),
    }


@dataclass
class _Bench:
    """One page with one question, on which variants are timed."""

    model: Lavida
    image: Image.Image
    prompt: str
    decoding: Decoding
    clock: _Clock
    towers: dict[str, float] = field(default_factory=dict)
    """Views -> time of the tower."""
    lengths: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Positions of the prefix -> what depends on nothing else."""

    def row(self, variant: Variant) -> dict[str, Any]:
        """All that is measured of one variant, which the model must be switched to."""
        model, clock = self.model, self.clock
        prompt_ids = model.prompt_ids(self.prompt)
        question_ids = model.question_ids(prompt_ids)
        features = Page(model, self.image).features(variant)
        embeds = image_embeds(model, features, variant, question_ids)
        row = {**variant.as_dict(), "tokens": embeds.shape[0]}
        row |= {"tower_ms": self._tower_ms(variant, features)}
        budget, settings = variant.budget, variant.settings(model.vision)
        row["selection_ms"] = (
            None if budget is None else clock.median_ms(lambda: model.select(features, budget, question_ids, settings))
        )
        row["embedding_ms"] = clock.median_ms(lambda: image_embeds(model, features, variant, question_ids))
        prefix = model.splice(prompt_ids, [embeds])[None]
        row |= self._of_length(prefix)
        row["steps"] = denoising_steps(model, prompt_ids, embeds, self.decoding)
        row["total_ms"] = clock.median_ms(lambda: self._answer(variant))
        row["kv_image_bytes"] = row["kv_bytes"] // row["prefix_tokens"] * row["tokens"]  # positions take equally many
        row["peak_memory_bytes"] = peak_bytes(model, clock.device, lambda: self._answer(variant))
        return row

    def _tower_ms(self, variant: Variant, features: VisionFeatures) -> float:
        if variant.views not in self.towers:
            self.towers[variant.views] = self.clock.median_ms(lambda: self.model.tower(features.pixels))
        return self.towers[variant.views]

    def _of_length(self, prefix: Tensor) -> dict[str, Any]:
        """What depends on the length of the prefix [1, P, H] alone, timed once for each length.

        `prefill_ms`, `step_ms` and `step_uncached_ms` (one denoising step, logits included, behind the cached prefix and
        with the prefix encoded again), `prefix_tokens`, and `kv_bytes`, counted from the cache.
        """
        length = prefix.shape[1]
        if length not in self.lengths:
            language, cache = self.model.language, self._prefill(prefix)
            masks = torch.full((1, self.decoding.max_new_tokens), self.model.config.mask_token_id)
            answer = language.embed_tokens(masks.to(prefix.device))
            whole = torch.cat([prefix, answer.to(prefix.dtype)], dim=1)
            self.lengths[length] = {
                "prefix_tokens": cache.length,
                "prefill_ms": self.clock.median_ms(lambda: self._prefill(prefix)),
                "step_ms": self.clock.median_ms(lambda: language.logits(language(answer, cache=cache))),
                "step_uncached_ms": self.clock.median_ms(lambda: language.logits(language(whole, read_from=length))),
                "kv_bytes": cache.nbytes,
            }
        return self.lengths[length]

    def _prefill(self, prefix: Tensor) -> PrefixCache:
        cache = PrefixCache()
        self.model.language(prefix, cache=cache, read_from=prefix.shape[1] - 1)
        return cache.freeze()

    def _answer(self, variant: Variant) -> str:
        """From the image to the text."""
        model = self.model
        prompt_ids = model.prompt_ids(self.prompt)
        features = Page(model, self.image).features(variant)
        embeds = image_embeds(model, features, variant, model.question_ids(prompt_ids))
        return generated_texts(model, [prompt_ids], [embeds], self.decoding)[0]


def denoising_steps(model: Lavida, prompt_ids: Tensor, embeds: Tensor, decoding: Decoding) -> int:
    """Passes of the language model over one answer, the prefix's own not counted."""
    passes = []
    generated_texts(model, [prompt_ids], [embeds], decoding, on_step=lambda number, _: passes.append(number))
    return len(passes)


def _savings(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by_name = {row["variant"]: row for row in rows}
    return [
        {
            "variant": row["variant"],
            "against": name,
            "tokens": row["tokens"],
            "reference_tokens": by_name[name]["tokens"],
            "image": 1 - row["kv_image_bytes"] / by_name[name]["kv_image_bytes"],
            "prefix": 1 - row["kv_bytes"] / by_name[name]["kv_bytes"],
        }
        for row in rows
        if row["mode"] in BUDGETED_MODES
        for name in KV_REFERENCES
        if name in by_name
    ]


class _Clock:
    """Times calls on one device, several times over."""

    def __init__(self, device: torch.device, repeats: int):
        self.device = device
        self.repeats = repeats

    def median_ms(self, action: Callable[[], object]) -> float:
        """Median duration of `action` in milliseconds, rounded to the microsecond."""
        for _ in range(WARM_UP):
            action()
        return round(statistics.median(self._once(action) for _ in range(self.repeats)), 3)

    def _once(self, action: Callable[[], object]) -> float:
        return timed(self.device, action)[1]


def timed(device: torch.device, action: Callable[[], Result]) -> tuple[Result, float]:
    """What `action` returns, and its duration in milliseconds: on a GPU of the work, not of its launch."""
    start = moment(device)
    result = action()
    return result, (moment(device) - start) * 1000


def moment(device: torch.device) -> float:
    """Seconds on a clock that begins anywhere, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
