"""The demo's model: encode a page once, select at any budget, answer step by step, and measure the costs."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor

from shirg.demo.streaming import Emit, stream_from_thread
from shirg.errors import UserError
from shirg.evaluation.efficiency import moment, timed
from shirg.evaluation.kept_picture import changed_patches, draw_patches, enlarged_page
from shirg.gate import SELECTORS, GateConfig, Kept
from shirg.images import to_rgb
from shirg.lavida import Lavida, PrefixCache, VisionFeatures
from shirg.lavida.progress import AnswerProgress, Span
from shirg.lavida.settings import VisionSettings
from shirg.lavida.vision import check_budget

LONG_SIDE, SHORT_SIDE = 960, 480
"""Pixels of a page in the browser: 20 for each of 48 patches; more for a narrow receipt."""

MOST_NEEDS = max(SELECTORS, key=lambda name: len(SELECTORS[name].needs))
"""The selector that needs most outputs of the tower; its features are enough for every selector."""


@dataclass
class EncodedPage:
    """The tower's features of one page; the user's image itself is not kept."""

    name: str
    """Name of the page in texts."""
    canvas: Image.Image
    """The page at the size in which it is drawn."""
    size: tuple[int, int]
    """(width, height) of the image."""
    features: VisionFeatures
    """Of the large view."""
    tower_ms: float
    lowres_pixels: Tensor
    """The view of `lowres` [1, H, W, 3], uint8; encoded on the first question."""
    lowres_features: VisionFeatures | None = None
    lowres_tower_ms: float = 0.0
    early_features: VisionFeatures | None = None
    """Embedded patches of the large view, for selections before the tower."""
    embedding_ms: float = 0.0
    """Time of their embedding."""

    @property
    def patches(self) -> int:
        """Number of tokens to select from."""
        return self.features.num_tokens


@dataclass(frozen=True)
class Choice:
    """The user's settings of the selection."""

    budget: int = 768
    selector: str = "shirg"
    preset: str | None = None
    """A name in the gate's `PRESETS`; None is the gate of the model."""
    question: str = ""
    """Question for the relevance term; empty selects by the page alone."""
    early: bool = False
    """Whether the selection is made before the tower, by the page alone."""


@dataclass(frozen=True)
class Selected:
    """Kept tokens and the time of the gate."""

    kept: Kept
    gate_ms: float
    changed: int
    """Patches that are kept only with the question; if patches are merged, those that are merged differently."""


@dataclass(frozen=True)
class Costs:
    """Costs of one answer, measured in one run of each stage; times in milliseconds."""

    tokens: int
    """Visual tokens."""
    prefix_tokens: int
    """Visual tokens and the prompt's."""
    tower_ms: float
    """Once per page, for all questions; of an early selection once per selection."""
    gate_ms: float | None
    """None without a selection."""
    prefill_ms: float
    denoise_ms: float
    passes: int
    kv_bytes: int
    """Of the KV cache, counted from its tensors."""

    @property
    def seconds(self) -> float:
        """From the tower to the last token."""
        return (self.tower_ms + (self.gate_ms or 0.0) + self.prefill_ms + self.denoise_ms) / 1000


@dataclass(frozen=True)
class Step:
    """An answer after one denoising step; the last one has the text and the costs."""

    path: str
    """"shirg" or "lowres"."""
    number: int
    """Denoising steps so far; 0 before the first."""
    spans: tuple[Span, ...] = ()
    text: str | None = None
    costs: Costs | None = None


@dataclass
class Reader:
    """A model shared by all users; one call at a time."""

    model: Lavida
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def patches(self) -> int:
        """Tokens of the large view."""
        return math.prod(self.model.large_grid)

    @property
    def side(self) -> int:
        """Pixels per side of the large view."""
        return self.model.vision.resolution

    @property
    def selector(self) -> str:
        """The model's own selector."""
        return self.model.vision.gate.selector

    @property
    def uses_question(self) -> bool:
        """Whether the model can select by the question."""
        return self.model.vision.relevance != "none"

    def encode(self, image: Image.Image, name: str) -> EncodedPage:
        """Run the tower on the large view of an image.

        Raises:
            UserError: if it is empty or too large.
        """
        model, page = self.model, to_rgb(image)
        settings = self._settings(Choice(selector=MOST_NEEDS))
        large, lowres = (model.view_shapes().cut(page, views) for views in ("large", "base"))
        with self._lock, torch.no_grad():
            features, spent = timed(model.device, lambda: model.encode_views(large, page.size, "large", settings))
        canvas = enlarged_page(page, model.vision.fit, LONG_SIDE, SHORT_SIDE)
        return EncodedPage(name, canvas, page.size, features, spent, lowres)

    def select(self, page: EncodedPage, choice: Choice) -> Selected:
        """Run the gate.

        Raises:
            UserError: for an unknown selector or preset, an invalid budget, or one that the selector cannot serve.
        """
        model = self.model
        check_budget(choice.budget, page.patches)
        question = model.question_ids(model.prompt_ids(choice.question)) if choice.question.strip() else None
        try:
            settings, features = self._settings(choice), self._features(page, choice)
            with self._lock:
                kept, spent = timed(model.device, lambda: model.select(features, choice.budget, question, settings))
                by_page = kept if question is None else model.select(features, choice.budget, None, settings)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{choice.selector}: {error}") from error
        return Selected(kept, spent, changed_patches(kept, by_page))

    def draw(self, page: EncodedPage, kept: Kept, *, groups: bool = False) -> Image.Image:
        """The page with its kept patches bright, or with its groups tinted."""
        return draw_patches(page.canvas, kept, page.features.grid, "groups" if groups else "kept")

    def answer(self, page: EncodedPage, question: str, choice: Choice | None) -> Iterator[Step]:
        """The answer to `question` step by step, from the tokens that `choice` keeps, or by `lowres` if it is None.

        The model runs in its own thread, so that times do not include the display; closing the iterator ends it.

        Raises:
            UserError: for an empty question, or as `select`.
        """
        return stream_from_thread(lambda emit: self._answer(page, question, choice, emit))

    @torch.no_grad()
    def _answer(self, page: EncodedPage, question: str, choice: Choice | None, emit: Emit[Step]) -> None:
        model, path = self.model, "lowres" if choice is None else "shirg"
        ids, gate_ms = model.prompt_ids(question), None
        if choice is None:
            embeds = model.image_embeds(self._encode_lowres(page), "lowres")
            tower_ms = page.lowres_tower_ms
        else:
            selected, features = self.select(page, choice), self._features(page, choice)
            encoded, spent = timed(model.device, lambda: model.encode_kept(selected.kept, features))
            gate_ms, tower_ms = selected.gate_ms, page.embedding_ms + spent if choice.early else page.tower_ms
            embeds = model.mm_projector(encoded)
        progress, length = AnswerProgress(model), model.config.answer_tokens
        caches, times, steps = [], [], []

        def on_prefix(cache: PrefixCache) -> None:
            times.append(moment(model.device))
            caches.append((cache.length, cache.nbytes))
            blank = torch.full((1, length), model.config.mask_token_id)
            emit(Step(path, 0, tuple(AnswerProgress(model).spans(blank))))

        def on_step(number: int, tokens: Tensor) -> None:
            steps.append(number)
            emit(Step(path, number, tuple(progress.spans(tokens))))

        started = moment(model.device)
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
        (prefix_tokens, kv_bytes), prefilled = caches[0], times[0]
        costs = Costs(
            tokens=len(embeds),
            prefix_tokens=prefix_tokens,
            tower_ms=tower_ms,
            gate_ms=gate_ms,
            prefill_ms=(prefilled - started) * 1000,
            denoise_ms=(ended - prefilled) * 1000,
            passes=len(steps),
            kv_bytes=kv_bytes,
        )
        emit(Step(path, len(steps), tuple(progress.spans(tokens)), model.answer_text(tokens[0]), costs))

    def _settings(self, choice: Choice) -> VisionSettings:
        """The model's settings with the choice's preset and selector."""
        own = self.model.vision
        gate = own.gate if choice.preset is None else GateConfig.preset(choice.preset)
        return replace(own, gate=replace(gate, selector=choice.selector))

    def _features(self, page: EncodedPage, choice: Choice) -> VisionFeatures:
        """What the choice selects from."""
        if not choice.early:
            return page.features
        if page.early_features is None:
            with self._lock, torch.no_grad():
                patches, page.embedding_ms = timed(
                    self.model.device, lambda: self.model.tower.embed(page.features.pixels)
                )
            page.early_features = replace(page.features, tokens=patches, last_input=None, early=True)
        return page.early_features

    def _encode_lowres(self, page: EncodedPage) -> VisionFeatures:
        if page.lowres_features is not None:
            return page.lowres_features
        model = self.model
        with self._lock:
            features, spent = timed(model.device, lambda: model.encode_views(page.lowres_pixels, page.size, "base"))
        page.lowres_features, page.lowres_tower_ms = features, spent
        return features
