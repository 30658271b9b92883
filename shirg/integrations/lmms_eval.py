"""SHIRG in lmms-eval: `python -m lmms_eval --model lavida_shirg --model_args pretrained=DIR,budget=768 --tasks ...`

lmms-eval finds it through the entry point `lmms_eval.models`. There are two classes: "simple" takes a text and images, "chat" a
list of messages. Both ask the same question. `shirg.integrations.lmms_task` makes tasks of local data.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lmms_eval.api.model import lmms

from shirg import ranges
from shirg.errors import ItemError, UserError

if TYPE_CHECKING:
    import torch
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.registry_v2 import ModelManifest
    from PIL import Image


logger = logging.getLogger(__name__)

MODEL = "lavida_shirg"
RANGES = {
    "budget": ranges.BUDGET,
    "max_new_tokens": ranges.TOKENS,
    "steps": ranges.TOKENS,
    "step_ratio": ranges.STEP_RATIO,
    "block_length": ranges.TOKENS,
    "shift": ranges.SHIFT,
    "resolution": ranges.RESOLUTION,
}
STEP_RATIO = 0.5
"""Default denoising steps per token, as in SHIRG's own evaluation."""


def manifest() -> ModelManifest:
    """The manifest of the entry point."""
    from lmms_eval.models.registry_v2 import ModelManifest

    classes = (f"{__name__}.{kind.__name__}" for kind in (LavidaShirg, LavidaShirgChat))
    return ModelManifest(MODEL, *classes)


class LavidaShirg(lmms):  # type: ignore[misc]  # lmms-eval has no types, so its class is Any
    """LaViDa with SHIRG's selection, one question about one image at a time.

    Args:
        pretrained: "nano", a folder in LaViDa's official layout, or a hub id.
        adapter: folder of a SHIRG adapter.
        mode: vision path: lowres, hd, highres, shirg, early or multiview.
        budget: visual tokens kept by shirg, early and multiview; "auto" keeps as many as the print of each image needs.
        selector: a name in `shirg.gate.SELECTORS`.
        preset: the gate's settings, a name in `shirg.gate.config.PRESETS`; by default the adapter's or the model's own.
        max_new_tokens: length of the answer; by default the task's, else the model's own.
        steps, step_ratio: denoising steps in total or per token; one of them.
        block_length: tokens denoised together; by default the whole answer.
        schedule, shift: which steps commit how many tokens; see `Lavida.generate`.
        prefix_lm: encode image and question once (True) or in every step.
        resolution, fit, relevance, relevance_sign, text_tower, revision: as the flags of `shirg evaluate`.
        device: device of the model; by default a GPU if there is one.
        batch_size: questions that are denoised together; answers do not depend on it.
        max_batch_size: ignored; lmms-eval passes it.

    Raises:
        UserError: for an unknown argument, or an invalid value.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "nano",
        adapter: str | None = None,
        mode: str = "shirg",
        budget: int | Literal["auto"] = 768,
        selector: str | None = None,
        preset: str | None = None,
        max_new_tokens: int | None = None,
        steps: int | None = None,
        step_ratio: float | None = None,
        block_length: int | None = None,
        schedule: str | None = None,
        shift: float | None = None,
        prefix_lm: bool = True,
        resolution: int | None = None,
        fit: str | None = None,
        relevance: str | None = None,
        relevance_sign: int | None = None,
        text_tower: str | None = None,
        revision: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **unknown: object,
    ):
        super().__init__()
        _refuse_unknown(unknown)
        if not str(batch_size).isdecimal() or not ranges.BATCH.contains(int(batch_size)):
            raise UserError(f"batch_size: got {batch_size}, must be {ranges.BATCH}")
        self.batch_size_per_gpu = int(batch_size)
        _check_preset(preset)
        _check_values(mode, fit)
        numbers: dict[str, Any] = {
            "budget": None if budget == "auto" else budget,
            "max_new_tokens": max_new_tokens,
            "steps": steps,
            "step_ratio": step_ratio,
        }
        numbers |= {"block_length": block_length, "shift": shift, "resolution": resolution}
        for name, value in numbers.items():
            if value is not None:
                RANGES[name].check(name, value)
        from shirg.lavida.loading import load_model

        self._join_processes()
        self.model = load_model(
            str(pretrained),
            None if adapter is None else Path(adapter),
            resolution=resolution,
            fit=fit,
            preset=preset,
            selector=selector,
            relevance=relevance,
            relevance_sign=relevance_sign,
            text_tower=text_tower,
            revision=revision,
        )
        if device is not None and self._world_size == 1:
            self.model.to(device)
        self.mode, self.budget, self.max_new_tokens, self.block_length = mode, budget, max_new_tokens, block_length
        self.keywords: dict[str, Any] = {
            "steps": steps,
            "step_ratio": STEP_RATIO if steps is None and step_ratio is None else step_ratio,
            "schedule": schedule,
            "schedule_kwargs": None if shift is None else {"shift": float(shift)},
            "prefix_lm": prefix_lm,
        }
        self._check_against_model()

    @property
    def device(self) -> torch.device:
        """Device of the model, on which lmms-eval gathers answers."""
        return self.model.device

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The answers to requests, in order; "" with a warning after an `ItemError`.

        Raises:
            UserError: for a request without an image or with several.
        """
        from tqdm import tqdm

        answers: list[str] = []
        bar = tqdm(total=len(requests), disable=self.rank != 0, desc=MODEL)
        for same_length in _batches(requests, self.batch_size_per_gpu):
            answers += self._answers(same_length)
            bar.update(len(same_length))
        return answers

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not supported."""
        raise NotImplementedError(
            f"{MODEL} generates answers; a diffusion model has no log-likelihood of a continuation"
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not supported."""
        raise NotImplementedError(f"{MODEL} answers one question about one image; it has no conversations")

    def _asked(self, arguments: tuple[Any, ...]) -> tuple[str, list[Image.Image]]:
        """Question and images of a request."""
        question, _, doc_to_visual, doc_id, task, split = arguments
        return question, doc_to_visual(self.task_dict[task][split][doc_id])

    def _answers(self, requests: Sequence[Instance]) -> list[str]:
        """The answers to requests with the same settings of generation, denoised together."""
        settings, model = _generation(requests[0].args), self.model
        length = self.max_new_tokens or settings.get("max_new_tokens") or model.config.answer_tokens
        found: list[str] = [""] * len(requests)
        rows, ids, embeds = [], [], []
        for row, request in enumerate(requests):
            question, images = self._asked(request.args)
            if len(images) != 1:
                number = len(images)
                raise UserError(f"{MODEL} answers questions about one image; the task gives {number} for {question!r}")
            try:
                prompt, image = self._embedded(question, images[0], length)
            except ItemError as error:  # one unusable question does not end a benchmark
                logger.warning("empty answer: %s (%r)", error, question[:80])
                continue
            rows.append(row)
            ids.append(prompt)
            embeds.append(image)
        if rows:
            decoding = {"max_new_tokens": length, "block_length": self.block_length or length, **self.keywords}
            tokens = model.generate(ids, image_embeds=embeds, stop_early=True, **decoding)
            for row, one in zip(rows, tokens, strict=True):
                found[row] = _until(model.answer_text(one), settings.get("until"))
        return found

    def _embedded(self, question: str, image: Image.Image, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The prompt [L] and the image's embeddings [n, hidden].

        Raises:
            ItemError: if the question cannot be asked about the image.
        """
        import torch

        model = self.model
        ids = model.prompt_ids(question)
        with torch.no_grad():
            features = model.image_features(image, self.mode)
            embeds = model.image_embeds(features, self.mode, self.budget, model.question_ids(ids))
        model.config.check_length(len(ids) - 1 + len(embeds), length)
        return ids, embeds

    def _check_against_model(self) -> None:
        """Check arguments against the model, before the first question."""
        from shirg.lavida.diffusion.decoding import decoding_settings
        from shirg.lavida.vision import SELECTING, check_budget, path_of

        model = self.model
        tile, side = model.tower.image_size, model.vision.resolution
        most_views = 1 + max(width * height for width, height in model.config.pinpoints) // tile**2
        available = {
            "large": math.prod(model.tower.grid(side, side)),
            "tiles": most_views * math.prod(model.tower.grid(tile, tile)),
        }
        if self.mode in SELECTING and self.budget != "auto":
            check_budget(self.budget, available[path_of(self.mode).views])
        length = self.max_new_tokens or model.config.answer_tokens
        keywords = {"max_new_tokens": length, "block_length": self.block_length or length, **self.keywords}
        decoding_settings(model.config.family, model.config.mask_token_id, **keywords)

    def _join_processes(self) -> None:
        """Under a launcher: one GPU per process, and the accelerator with which lmms-eval gathers answers."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return
        import torch
        from accelerate import Accelerator

        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes


class LavidaShirgChat(LavidaShirg):
    """The same for tasks of messages."""

    is_simple = False

    def _asked(self, arguments: tuple[Any, ...]) -> tuple[str, list[Image.Image]]:
        """Text and images of the user's message; system messages are replaced by the one that LaViDa was trained with."""
        _, doc_to_messages, _, doc_id, task, split = arguments
        messages = doc_to_messages(self.task_dict[task][split][doc_id])
        turns = [message for message in messages if message["role"] != "system"]
        if [turn["role"] for turn in turns] != ["user"]:
            raise UserError(f"{MODEL} answers one question; the task {task} gives {len(turns)} turns")
        return _content(turns[0]["content"])


def _content(parts: str | Sequence[dict[str, Any]]) -> tuple[str, list[Image.Image]]:
    if isinstance(parts, str):
        return parts, []
    texts = [part["text"] for part in parts if part["type"] == "text"]
    others = {part["type"] for part in parts} - {"text", "image"}
    if others:
        raise UserError(f"{MODEL} takes images only; the task gives {', '.join(sorted(others))}")
    return "\n".join(texts), [part["url"] for part in parts if part["type"] == "image"]


def _generation(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The task's generation settings: the second argument of a simple request, the third of a chat request."""
    return next(value for value in arguments[1:3] if isinstance(value, dict))


def _batches(requests: Sequence[Instance], size: int) -> Iterator[list[Instance]]:
    """The requests in order, in lists of at most `size` that have the same settings of generation."""
    for _, alike in itertools.groupby(requests, key=lambda request: repr(_generation(request.args))):
        members = list(alike)
        for start in range(0, len(members), size):
            yield members[start : start + size]


def _until(text: str, stops: str | Sequence[str] | None) -> str:
    """`text` up to the first of the task's stop strings."""
    for stop in [stops] if isinstance(stops, str) else stops or ():
        text = text.split(stop)[0] if stop else text
    return text.strip()


def _arguments() -> Iterator[str]:
    """Valid names in `--model_args`."""
    parameters = inspect.signature(LavidaShirg.__init__).parameters.values()
    return (one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD and one.name != "self")


def _refuse_unknown(unknown: dict[str, object]) -> None:
    for name in unknown:
        near = difflib.get_close_matches(name, _arguments(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_arguments())}"
        raise UserError(f"model_args: {name!r} is no argument of {MODEL}; {hint}")


def _check_values(mode: str, fit: str | None) -> None:
    from shirg.lavida.settings import FITS
    from shirg.lavida.vision import path_of

    path_of(mode)
    if fit is not None and fit not in FITS:
        raise UserError(f"fit: got {fit!r}, must be one of {', '.join(FITS)}")


def _check_preset(preset: str | None) -> None:
    from shirg.gate.config import PRESETS

    if preset is not None and preset not in PRESETS:
        raise UserError(f"preset: got {preset!r}, must be one of {', '.join(PRESETS)}")
