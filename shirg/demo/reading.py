"""What the demo does with a page: look once, choose at any budget, answer step by step, and count what each of them costs."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor

from shirg.demo.handing import Hand, handed_over
from shirg.errors import UserError
from shirg.evaluation.efficiency import moment, timed
from shirg.evaluation.kept_picture import changed_patches, draw_patches, enlarged_page
from shirg.gate import SELECTORS, GateConfig, Kept
from shirg.images import to_rgb
from shirg.lavida import Lavida, PrefixCache, VisionFeatures
from shirg.lavida.filling import Filling, Run
from shirg.lavida.settings import VisionSettings
from shirg.lavida.vision import check_budget

LONG_SIDE, SHORT_SIDE = 960, 480
"""Pixels of a page in the browser: 20 for each of 48 patches, and more for a till receipt."""

MOST_LOOKED_AT = max(SELECTORS, key=lambda name: len(SELECTORS[name].needs))
"""The selector that wants most of the tower beside the tokens: looked at with it, a page serves all of them."""


@dataclass
class LookedAt:
    """One page as the tower saw it: all that is kept of a user's image."""

    name: str
    """What the page is called in texts."""
    canvas: Image.Image
    """The page at the size it is drawn in."""
    size: tuple[int, int]
    """(width, height) of the image."""
    features: VisionFeatures
    """Of the large view."""
    tower_ms: float
    small: Tensor
    """The view of `lowres` [1, H, W, 3], uint8; the tower looks at it when first asked."""
    small_features: VisionFeatures | None = None
    small_tower_ms: float = 0.0

    @property
    def patches(self) -> int:
        """What there is to choose from."""
        return self.features.num_tokens


@dataclass(frozen=True)
class Choice:
    """What the user turned the dials to."""

    budget: int = 768
    selector: str = "shirg"
    preset: str | None = None
    """A name in the gate's `PRESETS`; None takes the gate that the model was started with."""
    question: str = ""
    """Choose with this question in mind; without it by the page alone."""


@dataclass(frozen=True)
class Chosen:
    """A choice and what it cost."""

    kept: Kept
    gate_ms: float
    changed: int
    """Patches kept because of the question; where patches are merged, those that are merged otherwise."""


@dataclass(frozen=True)
class Costs:
    """Of one answer, measured in one run of each stage; milliseconds."""

    tokens: int
    """Visual tokens."""
    prefix_tokens: int
    """Visual tokens and the prompt's."""
    tower_ms: float
    """Once for every page, whatever is asked."""
    gate_ms: float | None
    """None where nothing is chosen."""
    prefill_ms: float
    denoise_ms: float
    passes: int
    kv_bytes: int
    """Of the cache of keys and values, counted from its tensors."""

    @property
    def seconds(self) -> float:
        """From the tower to the last token."""
        return (self.tower_ms + (self.gate_ms or 0.0) + self.prefill_ms + self.denoise_ms) / 1000


@dataclass(frozen=True)
class Step:
    """An answer after one pass; the last one has the text and the costs."""

    path: str
    """"shirg" or "lowres"."""
    number: int
    """Of passes so far; 0 before the first."""
    runs: tuple[Run, ...] = ()
    text: str | None = None
    costs: Costs | None = None


@dataclass
class Reader:
    """One model that reads for everybody, one call at a time."""

    model: Lavida
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def patches(self) -> int:
        """Tokens of the large view."""
        return math.prod(self.model.large_grid)

    @property
    def asks(self) -> bool:
        """Whether the question can take part in the choice."""
        return self.model.vision.relevance != "none"

    def look(self, image: Image.Image, name: str) -> LookedAt:
        """Run the tower over the large view of an image. The image itself is not kept.

        Raises:
            UserError: if it is empty or too large.
        """
        model, page = self.model, to_rgb(image)
        settings = self._settings(Choice(selector=MOST_LOOKED_AT))
        large, small = (model.view_shapes().cut(page, views) for views in ("large", "base"))
        with self._turn, torch.no_grad():
            features, spent = timed(model.device, lambda: model.encode_views(large, page.size, "large", settings))
        canvas = enlarged_page(page, model.vision.fit, LONG_SIDE, SHORT_SIDE)
        return LookedAt(name, canvas, page.size, features, spent, small)

    def choose(self, page: LookedAt, choice: Choice) -> Chosen:
        """Run the gate alone.

        Raises:
            UserError: for a budget, a selector or a preset that there is not, or that the selector cannot serve.
        """
        model = self.model
        check_budget(choice.budget, page.patches)
        asked = model.question_ids(model.prompt_ids(choice.question)) if choice.question.strip() else None
        try:
            settings = self._settings(choice)
            with self._turn:
                kept, spent = timed(model.device, lambda: model.select(page.features, choice.budget, asked, settings))
                unasked = kept if asked is None else model.select(page.features, choice.budget, None, settings)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{choice.selector}: {error}") from error
        return Chosen(kept, spent, changed_patches(kept, unasked))

    def draw(self, page: LookedAt, kept: Kept, *, groups: bool = False) -> Image.Image:
        """The page with its kept patches bright, or with its groups tinted."""
        return draw_patches(page.canvas, kept, page.features.grid, "groups" if groups else "kept")

    def answer(self, page: LookedAt, question: str, choice: Choice | None) -> Iterator[Step]:
        """The answer to `question` step by step, from what `choice` keeps, or by `lowres` where it is None.

        Work goes on in a thread of its own while its steps are looked at, so that times are those of the model alone;
        closing the iterator ends it.

        Raises:
            UserError: for an empty question, or a choice that cannot be made.
        """
        return handed_over(lambda hand: self._answer(page, question, choice, hand))

    @torch.no_grad()
    def _answer(self, page: LookedAt, question: str, choice: Choice | None, hand: Hand[Step]) -> None:
        model, path = self.model, "lowres" if choice is None else "shirg"
        ids, gate_ms, seen = model.prompt_ids(question), None, page.features
        if choice is None:
            seen, tower_ms = self._look_small(page), page.small_tower_ms
            embeds = model.image_embeds(seen, "lowres")
        else:
            chosen = self.choose(page, choice)
            gate_ms, tower_ms = chosen.gate_ms, page.tower_ms
            embeds = model.mm_projector(chosen.kept.tokens[0])
        filling, length = Filling(model), model.config.answer_tokens
        caches, times, passes = [], [], []

        def on_prefix(cache: PrefixCache) -> None:
            times.append(moment(model.device))
            caches.append((cache.length, cache.nbytes))
            blank = torch.full((1, length), model.config.mask_token_id)
            hand(Step(path, 0, tuple(Filling(model).runs(blank))))

        def on_step(number: int, tokens: Tensor) -> None:
            passes.append(number)
            hand(Step(path, number, tuple(filling.runs(tokens))))

        begun = moment(model.device)
        tokens = model.generate(
            ids[None],
            image_embeds=[embeds],
            max_new_tokens=length,
            block_length=length,
            stop_early=True,
            on_prefix=on_prefix,
            on_step=on_step,
        )
        ended = moment(model.device)
        (prefix_tokens, kv_bytes), full = caches[0], times[0]
        costs = Costs(
            tokens=len(embeds),
            prefix_tokens=prefix_tokens,
            tower_ms=tower_ms,
            gate_ms=gate_ms,
            prefill_ms=(full - begun) * 1000,
            denoise_ms=(ended - full) * 1000,
            passes=len(passes),
            kv_bytes=kv_bytes,
        )
        hand(Step(path, len(passes), tuple(filling.runs(tokens)), model.answer_text(tokens[0]), costs))

    def _settings(self, choice: Choice) -> VisionSettings:
        """The model's own with the choice's preset and selector."""
        own = self.model.vision
        gate = own.gate if choice.preset is None else GateConfig.preset(choice.preset)
        return replace(own, gate=replace(gate, selector=choice.selector))

    def _look_small(self, page: LookedAt) -> VisionFeatures:
        if page.small_features is not None:
            return page.small_features
        model = self.model
        with self._turn:
            seen, spent = timed(model.device, lambda: model.encode_views(page.small, page.size, "base"))
        page.small_features, page.small_tower_ms = seen, spent
        return seen
