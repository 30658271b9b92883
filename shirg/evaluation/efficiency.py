"""What every vision path costs: tokens, time by stage, bytes of the prefix cache."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from shirg.evaluation.answering import Decoding, Page, generated_text
from shirg.evaluation.variants import BUDGETED_MODES, Variant
from shirg.lavida import Lavida, PrefixCache, VisionFeatures

WARM_UP = 2
"""Untimed runs of every stage: the first ones pay for memory and kernels."""

KV_REFERENCES = ("hd", "highres")
"""Paths whose cache a selection's is compared with: LaViDa's own, and all tokens of the 672 grid."""


@torch.no_grad()
def measure_efficiency(
    model: Lavida, image: Image.Image, prompt: str, variants: Sequence[Variant], decoding: Decoding, repeats: int
) -> dict:
    """Time each stage of answering one question about one page, batch of one; milliseconds, median of `repeats`.

    Returns:
        `rows`, one for each variant: `tokens` (visual), `prefix_tokens` (with the prompt), `tower_ms`, `selection_ms`
        (None where nothing is selected; relevance to the question included), `embedding_ms` (from tower tokens to
        what is spliced into the prompt: selection or pooling, and projector), `prefill_ms`, `step_ms` (one denoising
        step, logits included), `steps` (counted while this answer was denoised), `total_ms` (image to text, image
        preparation included), `kv_bytes` (whole prefix, counted from the cache), `kv_image_bytes` (the visual tokens'
        part), `peak_memory_bytes` (None without a GPU). And `savings` of cache bytes, for each selection against each
        reference, of the visual part and of the whole prefix.
    """
    clock = _Clock(torch.device(model.device), repeats)
    towers: dict[str, float] = {}
    rows = []
    for variant in variants:
        features = model.image_features(image, variant.features)
        if variant.features not in towers:
            towers[variant.features] = clock.median_ms(lambda pixels=features.pixels: model.tower(pixels))
        rows.append(
            {**variant.as_dict(), "tower_ms": towers[variant.features]}
            | _measure(model, image, prompt, variant, features, decoding, clock)
        )
    return {
        "repeats": repeats,
        "warm_up": WARM_UP,
        "page_size": list(image.size),
        "rows": rows,
        "savings": _savings(rows),
    }


def _measure(
    model: Lavida,
    image: Image.Image,
    prompt: str,
    variant: Variant,
    features: VisionFeatures,
    decoding: Decoding,
    clock: _Clock,
) -> dict:
    selects = variant.mode in BUDGETED_MODES
    prompt_ids = model.prompt_ids(prompt)
    question_ids = model.question_ids(prompt_ids)

    def select() -> object:
        return model.select(features, variant.budget, question_ids)

    def embed() -> Tensor:
        return model.image_embeds(features, variant.mode, variant.budget, question_ids)

    def prefill() -> PrefixCache:
        cache = PrefixCache()
        model.language(prefix, cache=cache)
        return cache.freeze()

    def step() -> Tensor:
        return model.language.logits(model.language(model.language.embed_tokens(masks), cache=cache))

    def answer() -> list[tuple[str, int]]:
        return list(Page(model, image).answers(variant, [prompt], decoding))

    embeds = embed()
    prefix = model.splice(prompt_ids, [embeds])[None]
    cache = prefill()
    masks = torch.full((1, decoding.max_new_tokens), model.config.mask_token_id, device=model.device)
    return {
        "tokens": embeds.shape[0],
        "prefix_tokens": cache.length,
        "selection_ms": clock.median_ms(select) if selects else None,
        "embedding_ms": clock.median_ms(embed),
        "prefill_ms": clock.median_ms(prefill),
        "step_ms": clock.median_ms(step),
        "steps": denoising_steps(model, prompt_ids, embeds, decoding),
        "total_ms": clock.median_ms(answer),
        "kv_bytes": cache.nbytes,
        "kv_image_bytes": cache.nbytes // cache.length * embeds.shape[0],  # positions take equally many
        "peak_memory_bytes": clock.peak_memory(answer),
    }


def denoising_steps(model: Lavida, prompt_ids: Tensor, image_embeds: Tensor, decoding: Decoding) -> int:
    """Passes of the language model over one answer, the prefix's own not counted."""
    passes = []
    generated_text(model, prompt_ids, image_embeds, decoding, on_step=lambda number, _: passes.append(number))
    return len(passes)


def _savings(rows: Sequence[dict]) -> list[dict]:
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
    """Times calls on one device; on a GPU it waits for the work, not for its launch."""

    def __init__(self, device: torch.device, repeats: int):
        self.device = device
        self.repeats = repeats

    def median_ms(self, action: Callable[[], object]) -> float:
        """Median duration of `action` in milliseconds, rounded to the microsecond."""
        for _ in range(WARM_UP):
            action()
        return round(statistics.median(self._once(action) for _ in range(self.repeats)), 3)

    def peak_memory(self, action: Callable[[], object]) -> int | None:
        """Most bytes that tensors held on the GPU while `action` ran, weights included; None on a CPU."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        action()
        return torch.cuda.max_memory_allocated(self.device)

    def _once(self, action: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        action()
        self._wait()
        return (time.perf_counter() - start) * 1000

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
