"""The model's thread: waiting requests are denoised together, window by window.

A window is `answer_tokens` positions, the length of answers that the model was trained with. An answer without an end in its
first window gets another one after it. Between windows, requests whose client has gone leave and new ones join. The rows of a
batch do not see each other, so that each answer is the one that the request would get alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shirg.errors import UserError
from shirg.lavida import Lavida, VisionFeatures
from shirg.lavida.vision import PATHS, path_of
from shirg.serve.api_error import ApiError, internal, out_of_memory, shutting_down, too_busy
from shirg.serve.cache import ByteCache
from shirg.threads import spare_threads

if TYPE_CHECKING:
    from shirg.lavida.settings import VisionSettings
    from shirg.ranges import Budget
    from shirg.serve.chat import Prompt
    from shirg.serve.metrics import Metrics

logger = logging.getLogger(__name__)

LINGER_SECONDS = 0.25
"""Longest wait of an idle engine for requests that are being read."""


@dataclass(frozen=True)
class PageViews:
    """An image, cut into the views of a vision path."""

    digest: str
    """Hash of the image's file."""
    pixels: Tensor | None
    """[V, H, W, 3] uint8; None if its features were in the cache."""
    size: tuple[int, int]
    features: VisionFeatures | None = None


@dataclass(frozen=True)
class Progress:
    """State of an answer after a denoising step or at its end."""

    ids: tuple[int, ...]
    """The ids before the first mask, which are final."""
    steps: int
    visual_tokens: int
    ended: bool = False
    """Whether it is complete."""
    error: ApiError | None = None


@dataclass(eq=False)
class Job:
    """A request for the engine."""

    id: str
    model: Lavida
    model_name: str
    prompt: Prompt
    pages: Sequence[PageViews]
    path: str
    budget: Budget
    vision: VisionSettings
    max_tokens: int
    report: Callable[[Progress], None]
    """Called in the engine's thread: after every step if `every_step`, after every window, and once with `ended` or an error."""
    steps: int | None = None
    threshold: float | None = None
    temperature: float = 0.0
    seed: int | None = None
    draft: tuple[int, ...] = ()
    """Ids that the answer starts with; of a draft with gaps all ids of the answer, with masks in the gaps."""
    infill_length: int = 0
    """Length of a draft with gaps, which is the whole answer; 0 for others."""
    every_step: bool = False
    cancelled: bool = False
    """Whether nobody waits for the answer any more; set by any thread."""
    done: bool = False
    queued: float = field(default_factory=time.monotonic)
    ids: tuple[int, ...] = ()
    """Tokens of the finished windows."""
    steps_done: int = 0
    embeds: list[Tensor] | None = None
    generator: torch.Generator | None = None

    @property
    def visual_tokens(self) -> int:
        """Tokens of the images in the prompt."""
        return sum(len(one) for one in self.embeds or ())


class Engine:
    """Answers jobs in one thread.

    Args:
        model: whose language model all jobs share; their own models may have other projectors.
        queue: jobs that wait at most.
        batch: jobs that are denoised together at most.
        cache_bytes: of tower features and of selected tokens that are kept, half for each.
    """

    def __init__(self, model: Lavida, queue: int, batch: int, cache_bytes: int, metrics: Metrics):
        self.model, self.queue, self.batch, self.metrics = model, queue, batch, metrics
        self.features: ByteCache[VisionFeatures] = ByteCache(cache_bytes // 2, _nbytes)
        self.selections: ByteCache[Tensor] = ByteCache(cache_bytes // 2, lambda embeds: embeds.nbytes)
        self.window = model.config.answer_tokens
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._arriving = 0
        self._thread = threading.Thread(target=self._run, name="shirg-engine", daemon=True)

    # ------------------------------------------------------------------ for other threads

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @contextlib.contextmanager
    def arriving(self) -> Iterator[None]:
        """For a request whose body and images are read, which are in memory meanwhile.

        Raises:
            ApiError: if there are as many such requests as may wait.
        """
        with self._changed:
            if self._arriving >= self.queue:
                raise too_busy(self._arriving)
            self._arriving += 1
        try:
            yield
        finally:
            with self._changed:
                self._arriving -= 1
                self._changed.notify()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            ApiError: if the queue is full, or the engine is closing.
        """
        with self._changed:
            if self._closing:
                raise shutting_down()
            if len(self._waiting) >= self.queue:
                raise too_busy(len(self._waiting))
            self._waiting.append(job)
            self.metrics.waiting.set(len(self._waiting))
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Forget a job: it leaves the queue at once, and a batch after its window."""
        job.cancelled = True
        with self._changed, contextlib.suppress(ValueError):
            self._waiting.remove(job)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self, patience: float) -> bool:
        """Take no more jobs, and answer those in the queue; whether all were answered within `patience` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(patience)
        with self._changed:
            left = [*self._waiting, *self._running]
            self._waiting.clear()
        for job in left:
            self._fail(job, shutting_down())
        return not left

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        with spare_threads() as threads:
            while batch := self._next_batch():
                threads.adjust()
                try:
                    self._answer(batch)
                except Exception as error:  # a bug of the engine; it must not end the thread
                    for job in batch:
                        self._fail(job, _api_error(error, job))
                self._running = []
                self.metrics.waiting.set(len(self._waiting))
                self.metrics.cached.set(self.features.nbytes + self.selections.nbytes)

    def _next_batch(self) -> list[Job]:
        """The jobs that can be denoised with the one that has waited longest; empty when the engine closes."""
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return []
                self._changed.wait()
                self._wait_for_arriving()
            kind = self._kind(self._waiting[0])
            chosen = [job for job in self._waiting if self._kind(job) == kind][: self.batch]
            self._running = chosen
            for job in chosen:
                self._waiting.remove(job)
            return chosen

    def _wait_for_arriving(self) -> None:
        """Wait for requests that are being read while the thread is idle, so that the first of many is not denoised alone."""
        deadline = time.monotonic() + LINGER_SECONDS
        while self._arriving and len(self._waiting) < self.batch and not self._closing:
            if not self._changed.wait(max(deadline - time.monotonic(), 0)):
                return

    def _kind(self, job: Job) -> Hashable:
        """What the jobs of a batch have in common."""
        alone = job if job.temperature > 0 else None
        return self._length(job), job.steps, job.threshold, job.infill_length > 0, alone

    def _length(self, job: Job) -> int:
        """Positions up to the end of the job's next window, or of its draft with gaps."""
        if job.infill_length:
            return len(job.draft)
        begun = max(len(job.ids), len(job.draft))
        return (begun // self.window + 1) * self.window

    def _answer(self, batch: Sequence[Job]) -> None:
        """One window of each job."""
        ready = [job for job in batch if self._embedded(job)]
        if ready:
            self._denoise(ready)

    def _denoise(self, batch: Sequence[Job]) -> None:
        """One window of jobs of the same kind; after an error each alone, so that the job that caused it fails alone."""
        try:
            self._window(batch)
        except _Abandoned:
            return
        except Exception as error:
            if isinstance(error, torch.AcceleratorError):
                self._give_up(batch, error)
                return
            if len(batch) == 1:
                self._fail(batch[0], _api_error(error, batch[0]))
                return
            _free_memory(error)
            if not _is_out_of_memory(error):
                logger.warning("a batch of %d failed (%s); each is tried alone", len(batch), type(error).__name__)
            half = len(batch) // 2 if _is_out_of_memory(error) else 1
            for start in range(0, len(batch), half):
                part = [job for job in batch[start : start + half] if not job.done and not job.cancelled]
                if part:
                    self._denoise(part)

    def _embedded(self, job: Job) -> bool:
        """Whether the job's images could be embedded; an error is reported to the job alone."""
        try:
            self._embed(job)
        except Exception as error:
            _free_memory(error)
            self._fail(job, _api_error(error, job))
            if isinstance(error, torch.AcceleratorError):
                self._give_up([job], error)
        return not job.done and not job.cancelled

    @torch.no_grad()
    def _embed(self, job: Job) -> None:
        if job.embeds is None and not job.cancelled:
            job.embeds = [self._page_embeds(job, page) for page in job.pages]
            job.pages = ()
        text = len(job.prompt.ids) - len(job.embeds or ())
        job.model.config.check_length(text + job.visual_tokens, self._length(job))

    def _page_embeds(self, job: Job, page: PageViews) -> Tensor:
        """The image's embeddings [n, hidden], from the cache if another question has made them."""
        key = embeds_key(job, page.digest)
        found = self.selections.get(key)
        self.metrics.looked_up("selection", found is not None)
        if found is None:
            features = page.features or self._features(job, page)
            found = job.model.image_embeds(features, job.path, job.budget, job.prompt.question_ids, job.vision)
            self.selections.put(key, found)
        return found

    def _features(self, job: Job, page: PageViews) -> VisionFeatures:
        key = features_key(page.digest, job.path, job.vision)
        found = self.features.get(key)
        self.metrics.looked_up("tower", found is not None)
        if found is None:
            assert page.pixels is not None, "views are cut unless the features are known"
            path = path_of(job.path)
            found = job.model.encode_views(page.pixels, page.size, path.views, job.vision, early=path.early)
            self.features.put(key, found)
        return found

    def _window(self, batch: Sequence[Job]) -> None:
        first, mask = batch[0], self.model.config.mask_token_id
        length = self._length(first)
        drafts = torch.full((len(batch), length), mask)
        for row, job in zip(drafts, batch, strict=True):
            begun = job.ids or job.draft
            row[: len(begun)] = torch.tensor(begun, dtype=torch.long)
        before = [job.steps_done for job in batch]

        def on_step(number: int, tokens: Tensor) -> None:
            rows = tokens.tolist()
            for job, row, start in zip(batch, rows, before, strict=True):
                if not job.done and not job.cancelled:
                    job.steps_done = start + number
                    self._progress(job, row, window_ended=False)
            if all(job.done or job.cancelled for job in batch):
                raise _Abandoned

        self.metrics.batch_size.observe(len(batch))
        tokens = self.model.generate(
            [job.prompt.ids for job in batch],
            image_embeds=[one for job in batch for one in job.embeds or ()],
            draft_tokens=drafts,
            max_new_tokens=length,
            stop_early=not first.infill_length,
            generator=self._generator(first),
            temperature=first.temperature,
            on_step=on_step,
            **self._decoding(first, length),
        )
        for job, row in zip(batch, tokens.tolist(), strict=True):
            if not job.done and not job.cancelled:
                self._progress(job, row, window_ended=True)

    def _decoding(self, job: Job, length: int) -> dict[str, Any]:
        if self.model.config.family == "dream":
            return {"steps": None if job.steps is None else min(job.steps, length), "threshold": job.threshold}
        window = length if job.infill_length else self.window
        return {"block_length": window, "step_per_block": job.steps, "threshold": job.threshold}

    def _generator(self, job: Job) -> torch.Generator | None:
        if job.temperature > 0 and job.generator is None:
            job.generator = torch.Generator(self.model.device)
            if job.seed is None:
                job.generator.seed()
            else:
                job.generator.manual_seed(job.seed)
        return job.generator

    def _progress(self, job: Job, row: list[int], *, window_ended: bool) -> None:
        """Report a row's final tokens; queue the job again if its window ended and its answer did not."""
        ids, ended = final_ids(row, self.model.config.mask_token_id, self.model.stop_ids, job.infill_length)
        ids = ids[: job.max_tokens]
        ended = (
            ended or len(ids) >= job.max_tokens or (window_ended and (bool(job.infill_length) or len(ids) < len(row)))
        )
        if ended:
            self._finish(job, Progress(tuple(ids), job.steps_done, job.visual_tokens, ended=True))
            return
        if window_ended or job.every_step:
            self._report(job, Progress(tuple(ids), job.steps_done, job.visual_tokens))
        if window_ended:
            job.ids = tuple(ids)
            with self._changed:
                self._waiting.append(job)

    def _give_up(self, batch: Sequence[Job], error: Exception) -> None:
        """After an error that leaves the GPU unusable: end this process, which its parent then starts again."""
        logger.error("the device failed; this worker ends", exc_info=error)
        for job in batch:
            self._fail(job, shutting_down())
        os.kill(os.getpid(), signal.SIGTERM)

    def _finish(self, job: Job, last: Progress) -> None:
        job.done = True
        self._report(job, last)

    def _report(self, job: Job, progress: Progress) -> None:
        try:
            job.report(progress)
        except RuntimeError:  # the event loop of its request is closed
            job.cancelled = True

    def _fail(self, job: Job, error: ApiError) -> None:
        if not job.done:
            self._finish(job, Progress((), job.steps_done, 0, error=error))


def final_ids(row: Sequence[int], mask: int, stops: frozenset[int], infill_length: int) -> tuple[list[int], bool]:
    """The ids of an answer's row before its first mask, up to and including its first stop id, and whether it ends there.

    Args:
        infill_length: length of a draft with gaps, in which stop ids are empty gaps; the answer ends with it.
    """
    end = next((place for place, token in enumerate(row) if token == mask), len(row))
    if infill_length:
        return list(row[: min(end, infill_length)]), end >= infill_length
    stop = next((place for place in range(end) if row[place] in stops), None)
    return (list(row[:end]), False) if stop is None else (list(row[: stop + 1]), True)


def features_key(digest: str, path: str, vision: VisionSettings) -> Hashable:
    """Key of an image's tower features: those of a view serve all paths and selectors that use it, and all early ones."""
    return digest, PATHS[path].views, PATHS[path].early, vision.resolution, vision.fit


def embeds_key(job: Job, digest: str) -> Hashable:
    """Key of an image's embeddings; with the question's ids if it takes part in the selection."""
    settings: Hashable = None
    if path_of(job.path).reduce == "select":
        asked = None if job.vision.relevance == "none" else tuple(job.prompt.question_ids.tolist())
        settings = job.budget, job.vision, asked
    return features_key(digest, job.path, job.vision), job.path, job.model_name, settings


class _Abandoned(Exception):
    """No job of the batch waits for its answer any more."""


def _nbytes(features: VisionFeatures) -> int:
    return sum(one.nbytes for one in (features.tokens, features.pixels, features.last_input) if one is not None)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _free_memory(error: Exception) -> None:
    """Release what the frames of an error hold on a GPU."""
    error.__traceback__ = None
    if _is_out_of_memory(error) and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _api_error(error: Exception, job: Job) -> ApiError:
    if isinstance(error, UserError):
        return ApiError.of(error)
    if _is_out_of_memory(error):
        return out_of_memory()
    logger.error("request %s failed", job.id, exc_info=error)
    return internal(job.id)
