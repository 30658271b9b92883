"""The nano's anatomy: LaViDa's, with fewer channels and layers."""

from __future__ import annotations

from typing import Any

VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 6,  # official configs count the last layer, which LaViDa removes
    "num_attention_heads": 6,
    "num_channels": 3,
    "image_size": 384,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
    "vision_use_head": False,
}
POSITIONS = 27  # 384 // 14 patches a side: the table of learned positions

LANGUAGE: dict[str, Any] = {
    "d_model": 192,
    "n_heads": 6,
    "n_kv_heads": 6,
    "n_layers": 5,
    "mlp_hidden_size": 512,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "max_sequence_length": 4096,
}
