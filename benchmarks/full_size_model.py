"""What `full_size.py` measures on: sizes, and a LaViDa with random weights made where it is to run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shirg.lavida import Lavida, LavidaConfig, VisionFeatures
from shirg.lavida.config import SO400M
from shirg.lavida.costs import SQUARE, vision_shape
from shirg.lavida.shapes import PUBLISHED
from shirg.lavida.vision import path_of

WEIGHT_STD = 0.02
FIRST_WORD, LAST_WORD = 3, 250
"""Random text is drawn from these ids: no special token of either size is among them."""


@dataclass(frozen=True)
class Runs:
    """How often a kind of call is timed."""

    warm_up: int
    gate: int
    stage: int
    answer: int
    train: int


@dataclass(frozen=True)
class Size:
    """One size of everything that is measured."""

    raw: dict
    """The model's `config.json`."""
    budgets: tuple[int, ...]
    batches: tuple[int, ...]
    """Images in one call of the gate."""
    dtypes: tuple[str, ...]
    """Of the gate's tokens; the first is that of everything else."""
    micro_batches: tuple[int, ...]
    runs: Runs
    text_tokens: int = 64
    answer_tokens: int = 32
    steps: int = 16

    @property
    def config(self) -> LavidaConfig:
        return LavidaConfig.from_dict(self.raw)

    @property
    def flat_config(self) -> LavidaConfig:
        """With the pooled path as five views of 14 x 14, without newlines: 980 tokens at full size."""
        return replace(self.config, patch_merge_type="flat")

    @property
    def grids(self) -> tuple[tuple[int, int, int], ...]:
        """(views, rows, columns) of one small view, the large view, and the small view with its tiles."""
        shapes = [vision_shape(self.config, mode, budget=1) for mode in ("lowres", "highres", "multiview")]
        return tuple((shape.views, *shape.grid) for shape in shapes)

    @property
    def main_budget(self) -> int:
        """The budget at which everything is measured that is not measured at all of them."""
        return self.budgets[len(self.budgets) // 2]


_TINY = {
    **PUBLISHED["llada-8b"],
    "d_model": 32,
    "n_heads": 2,
    "n_kv_heads": 2,
    "n_layers": 2,
    "mlp_hidden_size": 64,
    "vocab_size": 260,
    "embedding_size": 260,
    "mask_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
    "mm_hidden_size": 16,
    "image_grid_pinpoints": [[112, 112]],
    "vision_config": {
        **SO400M,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 56,
    },
    "shirg": {"resolution": 84},
}

SIZES = {
    # SigLIP-so400m and LLaDA-8B with LaViDa's tiles: 729, 2304 and 3645 tokens of 1152 channels
    "full": Size(
        raw=PUBLISHED["llada-8b"],
        budgets=(512, 768, 1024),
        batches=(1, 8),
        dtypes=("bfloat16", "float16"),
        micro_batches=(1, 2, 4, 8),
        runs=Runs(warm_up=3, gate=20, stage=10, answer=5, train=5),
    ),
    # The same anatomy with 16, 36 and 80 tokens of 16 channels, for a CPU and for a first try on a GPU
    "tiny": Size(
        raw=_TINY,
        budgets=(8, 12),
        batches=(1, 2),
        dtypes=("bfloat16",),
        micro_batches=(1, 2),
        runs=Runs(warm_up=1, gate=2, stage=2, answer=1, train=2),
        text_tokens=8,
        answer_tokens=4,
        steps=2,
    ),
}


@torch.no_grad()
def random_model(config: LavidaConfig, device: torch.device, dtype: torch.dtype) -> Lavida:
    """A frozen LaViDa in eval mode whose weights are drawn on `device` in `dtype`, and are nowhere else before."""
    with torch.device("meta"):
        model = Lavida(config)
    model = model.to(dtype).to_empty(device=device)
    model.tower.restore_buffers(device)
    draws = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=WEIGHT_STD, generator=draws)
        else:
            parameter.fill_(float("norm" in name and name.endswith("weight")))
    return model.eval().requires_grad_(False)


def random_views(config: LavidaConfig, mode: str, device: torch.device) -> Tensor:
    """An image of noise, cut for `mode`: [V, side, side, 3] uint8 on `device`."""
    shape = vision_shape(config, mode, budget=1)
    draws = torch.Generator(device).manual_seed(1)
    size = (shape.views, shape.side, shape.side, 3)
    return torch.randint(0, 256, size, dtype=torch.uint8, device=device, generator=draws)


@torch.no_grad()
def look(model: Lavida, views: Tensor, mode: str) -> VisionFeatures:
    """What the tower makes of a large square image cut into `views`."""
    return model.encode_views(views, SQUARE, path_of(mode).views)


def random_prompt(config: LavidaConfig, text_tokens: int) -> Tensor:
    """Ids [1 + text_tokens] on the CPU, as a tokenizer gives them: the image's placeholder, then words."""
    prompt = torch.randint(FIRST_WORD, LAST_WORD, (text_tokens + 1,), generator=torch.Generator().manual_seed(2))
    prompt[0] = config.image_token_index
    return prompt


def tokens_of(grid: tuple[int, int, int]) -> int:
    """Tokens of all views."""
    return math.prod(grid)
