"""LaViDa from image to answer, with SHIRG's gate between the tower and the projector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from shirg.errors import ItemError, UserError
from shirg.files import atomic_path
from shirg.gate import Kept, ShirgGate, page_budget
from shirg.images import to_rgb
from shirg.lavida import adapter as lora
from shirg.lavida import checkpoint, pooling, prompt
from shirg.lavida.config import LavidaConfig, read_config
from shirg.lavida.diffusion.families import decoding_settings, denoise_answers
from shirg.lavida.diffusion.generation import EarlyStop, OnPrefix, OnStep, Prefix
from shirg.lavida.drafts import Draft, control_ids, starting_tokens
from shirg.lavida.images import normalised, tile_grid
from shirg.lavida.language import LanguageModel
from shirg.lavida.relevance import base_projection, token_relevance
from shirg.lavida.settings import VisionSettings
from shirg.lavida.text_tower import TextTower, load_text_tower
from shirg.lavida.tower import SigLipVisionTower
from shirg.lavida.vision import DEFAULT_BUDGET, Budget, Views, ViewShapes, VisionFeatures, check_budget, path_of

if TYPE_CHECKING:
    from peft import LoraConfig
    from PIL import Image
    from transformers import PreTrainedTokenizerBase


class Lavida(nn.Module):
    """A diffusion vision-language model; built from a config its weights are random.

    Attributes:
        tower, mm_projector, language: the three parts.
        image_newline: the row separator of "unpad" checkpoints, or None.
        vision: how it looks at an image and chooses tokens; at first what the config says. Replace it to change a setting:
            `model.vision = dataclasses.replace(model.vision, gate=GateConfig.preset("ocr"))`. Methods that take `vision`
            use that instead for one call.
        adapter_vision: the settings that the loaded adapter was trained with, or None.
        tokenizer: the checkpoint's tokenizer, or None: then only ids go in and out.
        text_tower: what relevance "siglip" compares with, or None; see `load_text_tower`.
    """

    peft_config: dict[str, LoraConfig]  # peft's own attribute: only there while an adapter is on

    def __init__(self, config: LavidaConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        width = config.hidden_size
        self.tower = SigLipVisionTower(config.vision_config)
        self.mm_projector = nn.Sequential(
            nn.Linear(config.vision_hidden_size, width), nn.GELU(), nn.Linear(width, width)
        )
        self.image_newline = nn.Parameter(torch.randn(width) / width**0.5) if config.has_newline else None
        self.language = LanguageModel(config.body)
        self.vision = config.vision
        self.adapter_vision: VisionSettings | None = None
        self.text_tower: TextTower | None = None

    # ------------------------------------------------------------------ files

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str = torch.float32,
        revision: str | None = None,
        adapter: str | Path | None = None,
    ) -> Lavida:
        """Load "nano", a folder in the official layout, or a hub id; returned in eval mode.

        Args:
            dtype: torch.bfloat16 or "bfloat16", likewise float32, float16 and float64.
            revision: branch, tag or commit of a hub id.
            adapter: folder of a SHIRG adapter to load on top.

        Raises:
            UserError: if there is no such model, device or precision, or the files do not fit each other.
        """
        device, dtype = checkpoint.as_device(device), checkpoint.as_dtype(dtype)
        folder = checkpoint.resolve(name, revision)
        raw = read_config(folder)
        checkpoint.warn_of_code(folder, raw)
        tokenizer = checkpoint.load_tokenizer(folder)
        config = LavidaConfig.from_dict(raw, tokenizer)
        with torch.device("meta"):
            model = cls(config, tokenizer)
        checkpoint.load_weights(
            *(model, config.family, folder),
            device=device,
            dtype=dtype,
            unused=config.unused_tensors,
            least_rows=max(config.used_rows, 0 if tokenizer is None else len(tokenizer)),
        )
        model.tower.restore_buffers(device)
        if adapter is not None:
            model.load_adapter(adapter)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the base model in the official layout, without any adapter; what is read back is equal bit for bit."""
        raw = self.config.to_dict(self._vision_without_adapter())
        checkpoint.save_checkpoint(self, raw, self.config.family, self.tokenizer, folder)

    def load_adapter(self, folder: str | Path) -> dict[str, Any]:
        """Attach the adapter saved in `folder`, in place of one that is there. Returns what it was trained with.

        `vision` becomes the settings that it was trained with, until the adapter is unloaded. A setting that is no longer
        the checkpoint's was set by someone: it stays, with a warning where the adapter's differs.

        Raises:
            UserError: if the folder is no SHIRG adapter, was trained on another base, has options that are not supported
                (the model is left as it is), or its weights are damaged (the model is left without an adapter).
        """
        stored = lora.StoredAdapter.read(Path(folder))
        if stored.settings.get("base_fingerprint") != lora.base_fingerprint(self.mm_projector):
            base = stored.settings.get("base_model") or "another base"
            raise UserError(
                f"adapter {folder}: it was trained on {base}, whose projector is not this model's; load that base"
            )
        trained = stored.vision(self.config.vision, self.tower.patch_size)
        self.unload_adapter()
        stored.attach(self)
        self.vision = lora.adopted(self.vision, self.config.vision, trained)
        self.adapter_vision = trained
        lora.warn_of_differences(self.vision, trained, folder)
        return stored.settings

    def unload_adapter(self) -> None:
        """Remove the adapter and the settings that it brought; the base model is as it was."""
        self.vision, self.adapter_vision = self._vision_without_adapter(), None
        lora.detach_lora(self)

    def merge_adapter(self) -> None:
        """Add the adapter's update to the projector; `save_pretrained` then writes an ordinary checkpoint.

        The settings that the adapter brought stay, in the checkpoint too. For rounding see `adapter.merge_lora`.

        Raises:
            UserError: if the model has no adapter.
        """
        lora.merge_lora(self)
        self.adapter_vision = None

    def save_adapter(self, folder: str | Path, *, settings: dict[str, Any]) -> Path:
        """Write the adapter folder, complete or not at all, in place of one that is there. Returns its path.

        Args:
            settings: what it was trained with, JSON values; vision settings and the base's fingerprint are added.

        Raises:
            UserError: if the model has no adapter.
        """
        with atomic_path(folder) as fresh:
            fresh.mkdir()
            lora.write_adapter(self, fresh, {**self.adapter_settings(), **settings})
        return Path(folder)

    def adapter_settings(self) -> dict[str, Any]:
        """What of the model decides how an adapter sees images: its vision settings and the base's fingerprint."""
        return {**self.vision.as_dict(), "base_fingerprint": lora.base_fingerprint(self.mm_projector)}

    def _vision_without_adapter(self) -> VisionSettings:
        if self.adapter_vision is None:
            return self.vision
        return lora.returned(self.vision, self.config.vision, self.adapter_vision)

    @property
    def device(self) -> torch.device:
        return self.language.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.language.embed_tokens.weight.dtype

    # ------------------------------------------------------------------ vision

    @property
    def large_grid(self) -> tuple[int, int]:
        """Rows and columns of patches of the large view."""
        return self.tower.grid(self.vision.resolution, self.vision.resolution)

    def view_shapes(self, settings: VisionSettings | None = None) -> ViewShapes:
        """How images are cut into views, without the model: what loader workers need."""
        return ViewShapes.of(settings or self.vision, self.tower.image_size, self.config.pinpoints)

    @overload
    def image_features(self, image: Image.Image, mode: str, vision: VisionSettings | None = None) -> VisionFeatures: ...

    @overload
    def image_features(
        self, image: list[Image.Image] | tuple[Image.Image, ...], mode: str, vision: VisionSettings | None = None
    ) -> list[VisionFeatures]: ...

    @torch.no_grad()
    def image_features(
        self,
        image: Image.Image | list[Image.Image] | tuple[Image.Image, ...],
        mode: str,
        vision: VisionSettings | None = None,
    ) -> VisionFeatures | list[VisionFeatures]:
        """The tower's tokens of an image (of each image of a list) for `mode`; modes with equal views share theirs.

        Raises:
            UserError: for an unknown mode, or something that is no image of a sensible size.
        """
        if isinstance(image, list | tuple):
            return [self.image_features(one, mode, vision) for one in image]
        views, image = path_of(mode).views, to_rgb(image)
        return self.encode_views(self.view_shapes(vision).cut(image, views), image.size, views, vision)

    def encode_views(
        self,
        pixels: Tensor,
        image_size: tuple[int, int],
        views: Views,
        vision: VisionSettings | None = None,
    ) -> VisionFeatures:
        """The tower's tokens of views that are cut already; differentiable in the tower.

        Args:
            pixels: [V, H, W, 3] uint8, what `view_shapes().cut` gives for `views`.
            image_size: (width, height) of the upright image that they were cut from.
        """
        normal = normalised(pixels.to(self.device))
        needed = ShirgGate((vision or self.vision).gate).needs
        tokens, last_input = self.tower.forward_with_input(normal) if needed else (self.tower(normal), None)
        return VisionFeatures(views, tokens, normal, self.tower.grid(*normal.shape[-2:]), image_size, last_input)

    def load_text_tower(self, name: str | Path) -> None:
        """Read the rest of the tower's SigLIP, for relevance "siglip".

        Args:
            name: SigLIP checkpoint with its tokenizer.json, a folder or a hub id: google/siglip-so400m-patch14-384
                for released LaViDa.

        Raises:
            UserError: if there is none, or it is not the SigLIP that this model's tower was made from.
        """
        self.text_tower = load_text_tower(name, self.tower.config, device=self.device, dtype=self.dtype)

    @torch.no_grad()
    def select(
        self,
        features: VisionFeatures,
        budget: Budget,
        question_ids: Tensor | None = None,
        vision: VisionSettings | None = None,
    ) -> Kept:
        """The gate's choice of `budget` tokens among those of all views (batch of one).

        Args:
            budget: tokens to keep; "auto" takes as many as the print of the image needs, see `page_budget`.
            question_ids: ids [L] of the question; `VisionSettings.relevance` says where tokens are compared with it.

        Raises:
            UserError: for a budget below 1 or above the number of tokens, or a text tower that is needed and missing.
        """
        settings = vision or self.vision
        gate, grid, pixels = ShirgGate(settings.gate), (len(features.tokens), *features.grid), features.pixels[None]
        if budget == "auto":
            budget = page_budget(pixels, grid)
        check_budget(budget, features.num_tokens, tiles=features.views == "tiles")
        relevance = self.relevance(features, question_ids, settings)
        tokens = features.tokens.flatten(0, 1)[None]  # [1, V * N, D]
        needs = self._gate_needs(gate, features)
        return gate(tokens, budget=budget, grid=grid, pixels=pixels, relevance=relevance, **needs)

    def relevance(
        self, features: VisionFeatures, question_ids: Tensor | None, vision: VisionSettings | None = None
    ) -> Tensor | None:
        """Cosine of every token of all views to the question, [1, V * N] float32; see `token_relevance`."""
        return token_relevance(
            vision or self.vision,
            features.tokens,
            question_ids,
            projector=self.mm_projector,
            embed=self.language.embed_tokens,
            tokenizer=self.tokenizer,
            text_tower=self.text_tower,
        )

    def _gate_needs(self, gate: ShirgGate, features: VisionFeatures) -> dict[str, Tensor]:
        """What the selector reads beside the tokens, from the tower's last layer computed once more."""
        if not gate.needs:
            return {}
        last_input = features.last_input
        if last_input is None:  # features made for another selector: the whole tower runs again
            last_input = self.tower.forward_with_input(features.pixels)[1]
        made = self.tower.attention_and_keys(last_input, gate.needs)
        return {name: value.flatten(0, 1)[None] for name, value in made.items()}

    def image_embeds(
        self,
        features: VisionFeatures,
        mode: str,
        budget: Budget | None = None,
        question_ids: Tensor | None = None,
        vision: VisionSettings | None = None,
    ) -> Tensor:
        """The image's embeddings in the prompt, [n, hidden]; differentiable in the projector and its adapter.

        Args:
            budget: tokens to keep in modes "shirg" and "multiview" (768 by default); the summary token comes on top.

        Raises:
            UserError: if the features are of other views than `mode` needs, or the budget does not fit.
        """
        path = path_of(mode)
        if features.views != path.views:
            raise UserError(f"features of views {features.views!r} do not serve mode={mode!r}: it needs {path.views!r}")
        if path.reduce == "select":
            kept = self.select(features, DEFAULT_BUDGET if budget is None else budget, question_ids, vision)
            return self.mm_projector(kept.tokens[0])
        projected = self.mm_projector(features.tokens)
        if path.reduce == "all":
            return projected.flatten(0, 1)
        pooled = pooling.pool_views(projected, features.grid, self.config.pool_mode)
        if path.reduce == "pool-flat":
            return pooled.flatten(0, 1)
        tiles = tile_grid(features.image_size, self.config.pinpoints, self.tower.image_size)
        merge_type, newline = self.config.patch_merge_type, self.image_newline
        return pooling.merge_views(pooled, merge_type, features.image_size, tiles, newline)

    def encode_images(
        self,
        images: Sequence[Image.Image],
        mode: str = "shirg",
        budget: Budget | None = None,
        questions: Sequence[str] | None = None,
        vision: VisionSettings | None = None,
    ) -> list[Tensor]:
        """Embeddings [n, hidden] of each image, ready to be spliced into a prompt.

        Args:
            questions: one about each image, for the relevance term; None chooses by the image alone.

        Raises:
            UserError: if there are not as many questions as images; otherwise as `image_embeds`.
        """
        if questions is not None and len(questions) != len(images):
            raise UserError(f"{len(questions)} questions for {len(images)} images: give one for each, or none")
        asked: Sequence[Tensor | None] = [None] * len(images)
        if questions is not None:
            asked = [self.question_ids(self.prompt_ids(question)) for question in questions]
        return [
            self.image_embeds(self.image_features(image, mode, vision), mode, budget, ids, vision)
            for image, ids in zip(images, asked, strict=True)
        ]

    def base_projection(self, tokens: Tensor) -> Tensor:
        """Tower tokens [..., D] -> [..., hidden] by the projector as it is without any adapter."""
        return base_projection(self.mm_projector, tokens)

    # ------------------------------------------------------------------ language

    def prompt_ids(self, question: str) -> Tensor:
        """Ids [L] of the chat that asks `question` about one image; `config.image_token_index` marks its place.

        Raises:
            UserError: for an empty question, or a model without a tokenizer.
        """
        tokenizer = self._need_tokenizer()
        text = prompt.prompt_text(tokenizer, question)
        return prompt.tokenize_with_images(tokenizer, text, self.config.image_token_index)

    def question_ids(self, input_ids: Tensor) -> Tensor:
        """The part of a prompt [L] that is asked about its image: behind the placeholder, up to the next mark of a turn."""
        marks = self.stop_ids
        if self.tokenizer is not None:  # some templates begin the answer without having ended the question
            marks |= prompt.question_marks(self.tokenizer)
        return prompt.question_part(input_ids, self.config.image_token_index, marks)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids after which an answer is over: the config's end of text and the tokenizer's end of turn."""
        stops: list[int | None] = [self.config.eos_token_id]
        if self.tokenizer is not None:
            stops += [self.tokenizer.eos_token_id, prompt.end_of_turn_id(self.tokenizer, self.config.family)]
        return prompt.known_ids(stops)

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
        input_ids: Tensor | Sequence[Tensor],
        images: Sequence[Image.Image] | None = None,
        mode: str = "hd",
        budget: Budget | None = None,
        image_embeds: Sequence[Tensor] | None = None,
        max_new_tokens: int = 32,
        block_length: int | None = None,
        step_ratio: float | None = None,
        step_per_block: int | None = None,
        steps: int | None = None,
        schedule: str | None = None,
        schedule_kwargs: dict[str, float] | None = None,
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
        on_prefix: OnPrefix | None = None,
        stop_early: bool = False,
        attention_mask: Tensor | None = None,
        vision: VisionSettings | None = None,
    ) -> Tensor:
        """Denoise answers to prompts; returns the new tokens only, Long [B, max_new_tokens].

        Args:
            input_ids: prompts [B, L], or a list of prompts [L_i] of any lengths; each is answered as if it were alone. Padding
                in [B, L] is for `attention_mask` to tell: without it every id is read.
            images: one PIL image per placeholder, in order across the batch.
            image_embeds: instead of images, their embeddings [n, hidden].
            steps: denoising steps for the whole answer, instead of `step_ratio` or `step_per_block`. LLaDA's blocks share
                them evenly, at least one each and at most one per token. (The official code takes no notice of it for
                LLaDA, generate.py:146.)
            block_length: LLaDA only, as `step_per_block`, and 32 by default; Dream has no blocks.
            draft_tokens: [B or 1, D <= max_new_tokens]: the start of the answer; its masks are filled in, what is no mask
                is kept. (The official Dream has no drafts, and always takes its first token from the prefix.)
            alg: Dream only, as `alg_temp`, `top_p`, `top_k`, see `DreamSettings`; without it, `remasking` is translated.
            generator: source of chance, on the model's device; None is torch's own.
            on_step: called with (number of forward passes so far, tokens [B, max_new_tokens]) after each.
            on_prefix: called with the prefix's `PrefixCache` once it is full, before the first pass over the answer.
            attention_mask: [B, L], 0 where `input_ids` are padding, on whichever side.
            stop_early: end once no row has a mask before its first stop token (`stop_ids`, a draft's included), and write
                the config's end of text behind it. Texts are those of a full run, passes fewer. (Official: never.)

        Other arguments: see `GenerationSettings`.

        Raises:
            UserError: for arguments that make no sense or do not fit each other.
        """
        settings = decoding_settings(
            self.config.family,
            mask_token_id=self.config.mask_token_id,
            max_new_tokens=max_new_tokens,
            block_length=block_length,
            step_ratio=step_ratio,
            step_per_block=step_per_block,
            steps=steps,
            schedule=schedule,
            schedule_kwargs=schedule_kwargs,
            remasking=remasking,
            temperature=temperature,
            prefix_lm=prefix_lm,
            alg=alg,
            alg_temp=alg_temp,
            top_p=top_p,
            top_k=top_k,
            early_stop=self._early_stop() if stop_early else None,
        )
        prompts = prompt.rows_of(input_ids, attention_mask)
        tokens = starting_tokens(draft_tokens, len(prompts), max_new_tokens, self.config.mask_token_id)
        embeds = self._embeds_per_placeholder(prompts, images, mode, budget, image_embeds, vision)
        prefix = Prefix.of(self._spliced_rows(prompts, embeds))
        self.check_length(prefix.embeds.shape[1], max_new_tokens)
        vocabulary = self.vocabulary_size
        return denoise_answers(self.language, prefix, vocabulary, tokens, settings, generator, on_step, on_prefix)

    def check_length(self, prefix: int, answer: int) -> None:
        """Raise `ItemError` where a prefix and an answer of so many tokens are more than the model was made for."""
        longest = self.config.max_positions
        if longest is not None and prefix + answer > longest:
            raise ItemError(
                f"{prefix} prefix tokens (image and prompt) and {answer} of the answer are more than the {longest} that this "
                f"model was made for; {prefix + answer - longest} fewer would fit: a smaller budget or image, or a shorter "
                "question or answer"
            )

    def _early_stop(self) -> EarlyStop:
        return EarlyStop(self.config.mask_token_id, self.stop_ids, self.config.eos_token_id)

    def answer(
        self,
        image: Image.Image,
        question: str,
        mode: str = "shirg",
        budget: Budget = DEFAULT_BUDGET,
        max_new_tokens: int | None = None,
        *,
        draft: str | None = None,
        vision: VisionSettings | None = None,
        **generate_keywords: Any,
    ) -> str:
        """The model's answer to `question` about `image`, up to the end of its turn, without special tokens.

        It is denoised as one block and stops early, unless `block_length` and `stop_early` say otherwise: committed tokens
        never change, so that nothing behind the end of an answer can change its text.

        Args:
            max_new_tokens: length of the answer block, a draft included; None takes the model's own,
                `config.answer_tokens`, or as many as a draft with gaps needs, in whole blocks.
            draft: how the answer is to look. With gaps, "[mask]" for one token and "[mask:6]" for six, it is a form: "Total:
                [mask:6] USD" is returned with the gap filled, and ends there. (Where words begin with their space, leave it
                to the gap.) Without gaps it is how the answer begins: "The total is". Checkpoints trained to fill in the
                middle want "[fim]" behind a gap, and may then use less of it.

        Raises:
            UserError: for an empty question, a budget below 1 or above the image's tokens, a draft that cannot be read or
                does not fit, a model without a tokenizer.
        """
        prompt_ids, form_length = self.prompt_ids(question), 0
        if draft is not None:
            if "draft_tokens" in generate_keywords:
                raise UserError("give draft or draft_tokens, not both")
            block, form_length = self._draft_block(draft, max_new_tokens, generate_keywords.get("block_length"))
            max_new_tokens, generate_keywords["draft_tokens"] = block.shape[1], block
        length = self.config.answer_tokens if max_new_tokens is None else max_new_tokens
        # A stop token in one gap of a form must not leave the next one empty; filled gaps end a form anyway.
        keywords = {"block_length": length, "stop_early": True, **generate_keywords}
        keywords["stop_early"] &= not form_length
        features = self.image_features(image, mode, vision)  # views, tokens
        embeds = self.image_embeds(features, mode, budget, self.question_ids(prompt_ids), vision)  # kept, embeddings
        tokens = self.generate(
            prompt_ids[None], image_embeds=[embeds], max_new_tokens=length, **keywords
        )  # prefix, cache
        return self.answer_text(tokens[0], form_length)

    def answer_text(self, tokens: Tensor, form_length: int = 0) -> str:
        """What generated ids [N] say, up to the end of the turn, without special tokens.

        Args:
            form_length: so many tokens at the start are a draft with gaps: stop tokens in them are gaps left empty, and
                end nothing.
        """
        ids, stops = tokens.tolist(), self.stop_ids
        end = next((place for place in range(form_length, len(ids)) if ids[place] in stops), len(ids))
        tokenizer = self._need_tokenizer()
        unsaid = stops | control_ids(tokenizer, self.config.fim_token_id) | {self.config.mask_token_id}
        said = [token for token in ids[:end] if token not in unsaid]
        return prompt.text_of(tokenizer, said, skip_special_tokens=True).strip()

    def _draft_block(self, text: str, max_new_tokens: int | None, block_length: int | None) -> tuple[Tensor, int]:
        """The block [1, N] that a draft is, and how many of its tokens are a form."""
        config, tokenizer = self.config, self._need_tokenizer()
        draft = Draft.parse(text, tokenizer, config.mask_token_id, config.fim_token_id)
        form_length = len(draft.ids) if draft.is_form else 0
        length = max_new_tokens
        if length is None:
            length = max(config.answer_tokens, form_length + 1)
            length += -length % min(max(block_length or 1, 1), length)
        end_of_turn = prompt.end_of_turn_id(tokenizer, config.family)
        stops = (config.eos_token_id if end_of_turn is None else end_of_turn), config.eos_token_id
        return draft.block(length, *stops), form_length

    @property
    def vocabulary_size(self) -> int:
        """Entries that can be generated: those the tokenizer knows. Embedding tables are padded to round numbers, and
        the official loader cuts them down (LaViDa builder.py:297-298)."""
        rows = self.config.body.vocab_size
        return rows if self.tokenizer is None else min(rows, len(self.tokenizer))

    def _need_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise UserError("this model came without a tokenizer: use generate with input_ids instead of text")
        return self.tokenizer

    def _embeds_per_placeholder(
        self,
        prompts: list[Tensor],
        images: Sequence[Image.Image] | None,
        mode: str,
        budget: Budget | None,
        image_embeds: Sequence[Tensor] | None,
        vision: VisionSettings | None,
    ) -> list[Tensor]:
        if image_embeds is not None:
            if images is not None:
                raise UserError("give images or image_embeds, not both")
            return list(image_embeds)
        rows = [row for row in prompts for _ in range(int((row == self.config.image_token_index).sum()))]
        images = list(images or [])
        if len(rows) != len(images):
            raise UserError(f"input_ids hold {len(rows)} image placeholders for {len(images)} images")
        return [
            self.image_embeds(self.image_features(image, mode, vision), mode, budget, self.question_ids(row), vision)
            for image, row in zip(images, rows, strict=True)
        ]

    def _spliced_rows(self, prompts: list[Tensor], embeds: list[Tensor]) -> list[Tensor]:
        rows, start = [], 0
        for row in prompts:
            count = int((row == self.config.image_token_index).sum())
            rows.append(self.splice(row, embeds[start : start + count]))
            start += count
        if start != len(embeds):
            raise UserError(f"input_ids hold {start} image placeholders for {len(embeds)} image_embeds")
        return rows
