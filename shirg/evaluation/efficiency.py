"""What every vision path costs: tokens, time by stage, bytes of the prefix cache."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from shirg.errors import ItemError
from shirg.evaluation.answering import Decoding, Page, generated_texts, image_embeds
from shirg.evaluation.results import Computed, ComputedCost, Cost, Efficiency, Saving
from shirg.evaluation.variants import BASELINES, BUDGETED_MODES, Variant
from shirg.lavida import Lavida, PrefixCache, VisionFeatures
from shirg.lavida.costs import Scenario, path_cost, path_tokens, vision_shape
from shirg.lavida.shapes import published_config
from shirg.threads import LEAST_SECONDS, spare_threads

WARM_UP = 1
"""Untimed runs of every stage: the first one pays for memory and kernels."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

SHAPE = "llada-8b"
"""The published shape whose costs are computed, a key of `shirg.lavida.shapes.PUBLISHED`."""

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
) -> Efficiency:
    """Time each stage of answering one question about one page, batch of one; median of `repeats`.

    Selection includes relevance to the question, and the attention and keys that some selectors need; the budget "auto" is
    the page's own. A variant that the page cannot be shown through is left out.
    """
    bench = _Bench(model, image, prompt, decoding, _Clock(torch.device(model.device), repeats))
    rows = []
    with spare_threads() as threads:
        threads.adjust(wait=LEAST_SECONDS if threads.most > 1 else 0.0)
        for variant in variants:
            advance(f"timing {variant.name}", 0)
            try:
                rows.append(bench.row(variant))
            except ItemError as error:  # this page cannot be shown so, others can
                logger.warning("%s is not timed: %s", variant.name, error)
            advance(f"timing {variant.name}", 1)
    return Efficiency(
        repeats=repeats,
        warm_up=WARM_UP,
        page_size=list(image.size),
        rows=rows,
        savings=_savings(rows),
        computed=computed_costs(variants, model.vision.resolution),
    )


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

    def row(self, variant: Variant) -> Cost:
        """All that is measured of one variant; one without an adapter."""
        model, clock = self.model, self.clock
        prompt_ids = model.prompt_ids(self.prompt)
        question_ids = model.question_ids(prompt_ids)
        features = Page(model, self.image).features(variant)
        embeds = image_embeds(model, features, variant, question_ids)
        budget, settings = variant.budget, variant.settings(model.vision)
        of_length = self._of_length(model.splice(prompt_ids, [embeds])[None])
        return Cost(
            variant=variant,
            tokens=embeds.shape[0],
            tower_ms=self._tower_ms(variant, features),
            selection_ms=None
            if budget is None
            else clock.median_ms(lambda: model.select(features, budget, question_ids, settings)),
            embedding_ms=clock.median_ms(lambda: image_embeds(model, features, variant, question_ids)),
            **of_length,
            steps=denoising_steps(model, prompt_ids, embeds, self.decoding),
            total_ms=clock.median_ms(lambda: self._answer(variant)),
            kv_image_bytes=of_length["kv_bytes"] // of_length["prefix_tokens"] * embeds.shape[0],  # equal positions
            peak_memory_bytes=peak_bytes(clock.device, lambda: self._answer(variant)),
        )

    def _tower_ms(self, variant: Variant, features: VisionFeatures) -> float:
        if variant.views not in self.towers:
            self.towers[variant.views] = self.clock.median_ms(lambda: self.model.tower(features.pixels))
        return self.towers[variant.views]

    def _of_length(self, prefix: Tensor) -> dict[str, Any]:
        """What depends on the length of the prefix [1, P, H] alone, timed once for each length.

        `prefill_ms`, `step_ms` and `step_uncached_ms` (one denoising step, logits included, after the cached prefix and
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


def peak_bytes(device: torch.device, action: Callable[[], object]) -> int | None:
    """Most bytes that the GPU's allocator held at once while `action` ran, weights included; None on a CPU, where torch does
    not count them and the system's high-water mark is one for the whole process."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    action()
    return torch.cuda.max_memory_allocated(device)


def _savings(rows: Sequence[Cost]) -> list[Saving]:
    by_name = {row.variant.name: row for row in rows}
    return [
        Saving(
            variant=row.variant.name,
            against=name,
            tokens=row.tokens,
            reference_tokens=other.tokens,
            image=1 - row.kv_image_bytes / other.kv_image_bytes,
            prefix=1 - row.kv_bytes / other.kv_bytes,
        )
        for row in rows
        if row.variant.mode in BUDGETED_MODES
        for name, other in by_name.items()
        if name in KV_REFERENCES
    ]


def computed_costs(variants: Sequence[Variant], resolution: int) -> Computed:
    """Bytes and FLOPs of one answer by each path at the size of a published model; see `shirg.lavida.costs` for what is
    counted.

    Other selectors are left out: up to their own arithmetic, which is not counted, they cost what `shirg` does. So are
    budgets above the tokens of the large view, and the budget "auto", which is another for every page.

    Args:
        resolution: side in pixels of the large view, the run's own.
    """
    published, scenario = published_config(SHAPE), Scenario()
    config = replace(published, vision=replace(published.vision, resolution=resolution))
    most, rows = path_tokens(config, "highres"), []
    for variant in variants:
        budget = variant.budget
        if variant.mode not in BASELINES and budget != "auto" and (budget or 0) <= most:
            shape = vision_shape(config, variant.mode, budget=budget)
            cost = asdict(path_cost(config, shape, scenario))
            rows.append(ComputedCost(**cost, variant=variant.name, tokens=shape.tokens))
    plain = asdict(scenario) | {"image_size": list(scenario.image_size)}
    return Computed(shape=SHAPE, scenario=plain, rows=rows)


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
