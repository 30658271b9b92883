"""LaViDa with SHIRG's gate: image -> views -> tokens -> kept tokens -> embeddings -> prefix -> cache -> answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor, nn

from shirg.errors import UserError
from shirg.files import atomic_path
from shirg.gate import SELECTORS, Kept, ShirgGate, page_budget
from shirg.images import to_rgb
from shirg.lavida import adapter as lora
from shirg.lavida import chat, checkpoint, pooling, prefix, prompt, text
from shirg.lavida.config import LavidaConfig, read_config
from shirg.lavida.diffusion.decoding import DecodingKeywords, decoding_settings
from shirg.lavida.diffusion.families import denoise_answers
from shirg.lavida.diffusion.generation import EarlyStop, OnPrefix, OnStep
from shirg.lavida.drafts import answer_block
from shirg.lavida.language import LanguageModel
from shirg.lavida.relevance import token_relevance
from shirg.lavida.settings import VisionSettings
from shirg.lavida.text_tower import TextTower, load_text_tower
from shirg.lavida.tower import SigLipVisionTower
from shirg.lavida.views import Views, ViewShapes, normalised
from shirg.lavida.vision import DEFAULT_BUDGET, VisionFeatures, check_budget, path_of
from shirg.ranges import BUDGET, Budget

if TYPE_CHECKING:
    from peft import LoraConfig
    from PIL import Image
    from transformers import PreTrainedTokenizerBase


class Lavida(nn.Module):
    """A diffusion vision-language model. Built from a config, it has random weights.

    Attributes:
        tower, mm_projector, language: the three parts.
        image_newline: the row separator of "unpad" checkpoints, or None.
        vision: settings of views and token selection; initially those of the config. Replace it to change a setting:
            `model.vision = dataclasses.replace(model.vision, gate=GateConfig.preset("ocr"))`. Methods with an argument `vision`
            use that instead for one call.
        adapter_vision: the settings that the loaded adapter was trained with, or None.
        tokenizer: the checkpoint's tokenizer, or None; without it the model takes and returns ids only.
        text_tower: SigLIP's text tower for relevance "siglip", or None; see `load_text_tower`.
    """

    peft_config: dict[str, LoraConfig]  # peft's attribute; absent without an adapter

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
            dtype: float32, bfloat16, float16 or float64, as torch's dtype or its name.
            revision: branch, tag or commit of a hub id.
            adapter: folder of a SHIRG adapter to load on top.

        Raises:
            UserError: if there is no such model, device or precision, or the files do not match each other.
        """
        device, dtype = checkpoint.as_device(device), checkpoint.as_dtype(dtype)
        folder = checkpoint.resolve(name, revision)
        raw = read_config(folder)
        checkpoint.warn_of_remote_code(folder, raw)
        tokenizer = checkpoint.load_tokenizer(folder)
        config = LavidaConfig.from_dict(raw, tokenizer)
        with torch.device("meta"):
            model = cls(config, tokenizer)
        checkpoint.load_weights(
            *(model, config.family, folder),
            device=device,
            dtype=dtype,
            unused=config.unused_tensors,
            min_rows=max(config.used_rows, 0 if tokenizer is None else len(tokenizer)),
        )
        model.tower.restore_buffers(device)
        if adapter is not None:
            model.load_adapter(adapter)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the base model in the official layout, without any adapter. Reading it back gives the same bits."""
        raw = self.config.to_dict(self._vision_without_adapter())
        checkpoint.save_checkpoint(self, raw, self.config.family, self.tokenizer, folder)

    def load_adapter(self, folder: str | Path) -> dict[str, Any]:
        """Attach the adapter in `folder`, replacing a loaded one. Returns its training settings.

        `vision` becomes the settings that it was trained with, until the adapter is unloaded. A setting that differs from the
        checkpoint's was set by the user and is kept, with a warning if the adapter's differs.

        Raises:
            UserError: if the folder is not a SHIRG adapter, was trained on another base, has options that are not supported
                (the model is unchanged), or its weights are damaged (the model then has no adapter).
        """
        stored = lora.StoredAdapter.read(Path(folder))
        stored.check_base(self.mm_projector)
        trained = stored.vision(self.config.vision, self.tower.patch_size)
        self.unload_adapter()
        stored.attach(self)
        self.vision = lora.with_adapter_vision(self.vision, self.config.vision, trained)
        self.adapter_vision = trained
        lora.warn_of_differences(self.vision, trained, folder)
        return stored.settings

    def unload_adapter(self) -> None:
        """Remove the adapter and its vision settings; the base model is unchanged."""
        self.vision, self.adapter_vision = self._vision_without_adapter(), None
        lora.detach_lora(self)

    def merge_adapter(self) -> None:
        """Add the adapter's update to the projector; `save_pretrained` then writes an ordinary checkpoint.

        The adapter's vision settings are kept, also in that checkpoint. For rounding see `adapter.merge_lora`.

        Raises:
            UserError: if the model has no adapter.
        """
        lora.merge_lora(self)
        self.adapter_vision = None

    def save_adapter(self, folder: str | Path, *, settings: dict[str, Any]) -> Path:
        """Write the adapter folder atomically, replacing an existing one. Returns its path.

        Args:
            settings: training settings, JSON values; vision settings and the base's fingerprint are added.

        Raises:
            UserError: if the model has no adapter.
        """
        with atomic_path(folder) as fresh:
            fresh.mkdir()
            lora.write_adapter(self, fresh, {**self.adapter_settings(), **settings})
        return Path(folder)

    def adapter_settings(self) -> dict[str, Any]:
        """Vision settings and the base's fingerprint, which every adapter stores."""
        return {**self.vision.as_dict(), "base_fingerprint": lora.base_fingerprint(self.mm_projector)}

    def _vision_without_adapter(self) -> VisionSettings:
        return lora.without_adapter_vision(self.vision, self.config.vision, self.adapter_vision)

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
        """How images are cut into views. It holds no weights, so that data loader workers can use it."""
        return ViewShapes.of(settings or self.vision, self.tower.image_size, self.config.pinpoints)

    @torch.no_grad()
    def image_features(self, image: Image.Image, mode: str, vision: VisionSettings | None = None) -> VisionFeatures:
        """The tower's tokens of an image for `mode`. Modes with the same views have the same tokens, except "early".

        Raises:
            UserError: for an unknown mode, or an input that is not a PIL image or is too large.
        """
        path, image = path_of(mode), to_rgb(image)
        pixels = self.view_shapes(vision).cut(image, path.views)
        return self.encode_views(pixels, image.size, path.views, vision, early=path.early)

    def encode_views(
        self,
        pixels: Tensor,
        image_size: tuple[int, int],
        views: Views,
        vision: VisionSettings | None = None,
        *,
        early: bool = False,
    ) -> VisionFeatures:
        """The tower's tokens of views; differentiable in the tower.

        Args:
            pixels: [V, H, W, 3] uint8, from `view_shapes().cut`.
            image_size: (width, height) of the upright image before it was cut into views.
            early: only embed the patches; `select` encodes those that it keeps.
        """
        normal = normalised(pixels.to(self.device))
        grid = self.tower.grid(*normal.shape[-2:])
        if early:
            return VisionFeatures(views, self.tower.embed(normal), normal, grid, image_size, early=True)
        needed = SELECTORS[(vision or self.vision).gate.selector].needs
        tokens, last_input = self.tower.forward_with_input(normal) if needed else (self.tower(normal), None)
        return VisionFeatures(views, tokens, normal, grid, image_size, last_input)

    def load_text_tower(self, name: str | Path) -> None:
        """Load SigLIP's text tower, for relevance "siglip".

        Args:
            name: SigLIP checkpoint with its tokenizer.json, a folder or a hub id: google/siglip-so400m-patch14-384
                for released LaViDa.

        Raises:
            UserError: if there is no such checkpoint, or its sizes are not those of this model's tower.
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
        """The gate's selection of `budget` tokens among those of all views (batch of one).

        Early features are patch embeddings, and so are the kept tokens, see `encode_kept`. The question is then left out, and a
        budget above the number of tokens keeps all of them.

        Args:
            budget: tokens to keep; "auto" is estimated from the pixels of the image, see `page_budget`.
            question_ids: ids [L] of the question, for `VisionSettings.relevance`.

        Raises:
            UserError: for a budget below 1 or above the number of tokens, a text tower that is needed and missing, or early
                features and a selector that needs the tower's attention or keys.
        """
        settings = vision or self.vision
        grid, pixels = (len(features.tokens), *features.grid), features.pixels[None]
        needs, last_input, inputs = SELECTORS[settings.gate.selector].needs, features.last_input, {}
        if needs and features.early:
            raise UserError(
                f"selector: got {settings.gate.selector!r}, which needs the tower's {' and '.join(needs)}; mode 'early' selects "
                "before the tower, so take another selector, or mode 'shirg'"
            )
        if needs:
            if last_input is None:  # features made for another selector
                last_input = self.tower.forward_with_input(features.pixels)[1]
            computed = self.tower.attention_and_keys(last_input, needs)
            inputs = {name: value.flatten(0, 1)[None] for name, value in computed.items()}
        count = page_budget(pixels, grid, selector=settings.gate.selector) if budget == "auto" else budget
        if features.early:
            BUDGET.check("budget", count)
            count = min(count, features.num_tokens)
        check_budget(count, features.num_tokens, tiles=features.views == "tiles")
        relevance = None if features.early else self.relevance(features, question_ids, settings)
        tokens = features.tokens.flatten(0, 1)[None]  # [1, V * N, D]
        return ShirgGate(settings.gate)(tokens, count, grid, pixels=pixels, relevance=relevance, **inputs)

    @torch.no_grad()
    def encode_kept(self, kept: Kept, features: VisionFeatures) -> Tensor:
        """The projector's input, [K + 1, D], of what `select` kept of `features`.

        Of early features the tower encodes the kept patches and the mean of the dropped ones together. If none was dropped there
        is no mean, and the result equals that of path "highres".
        """
        if not features.early:
            return kept.tokens[0]
        with torch.autocast(
            kept.tokens.device.type, enabled=False
        ):  # like features, which training makes outside of it
            return self.tower.encode(kept.tokens[:, : features.num_tokens])[0]

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
            budget: tokens to keep in modes that select (768 by default), without the summary token.

        Raises:
            UserError: if the features are of other views than `mode` needs, or the budget is above their tokens.
        """
        path = path_of(mode)
        if (features.views, features.early) != (path.views, path.early):
            raise UserError(
                f"features of views {features.views!r} with early={features.early} do not fit mode={mode!r}, which needs "
                f"{path.views!r} with early={path.early}"
            )
        if path.reduce == "select":
            kept = self.select(features, DEFAULT_BUDGET if budget is None else budget, question_ids, vision)
            return self.mm_projector(self.encode_kept(kept, features))
        projected = self.mm_projector(features.tokens)
        if path.reduce == "pool":
            return pooling.pool_and_merge(projected, features, self.config, self.tower.image_size, self.image_newline)
        if path.reduce == "pool-flat":
            projected = pooling.pool_views(projected, features.grid, self.config.pool_mode)
        return projected.flatten(0, 1)

    def encode_images(
        self,
        images: Sequence[Image.Image],
        mode: str = "shirg",
        budget: Budget | None = None,
        questions: Sequence[str | Tensor] | None = None,
        vision: VisionSettings | None = None,
    ) -> list[Tensor]:
        """Embeddings [n, hidden] of each image, ready to be spliced into a prompt.

        Args:
            questions: one about each image, its text or its ids [L], for the relevance term; None leaves that term out.

        Raises:
            UserError: if questions and images differ in number, and as for `image_embeds`.
        """
        if questions is not None and len(questions) != len(images):
            raise UserError(f"{len(questions)} questions for {len(images)} images: give one for each, or none")
        embeds = []
        for number, image in enumerate(images):
            asked = None if questions is None else questions[number]
            ids = self.question_ids(self.prompt_ids(asked)) if isinstance(asked, str) else asked
            embeds.append(self.image_embeds(self.image_features(image, mode, vision), mode, budget, ids, vision))
        return embeds

    # ------------------------------------------------------------------ text

    def prompt_ids(self, question: str) -> Tensor:
        """Ids [L] of the chat that asks `question` about one image, with `config.image_token_index` in the image's place.

        Raises:
            UserError: for an empty question, or without a tokenizer.
        """
        tokenizer = chat.required(self.tokenizer)
        return prompt.tokenize_with_images(
            tokenizer, prompt.prompt_text(tokenizer, question), self.config.image_token_index
        )

    def question_ids(self, input_ids: Tensor) -> Tensor:
        """The question about the image in a prompt [L]: what is after its last placeholder and before the turn's end."""
        return prompt.question_ids(input_ids, self.config, self.tokenizer)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        return chat.stop_ids(self.config, self.tokenizer)

    @property
    def vocabulary_size(self) -> int:
        """Entries that can be generated: those that the tokenizer knows. Embedding tables are padded to round numbers, and the
        official loader shrinks them (LaViDa builder.py:297-298)."""
        rows = self.config.body.vocab_size
        return rows if self.tokenizer is None else min(rows, len(self.tokenizer))

    def answer_text(self, tokens: Tensor, infill_length: int = 0) -> str:
        """The text of generated ids [N] up to the first stop token; see `text.answer_text`."""
        return text.answer_text(tokens, self.config, self.tokenizer, infill_length)

    # ------------------------------------------------------------------ answers

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

        By default the answer is one block and stops early, which does not change its text; `block_length` and `stop_early`
        override that.

        Args:
            budget: visual tokens to keep in modes "shirg", "early" and "multiview", or "auto".
            max_new_tokens: length of the answer block, a draft included; None is `config.answer_tokens`, or as many whole
                blocks as a draft with gaps needs.
            draft: the beginning of the answer ("The total is"), or its text with gaps, "[mask]" for one token and "[mask:6]"
                for six ("Total: [mask:6] USD"). A draft with gaps is returned with the gaps filled. If the
                tokenizer's words begin with their space, write none before a gap. Checkpoints trained for infilling need "[fim]"
                after a gap, and may then use fewer of its tokens.
            generate_keywords: see `generate`.

        Raises:
            UserError: for an empty question, a budget below 1 or above the image's tokens, a draft that cannot be read or
                does not fit, a model without a tokenizer.
        """
        if draft is not None and "draft_tokens" in generate_keywords:
            raise UserError("give draft or draft_tokens, not both")
        prompt_ids = self.prompt_ids(question)
        question_ids = self.question_ids(prompt_ids)
        block = answer_block(draft, max_new_tokens, generate_keywords.get("block_length"), self.config, self.tokenizer)
        features = self.image_features(image, mode, vision)  # image -> views -> tokens
        embeds = self.image_embeds(features, mode, budget, question_ids, vision)  # kept -> embeddings
        keywords: dict[str, Any] = {
            "block_length": block.length,
            "draft_tokens": block.draft_tokens,
            **generate_keywords,
        }
        # A stop token in one gap would leave the next gap empty. Denoising ends anyway once all gaps are filled.
        stop_early = keywords.pop("stop_early", True) and not block.infill_length
        tokens = self.generate(  # prefix -> cache -> answer tokens
            prompt_ids[None], image_embeds=[embeds], max_new_tokens=block.length, stop_early=stop_early, **keywords
        )
        return self.answer_text(tokens[0], block.infill_length)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | Sequence[Tensor],
        images: Sequence[Image.Image] | None = None,
        mode: str = "hd",
        budget: Budget | None = None,
        image_embeds: Sequence[Tensor] | None = None,
        *,
        attention_mask: Tensor | None = None,
        draft_tokens: Tensor | None = None,
        stop_early: bool = False,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
        on_prefix: OnPrefix | None = None,
        vision: VisionSettings | None = None,
        **decoding: Unpack[DecodingKeywords],
    ) -> Tensor:
        """Denoise answers to prompts; returns the new tokens only, Long [B, max_new_tokens].

        Args:
            input_ids: prompts [B, L], or a list of prompts [L_i] of any lengths. Each is answered as if it were alone.
            images: one PIL image per placeholder, in order across the batch.
            image_embeds: embeddings [n, hidden] of the images, instead of `images`.
            attention_mask: [B, L], 0 at padding of `input_ids`, on either side. Without it no id is padding.
            draft_tokens: [B or 1, D <= max_new_tokens], the start of the answer; only its masks are filled. (The official Dream
                has no drafts and always takes its first token from the prefix.)
            stop_early: end once no row has a mask before its first stop token (`stop_ids`, also in a draft), and replace the
                remaining masks by end of text. The texts equal those of a full run. (The official code never stops early.)
            generator: random generator on the model's device; None is torch's default one.
            on_step: called with (number of steps so far, tokens [B, max_new_tokens]) after each denoising step.
            on_prefix: called with the `PrefixCache` of the prefix before the first step.
            decoding: `max_new_tokens` (32), `steps`, `step_ratio`, `schedule`, `schedule_kwargs`, `threshold`, `factor`,
                `remasking`, `temperature` and `prefix_lm`; with LLaDA also `block_length` and `step_per_block`, see
                `GenerationSettings`; with Dream also `alg`, `alg_temp`, `top_p` and `top_k`, see `DreamSettings`. Without `alg`,
                Dream translates `remasking`.

        Raises:
            UserError: for arguments outside their range or that do not fit each other.
        """
        config = self.config
        early_stop = EarlyStop(config.mask_token_id, self.stop_ids, config.eos_token_id) if stop_early else None
        settings = decoding_settings(config.family, config.mask_token_id, early_stop, **decoding)
        prompts = prefix.prompt_rows(input_ids, attention_mask)
        if images is not None and image_embeds is not None:
            raise UserError("give images or image_embeds, not both")
        name, given = ("images", images or ()) if image_embeds is None else ("image_embeds", image_embeds)
        counts = prefix.placeholders(prompts, config.image_token_index, len(given), name)
        if image_embeds is None:
            asked = [self.question_ids(row) for row, count in zip(prompts, counts, strict=True) for _ in range(count)]
            image_embeds = self.encode_images(images or (), mode, budget, asked, vision)
        remaining = iter(image_embeds)
        spliced = [self.splice(row, list(islice(remaining, count))) for row, count in zip(prompts, counts, strict=True)]
        rows = prefix.Prefix.of(spliced)
        config.check_length(rows.embeds.shape[1], settings.max_new_tokens)
        vocabulary = self.vocabulary_size
        return denoise_answers(self.language, rows, vocabulary, draft_tokens, settings, generator, on_step, on_prefix)

    def splice(self, input_ids: Tensor, image_embeds: Sequence[Tensor]) -> Tensor:
        """Embeddings [P, hidden] of a prompt [L], with each placeholder replaced by its image's embeddings, in order.

        Raises:
            UserError: if placeholders and images differ in number.
        """
        input_ids = input_ids.to(self.device)
        return prefix.splice(self.language.embed_tokens, input_ids, image_embeds, self.config.image_token_index)
