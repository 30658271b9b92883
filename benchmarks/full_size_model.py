"""The sizes of `full_size.py`, and a LaViDa with random weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shirg.lavida import Lavida, LavidaConfig
from shirg.lavida.config import SO400M
from shirg.lavida.costs import vision_shape
from shirg.lavida.shapes import PUBLISHED

DTYPE = torch.bfloat16
WORDS = (3, 250)
"""Random text is drawn from these ids, none of them special at either size."""


@dataclass(frozen=True)
class Size:
    """What is measured at one size."""

    raw: dict
    """The model's `config.json`."""
    budgets: tuple[int, ...]
    batches: tuple[int, ...]
    """Images in one call of the gate."""
    micro_batches: tuple[int, ...]
    warm_up: int
    runs: int
    text_tokens: int = 64
    answer_tokens: int = 32

    @property
    def config(self) -> LavidaConfig:
        return LavidaConfig.from_dict(self.raw)

    @property
    def grids(self) -> tuple[tuple[int, int, int], ...]:
        """(views, rows, columns) of the base view, the large view, and the base view with its tiles."""
        shapes = [vision_shape(self.config, mode, budget=1) for mode in ("lowres", "highres", "multiview")]
        return tuple((shape.views, *shape.grid) for shape in shapes)

    @property
    def main_budget(self) -> int:
        """The budget of what is measured at one budget only."""
        return self.budgets[len(self.budgets) // 2]


_TINY = {
    **PUBLISHED["llada-8b"],
    **{"d_model": 32, "n_heads": 2, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 64},
    **{"vocab_size": 260, "embedding_size": 260, "mask_token_id": 256, "eos_token_id": 257, "pad_token_id": 257},
    **{"mm_hidden_size": 16, "image_grid_pinpoints": [[112, 112]], "shirg": {"resolution": 84}},
    "vision_config": {
        **SO400M,
        **{
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 56,
        },
    },
}

SIZES = {
    # SigLIP-so400m and LLaDA-8B with LaViDa's tiles: 729, 2304 and 3645 tokens of 1152 channels
    "full": Size(PUBLISHED["llada-8b"], (512, 768, 1024), (1, 8), (1, 2, 4, 8), warm_up=3, runs=10),
    # The same architecture with 16, 36 and 80 tokens of 16 channels
    "tiny": Size(_TINY, (8, 12), (1, 2), (1, 2), warm_up=1, runs=2, text_tokens=8, answer_tokens=4),
}


@torch.no_grad()
def random_model(config: LavidaConfig, device: torch.device) -> Lavida:
    """A frozen LaViDa in eval mode; its weights are drawn on `device`, in `DTYPE`."""
    with torch.device("meta"):
        model = Lavida(config)
    model = model.to(DTYPE).to_empty(device=device)
    model.tower.restore_buffers(device)
    draws = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.02, generator=draws)
        else:
            parameter.fill_(float("norm" in name and name.endswith("weight")))
    return model.eval().requires_grad_(False)


def random_prompt(size: Size) -> Tensor:
    """Ids [1 + text_tokens] on the CPU: the image's placeholder, then words."""
    prompt = torch.randint(*WORDS, (1 + size.text_tokens,), generator=torch.Generator().manual_seed(2))
    prompt[0] = size.config.image_token_index
    return prompt


def tokens_of(grid: tuple[int, int, int]) -> int:
    """Tokens of all views."""
    return math.prod(grid)
