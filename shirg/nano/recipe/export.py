"""Last stage: the trained parts as one LaViDa checkpoint in the official layout, which is what the package ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shirg.lavida import Lavida, LavidaConfig
from shirg.nano.recipe.geometry import LANGUAGE, VISION
from shirg.nano.recipe.lessons import ANSWER_LENGTH
from shirg.nano.recipe.reader import Reader
from shirg.nano.recipe.tokenizer import END, MASK


def nano_config(reader: Reader) -> dict[str, Any]:
    """`config.json` in the naming of LaViDa's LLaDA checkpoints; "vision_config" and "shirg" are additions of ours."""
    vocabulary = len(reader.tokenizer)
    ids = reader.tokenizer.convert_tokens_to_ids
    return {
        "architectures": ["LlavaLladaForMaskedDiffusion"],
        "model_type": "llava_llada",
        **LANGUAGE,
        "activation_type": "silu",
        "block_type": "llama",
        "layer_norm_type": "rms",
        "rope": True,
        "rope_full_precision": True,
        "alibi": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "weight_tying": False,
        "vocab_size": vocabulary,
        "embedding_size": vocabulary,
        "mask_token_id": ids(MASK),
        "eos_token_id": ids(END),
        "pad_token_id": ids(END),
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]],
        "mm_hidden_size": VISION["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "flat",
        "mm_spatial_pool_mode": "bilinear",
        "tokenizer_model_max_length": LANGUAGE["max_sequence_length"],
        "tokenizer_padding_side": "right",
        "vision_config": VISION,
        "shirg": {
            "nano": True,
            "answer_tokens": ANSWER_LENGTH,
            "relevance": "none",
            "resolution": 672,
        },
    }


def as_lavida(reader: Reader) -> Lavida:
    """The reader as a LaViDa, sharing nothing with it."""
    model = Lavida(LavidaConfig.from_dict(nano_config(reader)), reader.tokenizer)
    model.tower.vision_model.load_state_dict(reader.tower.state_dict())
    model.mm_projector.load_state_dict(reader.mm_projector.state_dict())
    model.language.load_state_dict(reader.language.state_dict())
    return model.eval()


def export(reader: Reader, folder: Path) -> None:
    """Write the checkpoint in bfloat16, in which it was trained and half the size; `folder` is complete or untouched."""
    as_lavida(reader).to(torch.bfloat16).save_pretrained(folder)
