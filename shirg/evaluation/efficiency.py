"""Costs of every variant: tokens, time by stage, bytes of the KV cache."""

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
from shirg.evaluation.answering import Decoding, Page, generated_ids, image_embeds
from shirg.evaluation.results import Computed, ComputedCost, Cost, Efficiency, Saving
from shirg.evaluation.variants import BASELINES, BUDGETED_MODES, Variant
from shirg.lavida import Lavida, PrefixCache, VisionFeatures
from shirg.lavida.costs import Scenario, path_cost, path_tokens, vision_shape
from shirg.lavida.shapes import published_config
from shirg.lavida.views import Views
from shirg.threads import LEAST_SECONDS, spare_threads

WARM_UP = 1
"""Untimed runs of every stage, which allocate memory and load kernels."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

SHAPE = "llada-8b"
"""The published shape whose costs are computed, a key of `shirg.lavida.shapes.PUBLISHED`."""

KV_REFERENCES = ("hd", "highres")
"""Paths whose cache a selection's is compared with."""


def measure_efficiency(
    model: Lavida,
    image: Image.Image,
    prompt_ids: Tensor,
    variants: Sequence[Variant],
    decoding: Decoding,
    repeats: int,
    advance: Callable[[str, int], None],
) -> Efficiency:
    """Time each stage of answering one question about one page, batch of one; median of `repeats`.

    Selection includes relevance to the question, and the attention and keys that some selectors need; the budget "auto" is
    the page's own. A variant whose prefix is too long for the model is left out.

    Args:
        prompt_ids: [L] with one image placeholder.
        advance: called with the variant that is timed and the number of variants done since the last call.
    """
    timing = PageTiming(model, image, prompt_ids, decoding, repeats)
    rows = []
    with spare_threads() as threads:
        threads.adjust(wait=LEAST_SECONDS if threads.most > 1 else 0.0)
        for variant in variants:
            advance(f"timing {variant.name}", 0)
            try:
                rows.append(timing.row(variant))
            except ItemError as error:
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
class PageTiming:
    """One page with one question, on which variants are timed."""

    model: Lavida
    image: Image.Image
    prompt_ids: Tensor
    """[L] with one image placeholder."""
    decoding: Decoding
    repeats: int
    towers: dict[Views, float] = field(default_factory=dict)
    """Views -> time of the tower on all patches, ms."""
    lengths: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Length of the prefix -> times and bytes that depend on it alone."""

    @torch.no_grad()
    def row(self, variant: Variant) -> Cost:
        """All that is measured of one variant, without an adapter.

        Raises:
            ItemError: if the prefix is too long for the model.
        """
        model, question_ids = self.model, self.model.question_ids(self.prompt_ids)
        features, embeds = self._embedded(variant)
        budget, settings = variant.budget, variant.settings(model.vision)
        of_length = self._of_length(model.splice(self.prompt_ids, [embeds])[None])
        return Cost(
            variant=variant,
            tokens=embeds.shape[0],
            tower_ms=self._tower_ms(variant, features),
            selection_ms=None
            if budget is None
            else self._median_ms(lambda: model.select(features, budget, question_ids, settings)),
            embedding_ms=self._median_ms(lambda: self._project(variant, features)),
            **of_length,
            steps=denoising_steps(model, self.prompt_ids, embeds, self.decoding),
            total_ms=self._median_ms(lambda: self._answer(variant)),
            kv_image_bytes=of_length["kv_bytes"] // of_length["prefix_tokens"] * embeds.shape[0],  # equal positions
            peak_memory_bytes=peak_bytes(model.device, lambda: self._answer(variant)),
        )

    def _median_ms(self, action: Callable[[], object]) -> float:
        return median_ms(self.model.device, action, WARM_UP, self.repeats)

    def _embedded(self, variant: Variant) -> tuple[VisionFeatures, Tensor]:
        """From the image to its embeddings in the prompt [n, hidden]."""
        features = Page(self.model, self.image).features(variant)
        return features, image_embeds(self.model, features, variant, self.model.question_ids(self.prompt_ids))

    def _answer(self, variant: Variant) -> Tensor:
        """From the image to the answer's ids."""
        return generated_ids(self.model, [self.prompt_ids], [self._embedded(variant)[1]], self.decoding)

    def _tower_ms(self, variant: Variant, features: VisionFeatures) -> float:
        """Time of the tower: on all patches, or of an early path on the kept ones."""
        model, budget = self.model, variant.budget
        if features.early and budget is not None:
            kept = model.select(features, budget)
            return self._median_ms(lambda: (model.tower.embed(features.pixels), model.encode_kept(kept, features)))
        if features.views not in self.towers:
            self.towers[features.views] = self._median_ms(lambda: model.tower(features.pixels))
        return self.towers[features.views]

    def _project(self, variant: Variant, features: VisionFeatures) -> Tensor:
        """From features to embeddings, without the tower: of an early path the kept patches are projected as they are."""
        model, question_ids = self.model, self.model.question_ids(self.prompt_ids)
        if features.early and variant.budget is not None:
            return model.mm_projector(model.select(features, variant.budget).tokens[0])
        return image_embeds(model, features, variant, question_ids)

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
                "prefill_ms": self._median_ms(lambda: self._prefill(prefix)),
                "step_ms": self._median_ms(lambda: language.logits(language(answer, cache=cache))),
                "step_uncached_ms": self._median_ms(lambda: language.logits(language(whole, read_from=length))),
                "kv_bytes": cache.nbytes,
            }
        return self.lengths[length]

    def _prefill(self, prefix: Tensor) -> PrefixCache:
        cache = PrefixCache()
        self.model.language(prefix, cache=cache, read_from=prefix.shape[1] - 1)
        return cache.freeze()


def denoising_steps(model: Lavida, prompt_ids: Tensor, embeds: Tensor, decoding: Decoding) -> int:
    """Denoising steps of one answer."""
    passes = []
    generated_ids(model, [prompt_ids], [embeds], decoding, on_step=lambda number, _: passes.append(number))
    return len(passes)


def peak_bytes(device: torch.device, action: Callable[[], object]) -> int | None:
    """Peak of the bytes allocated on the GPU while `action` ran, weights included; None on a CPU, where torch does not count
    them."""
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

    Left out are baselines, whose costs differ from those of `shirg` by their own arithmetic alone, budgets above the tokens of
    the large view, and the budget "auto", which differs between pages.

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


def median_ms(device: torch.device, action: Callable[[], object], warm_up: int, repeats: int) -> float:
    """Median duration of `action` in milliseconds, to the microsecond, after `warm_up` untimed calls."""
    for _ in range(warm_up):
        action()
    return round(statistics.median(timed(device, action)[1] for _ in range(repeats)), 3)


def timed(device: torch.device, action: Callable[[], Result]) -> tuple[Result, float]:
    """What `action` returns, and its duration in milliseconds, the device's work included."""
    start = moment(device)
    result = action()
    return result, (moment(device) - start) * 1000


def moment(device: torch.device) -> float:
    """`time.perf_counter`, once the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
