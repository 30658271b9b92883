"""LaViDa from image to answer, with SHIRG's gate between the tower and the projector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from shirg.errors import UserError
from shirg.gate import Kept, ShirgGate
from shirg.gate.terms import text_cosine
from shirg.lavida import checkpoint, paths, prompt, vision
from shirg.lavida.config import LavidaConfig
from shirg.lavida.diffusion.dream import ALGORITHMS, DreamSettings, ShiftedAnswerModel, denoise_dream
from shirg.lavida.diffusion.generation import AnswerModel, GenerationSettings, OnStep, Prefix, denoise
from shirg.lavida.images import tile_grid, to_pixels, to_rgb
from shirg.lavida.language import LanguageModel
from shirg.lavida.tower import SigLipVisionTower
from shirg.lavida.vision import VisionFeatures


class Lavida(nn.Module):
    """A diffusion vision-language model; built from a config its weights are random.

    Attributes:
        tower, mm_projector, language: the three parts.
        image_newline: the row separator of "unpad" checkpoints, or None.
        gate: the selector of modes "shirg" and "multiview"; replace it to use another configuration.
        resolution: pixels per side of the large view, a multiple of 14.
        fit: "stretch" (as LaViDa's base view) or "pad" (keep the shape), for modes that show the image as one square.
        tokenizer: the checkpoint's tokenizer, or None: then only ids go in and out.
    """

    def __init__(self, config: LavidaConfig, tokenizer=None):
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        width = config.hidden_size
        self.tower = SigLipVisionTower(config.vision_config)
        self.mm_projector = nn.Sequential(
            nn.Linear(config.vision_hidden_size, width), nn.GELU(), nn.Linear(width, width)
        )
        self.image_newline = nn.Parameter(torch.randn(width) / width**0.5) if config.has_newline else None
        self.language = LanguageModel(config.body)
        self.gate = ShirgGate()
        self.resolution = config.resolution
        self.fit = "stretch"

    # ------------------------------------------------------------------ files

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        adapter: str | Path | None = None,
    ) -> Lavida:
        """Load "nano", a folder in the official layout, or a hub id; returned in eval mode.

        Args:
            revision: branch, tag or commit of a hub id.
            adapter: folder of a SHIRG adapter to load on top.

        Raises:
            UserError: if there is no such model, or its files do not fit each other.
        """
        folder = checkpoint.resolve(name, revision)
        config = LavidaConfig.from_folder(folder)
        device = torch.device(device)
        with torch.device("meta"):
            model = cls(config, checkpoint.load_tokenizer(folder))
        checkpoint.load_weights(model, config.family, folder, device=device, dtype=dtype)
        model.tower.restore_buffers(device)
        if adapter is not None:
            model.load_adapter(adapter)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the base model in the official layout, without any adapter; what is read back is equal bit for bit."""
        checkpoint.save_checkpoint(self, self.config.raw, self.config.family, self.tokenizer, folder)

    def load_adapter(self, folder: str | Path) -> None:
        """Load a SHIRG adapter, its selection settings included."""
        from shirg.lavida import adapter

        adapter.load_adapter(self, folder)

    def unload_adapter(self) -> None:
        """Take the adapter off again; the base model is as it was."""
        from shirg.lavida import adapter

        adapter.unload_adapter(self)

    @property
    def device(self) -> torch.device:
        return self.language.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.language.embed_tokens.weight.dtype

    # ------------------------------------------------------------------ vision

    @torch.no_grad()
    def image_features(
        self, image: Image.Image | Sequence[Image.Image], mode: str
    ) -> VisionFeatures | list[VisionFeatures]:
        """The tower's view of an image (of each image of a list) for `mode`; "shirg" and "highres" share theirs.

        Raises:
            UserError: for an unknown mode, or something that is no image of a sensible size.
        """
        vision.check_mode(mode)
        if isinstance(image, list | tuple):
            return [self.image_features(one, mode) for one in image]
        image = to_rgb(image)
        views = vision.views_of(
            image,
            mode,
            tile=self.tower.image_size,
            pinpoints=self.config.pinpoints,
            resolution=self.resolution,
            fit=self.fit,
        )
        pixels = to_pixels(views).to(self.device)
        grid = self.tower.grid(*pixels.shape[-2:])
        return VisionFeatures(vision.PATHS[mode], self.tower(pixels), pixels, grid, image.size)

    @torch.no_grad()
    def select(self, features: VisionFeatures, budget: int, question_ids: Tensor | None = None) -> Kept:
        """The gate's choice of `budget` tokens among those of all views (batch of one).

        Args:
            question_ids: ids [L] of what is asked. With `config.relevance == "llm"` the tokens, projected by the base
                projector (whatever adapter is on), are compared with the question's word embeddings.

        Raises:
            UserError: for a budget below 1 or above the number of tokens.
        """
        vision.check_budget(budget, features.num_tokens)
        tokens = features.tokens.flatten(0, 1)[None]  # [1, V * N, D]
        several = features.path in ("hd", "multiview")
        relevance = None
        if question_ids is not None and len(question_ids) and self.config.relevance == "llm":
            relevance = self._relevance(tokens, question_ids.to(self.device))
        return self.gate(
            tokens,
            budget=budget,
            grid=(len(features.tokens), *features.grid) if several else features.grid,
            pixels=features.pixels[None] if several else features.pixels,
            relevance=relevance,
        )

    def image_embeds(
        self, features: VisionFeatures, mode: str, budget: int | None = None, question_ids: Tensor | None = None
    ) -> Tensor:
        """What stands for the image in the prompt, [n, hidden]; differentiable in the projector and its adapter.

        Args:
            budget: tokens to keep in modes "shirg" and "multiview" (768 by default); the summary token comes on top.

        Raises:
            UserError: if the features are of other views than `mode` needs, or the budget does not fit.
        """
        vision.check_mode(mode)
        if not features.serves(mode):
            raise UserError(f"features of path {features.path!r} do not serve mode={mode!r}: they are of other views")
        if mode in vision.SELECTING:
            kept = self.select(features, vision.DEFAULT_BUDGET if budget is None else budget, question_ids)
            return self.mm_projector(kept.tokens[0])
        projected = self.mm_projector(features.tokens)
        if mode != "hd":
            return projected.flatten(0, 1)
        return paths.merge_views(
            paths.pool_views(projected, features.grid, self.config.pool_mode),
            self.config.patch_merge_type,
            features.image_size,
            tile_grid(features.image_size, self.config.pinpoints, self.tower.image_size),
            self.image_newline,
        )

    def encode_images(
        self,
        images: Sequence[Image.Image],
        mode: str = "shirg",
        budget: int | None = None,
        questions: Sequence[str] | None = None,
    ) -> list[Tensor]:
        """Embeddings [n, hidden] of each image, ready to be spliced into a prompt.

        Args:
            questions: what is asked about each image, for the relevance term; None chooses by the image alone.

        Raises:
            UserError: if there are not as many questions as images; otherwise as `image_embeds`.
        """
        if questions is not None and len(questions) != len(images):
            raise UserError(f"{len(questions)} questions for {len(images)} images: give one for each, or none")
        asked = [None] * len(images)
        if questions is not None:
            asked = [self.question_ids(self.prompt_ids(question)) for question in questions]
        return [
            self.image_embeds(self.image_features(image, mode), mode, budget, ids)
            for image, ids in zip(images, asked, strict=True)
        ]

    def base_projection(self, tokens: Tensor) -> Tensor:
        """Tower tokens [..., D] -> [..., hidden] by the projector as it is without any adapter."""
        for layer in self.mm_projector:
            tokens = getattr(layer, "base_layer", layer)(tokens)  # peft wraps a layer and keeps it as `base_layer`
        return tokens

    def _relevance(self, tokens: Tensor, question_ids: Tensor) -> Tensor:
        """max_j cos(v_i, t_j) [1, N] between projected tokens, centred by their mean, and the question's words."""
        # Autocast would round the scores, and so choose other tokens in training than at inference.
        with torch.autocast(tokens.device.type, enabled=False):
            projected = self.base_projection(tokens).float()
            words = self.language.embed_tokens(question_ids)[None].float()
            return text_cosine(projected, projected.square().mean(-1), projected.mean(1), words)

    # ------------------------------------------------------------------ language

    def prompt_ids(self, question: str) -> Tensor:
        """Ids [L] of the chat that asks `question` about one image; `config.image_token_index` marks its place.

        Raises:
            UserError: for an empty question, or a model without a tokenizer.
        """
        text = prompt.prompt_text(self._need_tokenizer(), question)
        return prompt.tokenize_with_images(self.tokenizer, text, self.config.image_token_index)

    def question_ids(self, input_ids: Tensor) -> Tensor:
        """The part of a prompt [L] that is asked about its image: behind the placeholder, up to the next mark of a turn."""
        marks = self.stop_ids
        if self.tokenizer is not None:  # some templates begin the answer without having ended the question
            marks = marks | set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        return prompt.question_part(input_ids, self.config.image_token_index, marks)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids after which an answer is over: the config's end of text and the tokenizer's end of turn."""
        stops = {self.config.eos_token_id}
        if self.tokenizer is not None:
            stops |= {self.tokenizer.eos_token_id, prompt.end_of_turn_id(self.tokenizer, self.config.family)}
        return frozenset(stops - {None})

    def splice(self, input_ids: Tensor, image_embeds: Sequence[Tensor]) -> Tensor:
        """Embeddings [P, hidden] of a prompt [L] with the images' embeddings in place of the placeholders, in order.

        Raises:
            UserError: if placeholders and images differ in number.
        """
        input_ids = input_ids.to(self.device)
        return prompt.splice(self.language.embed_tokens, input_ids, image_embeds, self.config.image_token_index)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        images: Sequence[Image.Image] | None = None,
        mode: str = "hd",
        budget: int | None = None,
        image_embeds: Sequence[Tensor] | None = None,
        max_new_tokens: int = 32,
        block_length: int = 32,
        step_ratio: float | None = None,
        step_per_block: int | None = None,
        steps: int | None = None,
        schedule: str | None = None,
        schedule_kwargs: dict | None = None,
        remasking: str = "low_confidence",
        temperature: float = 0.0,
        prefix_lm: bool = True,
        draft_tokens: Tensor | None = None,
        alg: str | None = None,
        alg_temp: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Denoise answers to prompts [B, L]; returns the new tokens only, Long [B, max_new_tokens].

        Args:
            images: one PIL image per placeholder, in order across the batch.
            image_embeds: instead of images, their embeddings [n, hidden].
            steps: denoising steps for the whole answer, instead of `step_ratio` or `step_per_block`. LLaDA's blocks share
                them evenly, at least one each and at most one per token. (The official code takes no notice of it for
                LLaDA, generate.py:146.)
            block_length, step_per_block: LLaDA only; Dream has no blocks and ignores them.
            draft_tokens: LLaDA only, [B or 1, D <= max_new_tokens]: the start of the answer; its masks are filled in.
            alg, alg_temp, top_p, top_k: Dream only, see `DreamSettings`; without `alg`, `remasking` is translated.
            generator: source of chance; None is torch's own.
            on_step: called with (number of forward passes so far, tokens [B, max_new_tokens]) after each.

        Other arguments: see `GenerationSettings`.

        Raises:
            UserError: for arguments that make no sense or do not fit each other.
        """
        shared = {
            "mask_token_id": self.config.mask_token_id,
            "max_new_tokens": max_new_tokens,
            "step_ratio": step_ratio,
            "schedule": schedule,
            "schedule_kwargs": schedule_kwargs,
            "temperature": temperature,
            "prefix_lm": prefix_lm,
        }
        if self.config.family == "dream":
            alg = alg or ALGORITHMS.get(remasking, remasking)
            top_k = DreamSettings.top_k if top_k is None else top_k
            settings = DreamSettings(**shared, steps=steps, alg=alg, alg_temp=alg_temp, top_p=top_p, top_k=top_k)
        else:
            _refuse_dream_keywords(alg=alg, alg_temp=alg_temp or None, top_p=top_p, top_k=top_k)
            blocks = {"block_length": block_length, "step_per_block": step_per_block, "total_steps": steps}
            settings = GenerationSettings(**shared, **blocks, remasking=remasking)
        if input_ids.ndim != 2 or 0 in input_ids.shape:
            raise UserError(f"input_ids must be [batch, length], both at least 1; got shape {list(input_ids.shape)}")
        tokens = self._draft(draft_tokens, len(input_ids), max_new_tokens)
        embeds = self._embeds_per_placeholder(input_ids, images, mode, budget, image_embeds)
        prefix = Prefix.of(self._spliced_rows(input_ids, embeds))
        return self._denoise(prefix, tokens, settings, generator, on_step)

    def _denoise(self, prefix: Prefix, tokens: Tensor, settings, generator, on_step) -> Tensor:
        arguments = (self.language, prefix, settings.prefix_lm, self.vocabulary_size)
        if self.config.family == "llada":
            return denoise(AnswerModel(*arguments), tokens, settings, generator=generator, on_step=on_step)
        answer_model = ShiftedAnswerModel(*arguments)
        if settings.prefix_lm:  # the prefix alone decides the first token (LaViDa dream/generation_utils.py:421-428)
            tokens[:, 0] = answer_model.first_token()
        return denoise_dream(answer_model, tokens, settings, generator=generator, on_step=on_step)

    def answer(
        self,
        image: Image.Image,
        question: str,
        mode: str = "shirg",
        budget: int = vision.DEFAULT_BUDGET,
        max_new_tokens: int | None = None,
        **generate_keywords,
    ) -> str:
        """The model's answer to `question` about `image`, up to the end of its turn, without special tokens.

        Args:
            max_new_tokens: length of the answer block; None takes the model's own, `config.answer_tokens`.

        Raises:
            UserError: for an empty question, a budget below 1 or above the image's tokens, a model without a
                tokenizer.
        """
        ids = self.prompt_ids(question)
        length = max_new_tokens if max_new_tokens is not None else self.config.answer_tokens
        new = self.generate(ids[None], [image], mode, budget, max_new_tokens=length, **generate_keywords)
        return self.answer_text(new[0])

    def answer_text(self, tokens: Tensor) -> str:
        """What generated ids [N] say, up to the end of the turn, without special tokens."""
        ids, stops = tokens.tolist(), self.stop_ids
        end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
        return self._need_tokenizer().decode(ids[:end], skip_special_tokens=True).strip()

    @property
    def vocabulary_size(self) -> int:
        """Entries that can be generated: those the tokenizer knows. Embedding tables are padded to round numbers, and
        the official loader cuts them down (LaViDa builder.py:297-298)."""
        rows = self.config.body.vocab_size
        return rows if self.tokenizer is None else min(rows, len(self.tokenizer))

    def _need_tokenizer(self):
        if self.tokenizer is None:
            raise UserError("this model came without a tokenizer: use generate with input_ids instead of text")
        return self.tokenizer

    def _draft(self, draft: Tensor | None, batch: int, length: int) -> Tensor:
        tokens = torch.full((batch, length), self.config.mask_token_id, device=self.device)
        if draft is not None:
            if self.config.family == "dream":
                raise UserError("draft_tokens: Dream checkpoints take no drafts")
            if draft.ndim != 2 or len(draft) not in (1, batch) or draft.shape[1] > length:
                raise UserError(
                    f"draft_tokens must be [1 or {batch}, at most {length} (max_new_tokens)]; got {list(draft.shape)}"
                )
            tokens[:, : draft.shape[1]] = draft.to(tokens)
        return tokens

    def _embeds_per_placeholder(self, input_ids, images, mode, budget, image_embeds) -> list[Tensor]:
        if image_embeds is not None:
            if images is not None:
                raise UserError("give images or image_embeds, not both")
            return list(image_embeds)
        rows = [row for row in input_ids for _ in range(int((row == self.config.image_token_index).sum()))]
        images = list(images or [])
        if len(rows) != len(images):
            raise UserError(f"input_ids hold {len(rows)} image placeholders for {len(images)} images")
        return [
            self.image_embeds(self.image_features(image, mode), mode, budget, self.question_ids(row))
            for image, row in zip(images, rows, strict=True)
        ]

    def _spliced_rows(self, input_ids: Tensor, embeds: list[Tensor]) -> list[Tensor]:
        rows, start = [], 0
        for row in input_ids:
            count = int((row == self.config.image_token_index).sum())
            rows.append(self.splice(row, embeds[start : start + count]))
            start += count
        if start != len(embeds):
            raise UserError(f"input_ids hold {start} image placeholders for {len(embeds)} image_embeds")
        return rows


def _refuse_dream_keywords(**keywords: object) -> None:
    given = [name for name, value in keywords.items() if value is not None]
    if given:
        raise UserError(f"{', '.join(given)}: only Dream checkpoints take these; this one is LLaDA")
