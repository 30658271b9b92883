"""What a model costs, from its configuration alone: parameters, bytes of the prefix cache, floating-point operations.

Parameters are those of the real modules, built on the "meta" device, where tensors have shapes and no memory. FLOPs are what
`torch.utils.flop_counter` counts while these modules run there: a product of [m, k] and [k, n] is 2 m k n, and attention is
its two products. Counted are the patch convolution, every linear layer and attention. Not counted: embedding look-ups, biases,
norms, activations, softmax, rotary positions, the interpolation of the tower's position table, pooling, and a LoRA's own
products, which add its share of the projector's weights (1% at LLaDA's size and rank 16).

Everything is for one image and a batch of one, with the settings of `config.vision`: if a run has other settings than its
checkpoint, the caller replaces them by the run's. FLOPs are not time: memory bandwidth bounds a denoising step with few rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from shirg.errors import UserError
from shirg.lavida import pooling, vision
from shirg.lavida.cache import PrefixCache
from shirg.lavida.config import BodyConfig, LavidaConfig
from shirg.lavida.model import Lavida
from shirg.lavida.relevance import NULL_WORDS
from shirg.lavida.settings import NO_FLOOR
from shirg.lavida.views import tile_grid

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
SQUARE = (1000, 1000)
"""(width, height) of a square image large enough to be cut into LaViDa's 2 x 2 tiles."""

PATH_ORDER = ("lowres", "hd", "shirg", "early", "highres", "multiview")
"""Order of rows: LaViDa's own paths, then SHIRG's."""

LORA_RANK = 16
ADAPTER_BYTES = 4
"""Bytes per parameter of an adapter, which is float32 for every precision of the base."""

DEPTH = 2
"""Layers of tower and body that are run to count FLOPs: all but the last cost as much as the first."""


@dataclass(frozen=True)
class Scenario:
    """The answer whose cost is computed."""

    image_size: tuple[int, int] = SQUARE
    """(width, height) of the image in pixels."""
    prompt_tokens: int = 64
    """Text tokens of the prompt around the image: system turn, question and marks of turns. An assumption."""
    answer_tokens: int = 32
    """Length of the answer block, all of it denoised together."""
    steps: int = 16
    """Denoising steps, at most one per answer token."""
    dtype: str = "bfloat16"
    """Precision of weights and cache, a key of `DTYPE_BYTES`."""


@dataclass(frozen=True)
class VisionShape:
    """The visual tokens of one image on a vision path."""

    mode: str
    budget: int | None
    views: int
    grid: tuple[int, int]
    """Rows and columns of each view's tokens as the tower gives them."""
    side: int
    """Pixels per side of each view."""
    tokens: int
    """Visual tokens in the prompt; newlines and summary token included."""
    layout: str
    """Their sum by view, such as "14x14 + 28x(28+1)"."""

    @property
    def encoded(self) -> int:
        """Patches of all views, which the tower encodes or, on an early path, embeds."""
        return self.views * self.grid[0] * self.grid[1]

    @property
    def early(self) -> bool:
        """Whether the tower encodes `tokens` of them alone."""
        return vision.PATHS[self.mode].early

    @property
    def name(self) -> str:
        """The path with its budget, "shirg-768", as in reports."""
        return self.mode if self.budget is None else f"{self.mode}-{self.budget}"


@dataclass(frozen=True)
class PathCost:
    """Cost of one answer by one vision path; all but the first two fields in FLOPs."""

    prefix_tokens: int
    """Visual tokens and the prompt's text."""
    kv_bytes: int
    """Size of the KV cache of the prefix, the only state kept between steps."""
    tower: int
    gate_projection: int
    """Relevance to the question: every encoded token through the base projector; see `relevance_flops`."""
    gate_arithmetic: int
    """The rest of the selection, roughly; see `gate_arithmetic_flops`."""
    projector: int
    prefill: int
    """Encoding the prefix once. (Dream takes its first token from the last position's logits, which are not counted.)"""
    step_cached: int
    """One denoising step after the cached prefix: the answer's rows only."""
    step_uncached: int
    """One denoising step that runs the prefix again."""
    total_cached: int
    """Image to answer: tower, gate, projector, prefill and all steps."""
    total_uncached: int
    """The same with every step running the prefix again, and no prefill."""


# ------------------------------------------------------------------ real modules, and the counter


def modules(config: LavidaConfig, depth: int | None = None) -> Lavida:
    """The model on the "meta" device, the same one for equal sizes; `depth`: with so many layers in tower and body.

    Raises:
        UserError: for sizes that no model can be built with.
    """
    body, tower = config.body, config.vision_config
    if depth is not None:  # of the tower's layers LaViDa removes the last
        body, tower = replace(body, num_layers=depth), {**tower, "num_hidden_layers": depth + 1}
    return _modules(body, json.dumps(tower, sort_keys=True), config.patch_merge_type)


@lru_cache(maxsize=16)
def _modules(body: BodyConfig, tower: str, merge_type: str) -> Lavida:
    config = LavidaConfig({}, body, json.loads(tower), 0, 0, 0, patch_merge_type=merge_type)
    try:
        with torch.device("meta"):
            return Lavida(config).eval()
    except (ValueError, ZeroDivisionError) as error:  # of transformers
        raise UserError(f"config: vision_config: {error}") from error


def flops(config: LavidaConfig, part: str, *sizes: int) -> int:
    """FLOPs of a forward pass of one part of the model.

    Args:
        part: with `sizes`, what it runs on.
            "tower": views, and pixels per side of each.
            "patches", the tower's patch embeddings alone: the same.
            "layers", all of the tower's, and "layer", one of them: views, and tokens of each.
            "projector": tokens.
            "head", which gives the logits: positions.
            "body", the language model's blocks: positions, the positions at the end whose hidden states are used (of the others
            the last block makes keys and values only), and the cached positions that they attend to beside each other.
    """
    return sum(flops_by_operation(config, part, *sizes).values())


def flops_by_operation(config: LavidaConfig, part: str, *sizes: int) -> dict[Any, int]:
    """`flops` by torch's operation; attention is `torch.ops.aten.bmm`."""
    return _flops(modules(config), part, sizes)


@lru_cache(maxsize=1024)
@torch.no_grad()
def _flops(model: Lavida, part: str, sizes: tuple[int, ...]) -> dict[Any, int]:
    body, tower = model.config.body, model.tower.config
    short = modules(model.config, DEPTH)
    calls: dict[str, Callable[..., object]] = {
        "tower": lambda views, side: short.tower(meta(views, tower.num_channels, side, side)),
        "patches": lambda views, side: short.tower.embed(meta(views, tower.num_channels, side, side)),
        "layers": lambda views, tokens: short.tower.encode(meta(views, tokens, tower.hidden_size)),
        "layer": lambda views, tokens: short.tower.vision_model.encoder.layers[0](
            meta(views, tokens, tower.hidden_size), None
        ),
        "projector": lambda tokens: short.mm_projector(meta(tokens, tower.hidden_size)),
        "head": lambda rows: short.language.logits(meta(rows, body.hidden_size)),
        "body": lambda rows, read, cached: short.language(
            meta(1, rows, body.hidden_size), cache=_prefix(body, cached), read_from=rows - read
        ),
    }
    # Attention in plain products: the fused operations of some devices are not known to the counter.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        calls[part](*sizes)
    found = counter.get_flop_counts()
    layers = tower.num_hidden_layers - DEPTH
    more = {"tower": layers, "layers": layers, "body": body.num_layers - DEPTH}.get(part, 0)
    layer: dict[Any, int] = next((counts for name, counts in found.items() if name.endswith("layers.0")), {})
    return {operation: count + more * layer.get(operation, 0) for operation, count in found["Global"].items()}


def meta(*shape: int) -> Tensor:
    """A tensor of this shape without memory."""
    return torch.empty(*shape, device="meta")


def _prefix(body: BodyConfig, length: int) -> PrefixCache:
    """A cache of `length` positions in `DEPTH` layers."""
    kept = [meta(1, body.num_kv_heads, length, body.head_dim)] * DEPTH
    return PrefixCache(kept, list(kept), frozen=True)


# ------------------------------------------------------------------ parameters and bytes


def parameters(config: LavidaConfig) -> dict[str, int]:
    """Numbers of the base model by part, the tower's unused final norm included."""
    counts = dict.fromkeys(("vision tower", "projector", "newline", "language"), 0)
    names = {"tower": "vision tower", "mm_projector": "projector", "image_newline": "newline", "language": "language"}
    for name, weight in modules(config).named_parameters():
        counts[names[name.partition(".")[0]]] += weight.numel()
    return counts


def block_weights(config: LavidaConfig) -> int:
    """Numbers in the matrices of one block of the language model."""
    block = modules(config, DEPTH).language.layers[0]
    return sum(weight.numel() for weight in block.parameters() if weight.ndim == 2)


def adapter_parameters(config: LavidaConfig, rank: int = LORA_RANK) -> int:
    """A LoRA of `rank` on both layers of the projector: rank * (inputs + outputs) each; 215,040 at LLaDA-8B's size."""
    weights = modules(config, DEPTH).mm_projector.parameters()
    return rank * sum(sum(weight.shape) for weight in weights if weight.ndim == 2)


def kv_bytes_per_token(config: LavidaConfig, dtype: str = "bfloat16") -> int:
    """Bytes of the prefix cache per position: 2 (keys and values) * layers * key-value heads * head width * bytes."""
    body = config.body
    return 2 * body.num_layers * body.num_kv_heads * body.head_dim * DTYPE_BYTES[dtype]


# ------------------------------------------------------------------ vision paths


def vision_shape(
    config: LavidaConfig,
    mode: str,
    *,
    budget: int | None = None,
    image_size: tuple[int, int] = SQUARE,
) -> VisionShape:
    """Views, grid and visual tokens of an image of `image_size` (width, height) in vision path `mode`.

    Args:
        budget: tokens to keep in modes that select (768 by default), ignored by the others.

    Raises:
        UserError: for an unknown mode, sizes that no model can have, a side that the patch size does not divide, or a budget
            below 1 or above the encoded tokens.
    """
    path, tower = vision.path_of(mode), modules(config, DEPTH).tower
    side = config.vision.resolution if path.views == "large" else tower.image_size
    tiles = tile_grid(image_size, config.pinpoints, tower.image_size) if path.views == "tiles" else (0, 0)
    views, grid = 1 + tiles[0] * tiles[1], tower.grid(side, side)
    tokens, layout = views * grid[0] * grid[1], f"{grid[0]}x{grid[1]}"
    if path.reduce == "select":
        budget = vision.DEFAULT_BUDGET if budget is None else budget
        vision.check_budget(budget, tokens)
        if path.early and budget == tokens:  # nothing is dropped
            return VisionShape(mode, budget, views, grid, side, budget, str(budget))
        return VisionShape(mode, budget, views, grid, side, budget + 1, f"{budget} + 1")
    if path.reduce != "all":
        merge_type = config.patch_merge_type if path.reduce == "pool" else "flat"
        tokens, layout = _pooled_layout(merge_type, config.pool_mode, grid, tiles, image_size)
    return VisionShape(mode, None, views, grid, side, tokens, layout)


def path_tokens(config: LavidaConfig, mode: str, **keywords: Any) -> int:
    """Visual tokens of an image in vision path `mode`; arguments as of `vision_shape`. "hd" gives a square image 980 tokens
    (5 views of 14 x 14), 1008 with "spatial_unpad", whose page ends its 28 rows with a newline."""
    return vision_shape(config, mode, **keywords).tokens


def _pooled_layout(
    merge_type: str, pool_mode: str, grid: tuple[int, int], tiles: tuple[int, int], image_size: tuple[int, int]
) -> tuple[int, str]:
    """Tokens of the pooled path and how they add up, found by running the real code on tokens of width 1."""
    views = torch.zeros(1 + tiles[0] * tiles[1], grid[0] * grid[1], 1)  # on "meta", interpolation takes 20 ms
    pooled, newline = pooling.pool_views(views, grid, pool_mode), torch.zeros(1) if "unpad" in merge_type else None
    tokens, side = (
        len(pooling.merge_views(pooled, merge_type, image_size, tiles, newline)),
        round(pooled.shape[1] ** 0.5),
    )
    if merge_type == "flat":
        return tokens, f"{len(views)} x {side}x{side}"
    page = torch.zeros(tiles[0] * side, tiles[1] * side)
    height, width = (page if newline is None else pooling.unpad(page, image_size)).shape
    return tokens, f"{side}x{side} + {height}x{width if newline is None else f'({width}+1)'}"


def tower_flops(config: LavidaConfig, shape: VisionShape) -> int:
    """Encoding an image on the path of `shape`: all patches, or on an early path the visual tokens alone."""
    if shape.early:
        return flops(config, "patches", shape.views, shape.side) + flops(config, "layers", 1, shape.tokens)
    return flops(config, "tower", shape.views, shape.side)


def relevance_flops(config: LavidaConfig, views: int, tokens: int) -> int:
    """Bringing `tokens` tokens of each view to where they can be compared with the question.

    By `config.vision.relevance`: "llm" sends all of them through the base projector, whatever the budget; "siglip" through
    the tower's removed layer and the pooling head's value, output and MLP. (The text tower it needs is in no LaViDa checkpoint
    and not counted.)
    """
    if config.vision.relevance == "none":
        return 0
    if config.vision.relevance == "llm":
        return flops(config, "projector", views * tokens)
    width, inner = config.vision_hidden_size, modules(config).tower.config.intermediate_size
    return flops(config, "layer", views, tokens) + views * 4 * tokens * width * (width + inner)


def gate_arithmetic_flops(config: LavidaConfig, tokens: int, pixels: int, question_tokens: int) -> int:
    """The selection from `tokens` (N) without `relevance_flops`, roughly: 8 N D + 12 pixels + (2 L + 6) N W.

    8 per channel of a token: moments 3, sums and energies of the quadtree 4, summary 1. 12 per pixel: luminance, two squared
    differences, a root and the mean. Cosines to L vectors of the question in a space of width W, with centre and lengths: for
    "llm" L = `question_tokens`, without a floor also the words that measure chance, and W = H; for "siglip" L = 1, W = D.
    """
    width = config.vision_hidden_size
    words = question_tokens + (NULL_WORDS if config.vision.relevance_floor == NO_FLOOR else 0)
    cosines = {"llm": (2 * words + 6) * tokens * config.hidden_size, "siglip": 8 * tokens * width, "none": 0}
    return 8 * tokens * width + 12 * pixels + cosines[config.vision.relevance]


def path_cost(config: LavidaConfig, shape: VisionShape, scenario: Scenario) -> PathCost:
    """Cost of one answer by the path of `shape`. The whole prompt is taken for the question that the gate compares
    with, which is a little more than it is."""
    prefix, answer = shape.tokens + scenario.prompt_tokens, scenario.answer_tokens
    tower = tower_flops(config, shape)
    relevance = rest = 0
    if shape.mode in vision.SELECTING:
        pixels = shape.views * shape.side**2
        asked = replace(config, vision=replace(config.vision, relevance="none")) if shape.early else config
        relevance = relevance_flops(asked, shape.views, shape.grid[0] * shape.grid[1])
        rest = gate_arithmetic_flops(asked, shape.encoded, pixels, scenario.prompt_tokens)
    # Tokens that are pooled enter the projector as they left the tower.
    projector = flops(config, "projector", shape.encoded if shape.budget is None else shape.tokens)
    prefill, head = flops(config, "body", prefix, 1, 0), flops(config, "head", answer)
    cached = flops(config, "body", answer, answer, prefix) + head
    uncached = flops(config, "body", prefix + answer, answer + 1, 0) + head
    vision_part = tower + relevance + rest + projector
    return PathCost(
        prefix_tokens=prefix,
        kv_bytes=prefix * kv_bytes_per_token(config, scenario.dtype),
        tower=tower,
        gate_projection=relevance,
        gate_arithmetic=rest,
        projector=projector,
        prefill=prefill,
        step_cached=cached,
        step_uncached=uncached,
        total_cached=vision_part + prefill + scenario.steps * cached,
        total_uncached=vision_part + scenario.steps * uncached,
    )


# ------------------------------------------------------------------ savings, and the whole


def savings(config: LavidaConfig, budgets: Sequence[int], scenario: Scenario) -> list[dict[str, Any]]:
    """Shares of the prefix cache that each budget saves: `visual` of the image's part, `prefix` of the whole; negative where
    the selection is larger. `against`: LaViDa's pooled path as the config has it; the same without newlines and un-padding
    where that differs, "hd flat"; and all tokens of the large view."""
    modes = {"hd": "hd", "hd flat": "hd-flat", "highres": "highres"}
    against = {name: path_tokens(config, mode, image_size=scenario.image_size) for name, mode in modes.items()}
    if against["hd"] == against["hd flat"]:
        del against["hd flat"]
    return [
        {
            "budget": budget,
            "against": name,
            "tokens": budget + 1,
            "reference_tokens": count,
            "visual": 1 - (budget + 1) / count,
            "prefix": 1 - (budget + 1 + scenario.prompt_tokens) / (count + scenario.prompt_tokens),
        }
        for budget in budgets
        for name, count in against.items()
    ]


def largest_budget(reference: int, percent: int, prompt_tokens: int = 0) -> int:
    """Largest budget K whose K + 1 tokens (and the prompt's) cache at least `percent` % less than `reference` tokens
    (and the prompt's); 0 if there is none."""
    return max((100 - percent) * (reference + prompt_tokens) // 100 - prompt_tokens - 1, 0)


def describe(config: LavidaConfig, budgets: Sequence[int], scenario: Scenario) -> dict[str, Any]:
    """All of the above in JSON values: parameters, bytes, a row per vision path and budget, savings of the cache.

    Raises:
        UserError: for sizes that no model can have, or a budget above the tokens of the image.
    """
    counts = parameters(config)
    base, adapter = sum(counts.values()), adapter_parameters(config)
    shapes = [
        vision_shape(config, mode, budget=budget, image_size=scenario.image_size)
        for mode in PATH_ORDER
        for budget in (budgets if mode in vision.SELECTING else [None])
    ]
    everything = {**counts, "total": base}
    return {
        "family": config.family,
        "scenario": asdict(scenario),
        "parameters": everything,
        "weight_bytes": {part: count * DTYPE_BYTES[scenario.dtype] for part, count in everything.items()},
        "adapter": {
            "rank": LORA_RANK,
            "parameters": adapter,
            "share": adapter / (base + adapter),
            "bytes": adapter * ADAPTER_BYTES,
        },
        "kv_bytes_per_token": kv_bytes_per_token(config, scenario.dtype),
        "paths": [
            {"path": shape.name, **asdict(shape), **asdict(path_cost(config, shape, scenario))} for shape in shapes
        ],
        "savings": savings(config, budgets, scenario),
    }
