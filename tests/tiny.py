"""A random-weight LaViDa of the right anatomy, made in a moment: for tests of everything but quality."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import nn

from shirg.gate import GateConfig, ShirgGate
from shirg.lavida import Lavida, LavidaConfig, VisionFeatures
from shirg.lavida.relevance import base_projection

SPECIALS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|mdm_mask|>",
    "<|im_start|>",
    "<|im_end|>",
)
TEMPLATES = {
    "llada": (
        "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "dream": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
VOCABULARY = 256 + len(SPECIALS)
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 384,
    "patch_size": 14,
}
SIZES = {
    "llada": {
        "model_type": "llava_llada",
        "d_model": 32,
        "n_heads": 4,
        "n_kv_heads": 2,
        "n_layers": 2,
        "mlp_hidden_size": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "vocab_size": VOCABULARY,
        "embedding_size": VOCABULARY,
    },
    "dream": {
        "model_type": "llava_dream",
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "vocab_size": VOCABULARY,
    },
}


def tiny_config(family: str = "llada", **overrides: object) -> LavidaConfig:
    """A configuration with the contents of an official `config.json`; `overrides` are keys of that file."""
    raw = {
        **SIZES[family],
        "mask_token_id": 256 + SPECIALS.index("<|mdm_mask|>"),
        "eos_token_id": 256 + SPECIALS.index("<|endoftext|>"),
        "pad_token_id": 256 + SPECIALS.index("<|endoftext|>"),
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 16,
        "mm_patch_merge_type": "flat",
        "mm_spatial_pool_mode": "bilinear",
        "image_aspect_ratio": "anyres",
        "vision_config": dict(VISION),
    }
    return LavidaConfig.from_dict({**raw, **overrides})


def tiny_tokenizer(family: str = "llada"):
    """One id per byte, then the special tokens; the chat template is the family's."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {mark: index for index, mark in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>" if family == "llada" else None,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATES[family],
    )


def tiny_model(family: str = "llada", *, seed: int = 0, tokenizer: bool = True, **overrides: object) -> Lavida:
    """A model with random weights, in eval mode; the same `seed` gives the same weights.

    Matrices of the language model are enlarged, so that answers depend on every part of the prompt.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Lavida(tiny_config(family, **overrides), tiny_tokenizer(family) if tokenizer else None)
    with torch.no_grad():
        for parameter in model.language.parameters():
            if parameter.ndim > 1:
                parameter *= 10
    return model.eval()


def tiny_page(width: int = 300, height: int = 200, text: str = "Total 12.50") -> Image.Image:
    """A white page with a line of text, a box and some shading."""
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((width // 8, height // 4), text, fill="black", font_size=max(height // 8, 10))
    draw.rectangle((width // 2, height // 2, width - 20, height - 20), fill=(200, 220, 255), outline="black")
    return page


def printable(model: Lavida) -> Lavida:
    """The model with an output of printable ASCII only, so that different answers have different texts."""
    with torch.no_grad():
        model.language.lm_head.weight[94:] = 0
    return model


@contextlib.contextmanager
def counted_gates() -> Iterator[list[int]]:
    """One entry for every call of a gate."""
    calls: list[int] = []
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, *_: calls.append(1) if isinstance(module, ShirgGate) else None
    )
    try:
        yield calls
    finally:
        hook.remove()


def printed_page(lines: int) -> Image.Image:
    """A white square page with so many lines of small print, at most twenty."""
    page = Image.new("RGB", (336, 336), "white")
    draw = ImageDraw.Draw(page)
    for line in range(lines):
        draw.text((10, 10 + 16 * line), "Total 12.50 of seven items in stock", fill="black", font_size=12)
    return page


def name_a_token(model: Lavida, features: VisionFeatures, ids: torch.Tensor, place: int) -> None:
    """Let all these words mean one patch, as they do in a trained model: a question with them is then about it."""
    tokens = base_projection(model.mm_projector, features.tokens.flatten(0, 1)).detach()
    model.language.embed_tokens.weight.data[ids] = tokens[place] - tokens.mean(0)


def formula(**changes: Any) -> GateConfig:
    """SHIRG-v2's formula, the preset that can be worked by hand, with these changes."""
    return dataclasses.replace(GateConfig.preset("shirg-v2"), **changes)
