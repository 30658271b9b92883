"""Part "paths" of `full_size.py`: answering one question about one image through every vision path, stage by stage.

Batch of one, bfloat16. The image is noise that lies on the device as bytes, cut into its views; loading and resizing an image
file is no part of it. `answer` is everything from these bytes to the ids of the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from full_size_clock import Clock, floor
from full_size_model import Size, look, random_model, random_prompt, random_views
from torch import Tensor

from shirg.evaluation.answering import image_embeds
from shirg.evaluation.variants import SELECTING_MODES, Variant
from shirg.lavida import Lavida, PrefixCache, VisionFeatures, costs

DTYPE = "bfloat16"


@dataclass(frozen=True)
class Case:
    """One vision path, at one budget if it has budgets."""

    variant: Variant

    @property
    def key(self) -> str:
        return self.variant.name


class PathsPart:
    """The vision paths' rows."""

    def __init__(self, size: Size, clock: Clock):
        self.size, self.clock = size, clock

    @property
    def cases(self) -> list[Case]:
        """LaViDa's own paths, ours by budget, and every token of the large view and of the tiles."""
        ours = [Variant("shirg", budget) for budget in self.size.budgets]
        whole = [Variant(mode) for mode in ("lowres", "hd-flat", "hd", "highres", "multiview-all")]
        return [Case(variant) for variant in (*ours, *whole, Variant("multiview", self.size.main_budget))]

    @cached_property
    def model(self) -> Lavida:
        """Made with the first row; `hd` has newlines, `hd-flat` has none."""
        return random_model(self.size.config, self.clock.device, getattr(torch, DTYPE))

    @torch.no_grad()
    def measure(self, case: Case) -> dict:
        """One row: shape, stages with their floors, bytes of the real cache."""
        size, variant = self.size, case.variant
        views = random_views(size.config, variant.vision_path, self.clock.device)
        prompt = random_prompt(size.config, size.text_tokens)
        question = self.model.question_ids(prompt).to(self.clock.device)
        features = look(self.model, views, variant.vision_path)
        embeds = image_embeds(self.model, features, variant, question)
        prefix = self.model.splice(prompt, [embeds])[None]
        cache = self._prefilled(prefix)
        scenario = costs.Scenario(
            prompt_tokens=size.text_tokens, answer_tokens=size.answer_tokens, steps=size.steps, dtype=DTYPE
        )
        shape = costs.vision_shape(size.config, variant.mode, budget=variant.budget)
        computed = costs.path_cost(size.config, shape, scenario)
        stages = self._stages(variant, features, question, prefix, cache)
        stages |= {
            name: self._answer(views, prompt, question, variant, prefix_cache=name == "answer")
            for name in ("answer", "answer_uncached")
        }
        floors = self._floors(features, embeds, prefix, cache, computed)
        return {
            "mode": variant.mode,
            "budget": variant.budget,
            "batch": 1,
            "dtype": DTYPE,
            "pixels": list(features.pixels.shape),
            "tower_tokens": features.num_tokens,
            "visual_tokens": len(embeds),
            "prefix_tokens": cache.length,
            "answer_tokens": size.answer_tokens,
            "steps": size.steps,
            "kv_bytes": cache.nbytes,
            "kv_bytes_computed": computed.kv_bytes,
            "stages": {name: {**found, "floor": floors[name]} for name, found in stages.items()},
        }

    def _stages(
        self, variant: Variant, features: VisionFeatures, question: Tensor, prefix: Tensor, cache: PrefixCache
    ) -> dict[str, dict]:
        """Time and peak memory of each stage alone."""
        model, language = self.model, self.model.language
        masks = torch.full((1, self.size.answer_tokens), model.config.mask_token_id, device=self.clock.device)
        answer = language.embed_tokens(masks)
        whole = torch.cat([prefix, answer], dim=1)
        calls: dict[str, Callable[[], object]] = {"tower": lambda: model.tower(features.pixels)}
        if variant.mode in SELECTING_MODES:
            kept = model.select(features, variant.budget, question)
            calls["gate"] = lambda: model.select(features, variant.budget, question)
            calls["projector"] = lambda: model.mm_projector(kept.tokens[0])
        else:  # with the pooling behind it, where there is one
            calls["projector"] = lambda: image_embeds(model, features, variant)
        calls |= {
            "prefill": lambda: self._prefilled(prefix),
            "step": lambda: language.logits(language(answer, cache=cache)),
            "step_uncached": lambda: language.logits(language(whole, read_from=prefix.shape[1])),
        }
        return {name: self._timed(call, self.size.runs.stage) for name, call in calls.items()}

    def _timed(self, call: Callable[[], object], runs: int) -> dict:
        peak = self.clock.peak(call)
        return {**self.clock.time(call, warm_up=min(self.size.runs.warm_up, runs), runs=runs), **peak}

    def _prefilled(self, prefix: Tensor) -> PrefixCache:
        cache = PrefixCache()
        self.model.language(prefix, cache=cache, read_from=prefix.shape[1] - 1)
        return cache.freeze()

    def _answer(self, views: Tensor, prompt: Tensor, question: Tensor, variant: Variant, *, prefix_cache: bool) -> dict:
        """From the image's bytes to the answer's ids."""
        passes: list[int] = []

        def call() -> None:
            features = look(self.model, views, variant.vision_path)
            embeds = image_embeds(self.model, features, variant, question)
            passes.clear()
            self.model.generate(
                prompt[None],
                image_embeds=[embeds],
                max_new_tokens=self.size.answer_tokens,
                block_length=self.size.answer_tokens,
                steps=self.size.steps,
                prefix_lm=prefix_cache,
                on_step=lambda number, _: passes.append(number),
            )

        timed = self._timed(call, self.size.runs.answer)
        return {**timed, "passes": len(passes)}

    def _floors(
        self, features: VisionFeatures, embeds: Tensor, prefix: Tensor, cache: PrefixCache, computed: costs.PathCost
    ) -> dict[str, dict]:
        """Per stage: weights, input and output once, and the FLOPs of `shirg.lavida.costs`."""
        language, steps, tokens = self.model.language, self.size.steps, features.tokens.nbytes
        body, head = weight_bytes(language.layers), weight_bytes(language.lm_head)
        projector, pixels = weight_bytes(self.model.mm_projector), features.pixels.nbytes
        kept = embeds.nbytes * self.size.config.vision_hidden_size // self.size.config.hidden_size
        selects = computed.gate_arithmetic > 0
        work = {
            "tower": (weight_bytes(self.model.tower.vision_model.encoder) + pixels + tokens, computed.tower),
            "gate": (
                tokens + pixels + kept + projector * (computed.gate_projection > 0),
                computed.gate_projection + computed.gate_arithmetic,
            ),
            "projector": (projector + (kept if selects else tokens) + embeds.nbytes, computed.projector),
            "prefill": (body + prefix.nbytes + cache.nbytes, computed.prefill),
            "step": (body + head + cache.nbytes, computed.step_cached),
            "step_uncached": (body + head + prefix.nbytes, computed.step_uncached),
        }
        if not selects:
            work["gate"] = (0, 0)
        floors = {name: floor(self.clock.device_name, *sizes) for name, sizes in work.items()}
        vision = ("tower", "gate", "projector")
        floors["answer"] = summed([*((floors[name], 1) for name in (*vision, "prefill")), (floors["step"], steps)])
        floors["answer_uncached"] = summed([*((floors[name], 1) for name in vision), (floors["step_uncached"], steps)])
        return floors


def weight_bytes(module: torch.nn.Module) -> int:
    """Of a module's parameters."""
    return sum(parameter.nbytes for parameter in module.parameters())


def summed(parts: list[tuple[dict, int]]) -> dict:
    """Floors that come one after the other, each so many times."""
    times = [None if part["ms"] is None else part["ms"] * count for part, count in parts]
    return {
        **{name: sum(part[name] * count for part, count in parts) for name in ("bytes", "flops")},
        "ms": None if None in times else round(sum(times), 5),
    }
