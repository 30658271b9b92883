"""Shapes of the published models as contents of an official `config.json`, for computations without weights.

The sizes of the language models are those of the public LLaDA-8B and Dream-7B checkpoints, which the official code base does not
contain; a checkpoint's own `config.json` takes precedence. LaViDa's fields (tower, projector, tiles, pooling, special ids) are
from its code base: llava_llada.py:125-126, llava_dream.py:193-194, scripts/train/exps/cluster/llada-hd-llada-s2.sh:39,48.
"""

from __future__ import annotations

import copy
from typing import Any

from shirg.lavida.assemble import ARCHITECTURES, HD_RECIPE, PUBLISHED_TOWER
from shirg.lavida.config import SO400M, LavidaConfig

_HD_VISION = {**HD_RECIPE, "mm_vision_tower": PUBLISHED_TOWER, "mm_hidden_size": SO400M["hidden_size"]}

PUBLISHED: dict[str, dict[str, Any]] = {
    "llada-8b": {
        "model_type": "llava_llada",
        "architectures": [ARCHITECTURES["llada"]],
        "d_model": 4096,
        "n_heads": 32,
        "n_kv_heads": 32,
        "n_layers": 32,
        "mlp_hidden_size": 12288,
        "activation_type": "silu",
        "block_type": "llama",
        "layer_norm_type": "rms",
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 500000.0,
        "include_bias": False,
        "include_qkv_bias": False,
        "weight_tying": False,
        "vocab_size": 126464,
        "embedding_size": 126464,
        "max_sequence_length": 4096,
        "mask_token_id": 126336,
        "eos_token_id": 126081,
        "pad_token_id": 126081,
        **_HD_VISION,
    },
    "dream-7b": {
        "model_type": "llava_dream",
        "architectures": [ARCHITECTURES["dream"]],
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "vocab_size": 152064,
        "mask_token_id": 151666,
        "eos_token_id": 151643,
        "pad_token_id": 151643,
        **_HD_VISION,
    },
}
"""Name -> raw config: LaViDa-LLaDA and LaViDa-Dream with LaViDa's HD recipe."""


def published_config(name: str) -> LavidaConfig:
    """The configuration of the published shape `name`, a key of `PUBLISHED`."""
    return LavidaConfig.from_dict(copy.deepcopy(PUBLISHED[name]))
