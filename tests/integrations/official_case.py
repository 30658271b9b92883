"""Writes what `test_official.py` compares with: python -m tests.integrations.official_case FOLDER

A tiny checkpoint in the official layout, an adapter, a page, and the embeddings that `Lavida` makes of it, with and without the
adapter. It is written beside our own transformers and read beside the official code's.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from shirg.gate import GateConfig
from shirg.lavida import Lavida
from shirg.lavida.adapter import attach_lora, lora_parameters
from tests.tiny import tiny_model, tiny_page

BUDGET = 40


@torch.no_grad()
def write_case(folder: Path) -> None:
    """Other settings than the defaults throughout, so that each of them has to come through."""
    model = tiny_model(
        shirg={"relevance_sign": -1, "relevance_floor": 0.05, "resolution": 448},
        mm_vision_tower="siglip-tiny",
        n_kv_heads=4,
        block_type="llama",
        activation_type="silu",
        layer_norm_type="rms",
        rope=True,
        weight_tying=False,
        include_bias=False,
        max_sequence_length=2048,
    )
    gate = dataclasses.replace(GateConfig.preset("ocr"), alpha=0.5)
    model.vision = dataclasses.replace(model.vision, gate=gate, fit="pad")
    model.save_pretrained(folder / "model")
    page, asked = tiny_page(), model.prompt_ids("How much is the total?")
    page.save(folder / "page.png")
    early = model.image_embeds(model.image_features(page, "early"), "early", BUDGET).contiguous()
    expected = {"asked": asked, "without": _embeds(model, page, asked), "early": early}
    adapted = copy.deepcopy(model)
    attach_lora(adapted)
    for parameter in lora_parameters(adapted).values():
        nn.init.normal_(parameter, std=0.2)
    adapted.save_adapter(folder / "adapter", settings={})
    expected["with"] = _embeds(adapted, page, asked)
    save_file(expected, folder / "expected.safetensors")
    tokenizer = model.tokenizer
    words = {
        "texts": [tokenizer.decode([number]) for number in range(len(tokenizer))],
        "specials": [number for number, token in tokenizer.added_tokens_decoder.items() if token.special],
    }
    (folder / "words.json").write_text(json.dumps(words), encoding="utf-8")


def _embeds(model: Lavida, page, asked: torch.Tensor) -> torch.Tensor:
    features = model.image_features(page, "shirg")
    return model.image_embeds(features, "shirg", BUDGET, model.question_ids(asked)).contiguous()


if __name__ == "__main__":
    write_case(Path(sys.argv[1]))
