"""What a model costs, from its configuration alone: parameters, bytes of the prefix cache, floating-point operations.

How operations are counted: a product of [m, k] and [k, n] is 2 m k n FLOPs, and so attention of `q` queries to `k` keys
of `d` channels (all heads together) is 2 * 2 q k d, one half for the scores and one for the values. Counted are the
patch convolution, every linear layer and attention. Not counted: embedding look-ups, biases, norms, activations,
softmax, rotary positions, the interpolation of the tower's position table, pooling, and a LoRA's own products, which
add its share of the projector's weights (1% at LLaDA's size and rank 16). `torch.utils.flop_counter` counts alike.

Everything is for one image and a batch of one. FLOPs are no times: a denoising step with few rows waits for memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import SiglipVisionConfig

from shirg.errors import UserError
from shirg.images import MAX_PIXELS
from shirg.lavida import pooling, vision
from shirg.lavida.config import LavidaConfig
from shirg.lavida.images import tile_grid
from shirg.lavida.relevance import NULL_WORDS
from shirg.lavida.settings import NO_FLOOR
from shirg.lavida.tower import sides

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
SQUARE = (1000, 1000)
"""(width, height) of a square image large enough to be cut into LaViDa's 2 x 2 tiles."""

PATH_ORDER = ("lowres", "hd", "shirg", "highres", "multiview")
"""Of rows: LaViDa's own paths, then ours."""

LORA_RANK = 16
ADAPTER_BYTES = 4
"""Of one number of an adapter, which is kept in float32 whatever the base is."""


@dataclass(frozen=True)
class Scenario:
    """The answer whose cost is computed.

    Raises:
        UserError: naming the field that makes no sense.
    """

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

    def __post_init__(self) -> None:
        width, height = self.image_size
        if min(width, height) < 1 or width * height > MAX_PIXELS:
            raise UserError(f"image_size: {width}x{height} must have between 1 and {MAX_PIXELS:,} pixels")
        for name in ("prompt_tokens", "answer_tokens", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: got {getattr(self, name)}, must be 1 or more")
        if self.steps > self.answer_tokens:
            raise UserError(
                f"steps: got {self.steps} for {self.answer_tokens} answer tokens; every step fills in at least one, "
                f"so at most {self.answer_tokens}"
            )
        if self.dtype not in DTYPE_BYTES:
            raise UserError(f"dtype: {self.dtype!r} is unknown; choose from {', '.join(DTYPE_BYTES)}")


@dataclass(frozen=True)
class VisionShape:
    """What a vision path makes of one image."""

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
    """How they add up, as "14x14 + 28x(28+1)"."""

    @property
    def encoded(self) -> int:
        """Tokens that leave the tower, of all views."""
        return self.views * self.grid[0] * self.grid[1]

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
    """Of the prefix cache, which is all that stays between steps."""
    tower: int
    gate_projection: int
    """Relevance to the question: every encoded token through the base projector; see `relevance_flops`."""
    gate_arithmetic: int
    """The rest of the selection, roughly; see `gate_arithmetic_flops`."""
    projector: int
    prefill: int
    step_cached: int
    """One denoising step behind the cached prefix: the answer's rows only."""
    step_uncached: int
    """One denoising step that runs the prefix again."""
    total_cached: int
    """Image to answer: tower, gate, projector, prefill and all steps."""
    total_uncached: int
    """The same with every step running the prefix again, and no prefill."""


# ------------------------------------------------------------------ shapes


def tower_sizes(config: LavidaConfig) -> SiglipVisionConfig:
    """Sizes of the tower as built: what the file leaves out filled in, the layer that LaViDa removes taken off."""
    sizes = SiglipVisionConfig(**config.vision_config)
    sizes.num_hidden_layers -= 1
    return sizes


def check_sizes(config: LavidaConfig) -> None:
    """Raise UserError for sizes of the tower that no model can be built with."""
    tower = tower_sizes(config)
    for what, whole, part in (
        ("the tower's width and heads", tower.hidden_size, tower.num_attention_heads),
        ("shirg.resolution and the tower's patch size", config.vision.resolution, sides(tower)[1]),
    ):
        if whole < 1 or part < 1 or whole % part:
            raise UserError(f"config: {what} are {whole} and {part}; the second must divide the first")
    if tower.num_hidden_layers < 1:
        raise UserError(
            "config: vision_config.num_hidden_layers counts the layer that LaViDa removes, so it must be at least 2; "
            f"got {tower.num_hidden_layers + 1}"
        )


def vision_shape(
    config: LavidaConfig, mode: str, *, budget: int | None = None, image_size: tuple[int, int] = SQUARE
) -> VisionShape:
    """Views, grid and visual tokens of an image of `image_size` (width, height) in vision path `mode`.

    Args:
        budget: tokens to keep in modes "shirg" and "multiview" (768 by default), ignored by the others.

    Raises:
        UserError: for an unknown mode, or a budget below 1 or above the encoded tokens.
    """
    views_of = vision.path_of(mode).views
    tile, patch = sides(tower_sizes(config))
    tiles = views_of == "tiles"
    side = config.vision.resolution if views_of == "large" else tile
    rows, columns = tile_grid(image_size, config.pinpoints, tile) if tiles else (0, 0)
    views, grid = 1 + rows * columns, (side // patch,) * 2
    if mode == "hd":
        tokens, layout = _pooled_layout(config, grid, (rows, columns), image_size)
        return VisionShape(mode, None, views, grid, side, tokens, layout)
    if mode not in vision.SELECTING:
        return VisionShape(mode, None, views, grid, side, grid[0] * grid[1], f"{grid[0]}x{grid[1]}")
    budget = vision.DEFAULT_BUDGET if budget is None else budget
    vision.check_budget(budget, views * grid[0] * grid[1])
    return VisionShape(mode, budget, views, grid, side, budget + 1, f"{budget} + 1")


def path_tokens(
    config: LavidaConfig, mode: str, *, budget: int | None = None, image_size: tuple[int, int] = SQUARE
) -> int:
    """Visual tokens of an image in vision path `mode`; see `vision_shape`. "hd" gives a square image 980 tokens (5
    views of 14 x 14), 1008 with "spatial_unpad", whose page ends its 28 rows with a newline."""
    return vision_shape(config, mode, budget=budget, image_size=image_size).tokens


def _pooled_layout(
    config: LavidaConfig, grid: tuple[int, int], tiles: tuple[int, int], image_size: tuple[int, int]
) -> tuple[int, str]:
    """Tokens of the pooled path and how they add up, found by sending tokens of one number each through the real code."""
    views = torch.zeros(1 + tiles[0] * tiles[1], grid[0] * grid[1], 1)  # on "meta", interpolation takes 20 ms
    pooled = pooling.pool_views(views, grid, config.pool_mode)
    newline = torch.zeros(1) if config.has_newline else None
    tokens = len(pooling.merge_views(pooled, config.patch_merge_type, image_size, tiles, newline))
    side = round(pooled.shape[1] ** 0.5)
    view = f"{side}x{side}"
    if config.patch_merge_type == "flat":
        return tokens, f"{len(views)} x {view}"
    page = torch.zeros(tiles[0] * side, tiles[1] * side)
    if newline is None:
        return tokens, f"{view} + {page.shape[0]}x{page.shape[1]}"
    height, width = pooling.unpad(page, image_size).shape
    return tokens, f"{view} + {height}x({width}+1)"


# ------------------------------------------------------------------ parameters and bytes


def parameters(config: LavidaConfig) -> dict[str, int]:
    """Numbers of the base model by part; they agree with the modules, unused final norm of the tower included."""
    return {
        "vision tower": tower_parameters(config),
        "projector": projector_parameters(config),
        "newline": config.hidden_size if config.has_newline else 0,
        "language": language_parameters(config),
    }


def tower_parameters(config: LavidaConfig) -> int:
    """Patch convolution, position table, layers and final norm, without the removed layer and the pooling head."""
    tower = tower_sizes(config)
    width, inner = tower.hidden_size, tower.intermediate_size
    image, side = sides(tower)
    places = (image // side) ** 2
    patch = tower.num_channels * side**2 * width + width
    attention, mlp, norms = 4 * (width**2 + width), 2 * width * inner + inner + width, 4 * width
    return patch + places * width + tower.num_hidden_layers * (attention + mlp + norms) + 2 * width


def projector_parameters(config: LavidaConfig) -> int:
    """Two linear layers with biases."""
    return _projector_weights(config) + 2 * config.hidden_size


def language_parameters(config: LavidaConfig) -> int:
    """Embeddings, blocks, final norm and head; Dream's blocks have biases on queries, keys and values."""
    body = config.body
    biases = body.hidden_size + 2 * _kv_width(config) if body.family == "dream" else 0
    block = block_weights(config) + biases + 2 * body.hidden_size
    return 2 * body.vocab_size * body.hidden_size + body.num_layers * block + body.hidden_size


def adapter_parameters(config: LavidaConfig, rank: int = LORA_RANK) -> int:
    """A LoRA of `rank` on both layers of the projector: rank * (inputs + outputs) each; 215,040 at LLaDA-8B's size."""
    width = config.hidden_size
    return rank * (config.vision_hidden_size + width + width + width)


def kv_bytes_per_token(config: LavidaConfig, dtype: str = "bfloat16") -> int:
    """Bytes of the prefix cache per position: 2 (keys and values) * layers * key-value heads * head width * bytes."""
    return 2 * config.body.num_layers * _kv_width(config) * DTYPE_BYTES[dtype]


def _kv_width(config: LavidaConfig) -> int:
    return config.body.num_kv_heads * config.body.head_dim


def _projector_weights(config: LavidaConfig) -> int:
    return config.vision_hidden_size * config.hidden_size + config.hidden_size**2


def block_weights(config: LavidaConfig) -> int:
    """Matrices of one block: q and o [H, H], k and v [H, kv], three of the MLP [H, inner]."""
    width = config.hidden_size
    return 2 * width**2 + 2 * width * _kv_width(config) + 3 * width * config.body.intermediate_size


# ------------------------------------------------------------------ operations


def tower_flops(config: LavidaConfig, views: int, tokens: int) -> int:
    """The tower on `views` views of `tokens` tokens each (N), which see nothing of one another.

    Per view 2 N C p^2 D for the patches, and per layer 2 N (4 D^2 + 2 D I) for its matrices and 4 N^2 D for attention.
    """
    tower = tower_sizes(config)
    patch = tower.num_channels * sides(tower)[1] ** 2 * tower.hidden_size
    return views * (2 * tokens * patch + tower.num_hidden_layers * _tower_layer_flops(tower, tokens))


def _tower_layer_flops(tower: SiglipVisionConfig, tokens: int) -> int:
    width = tower.hidden_size
    matrices = 4 * width**2 + 2 * width * tower.intermediate_size
    return 2 * tokens * matrices + 4 * tokens**2 * width


def projector_flops(config: LavidaConfig, tokens: int) -> int:
    """Both layers of the projector on `tokens` tokens: 2 n (D H + H^2)."""
    return 2 * tokens * _projector_weights(config)


def relevance_flops(config: LavidaConfig, views: int, tokens: int) -> int:
    """Bringing `tokens` (N) tokens of each view to where they can be compared with the question.

    By the config's `relevance`: "llm" sends all of them through the base projector, whatever the budget; "siglip" through
    the tower's removed layer and, N (4 D^2 + 4 D I) more per view, the pooling head's value, output and MLP. (The text
    tower it needs is in no LaViDa checkpoint and not counted.)
    """
    if config.vision.relevance == "llm":
        return projector_flops(config, views * tokens)
    if config.vision.relevance == "none":
        return 0
    tower = tower_sizes(config)
    head = 4 * tokens * tower.hidden_size * (tower.hidden_size + tower.intermediate_size)
    return views * (_tower_layer_flops(tower, tokens) + head)


def gate_arithmetic_flops(config: LavidaConfig, tokens: int, pixels: int, question_tokens: int) -> int:
    """The selection from `tokens` (N) without `relevance_flops`, roughly: 8 N D + 12 pixels + (2 L + 6) N W.

    8 per channel of a token: moments 3, sums and energies of the quadtree 4, summary 1. 12 per pixel: luminance, two
    squared differences, a root and the mean. The last part, with a relevance, is the cosines to L vectors of the
    question in a space of width W, with centre and lengths: L = `question_tokens` words and W = H for "llm", and without a
    floor the words that tell what is chance; L = 1 and W = D for "siglip". Sorting is not counted.
    """
    width = config.vision_hidden_size
    words = question_tokens + (NULL_WORDS if config.vision.relevance_floor == NO_FLOOR else 0)
    cosines = {
        "llm": (2 * words + 6) * tokens * config.hidden_size,
        "siglip": 8 * tokens * width,
        "none": 0,
    }
    return 8 * tokens * width + 12 * pixels + cosines[config.vision.relevance]


def body_flops(config: LavidaConfig, rows: int, keys: int, *, read: int | None = None) -> int:
    """The language model's blocks on `rows` positions that each attend to `keys` positions, their own included.

    Per block 2 rows (2 H^2 + 2 H kv + 3 H I) and 4 rows keys H: with grouped queries every query head still meets
    every key.

    Args:
        read: positions whose hidden states are used; of the others the last block makes keys and values only,
            2 rows 2 H kv. None: all of them.
    """

    def block(count: int) -> int:
        return 2 * count * block_weights(config) + 4 * count * keys * config.hidden_size

    unread = 0 if read is None else rows - read
    keys_and_values = 2 * unread * 2 * config.hidden_size * _kv_width(config)
    return (config.body.num_layers - 1) * block(rows) + block(rows - unread) + keys_and_values


def head_flops(config: LavidaConfig, rows: int) -> int:
    """Logits of `rows` positions: 2 rows H V."""
    return 2 * rows * config.hidden_size * config.body.vocab_size


def prefill_flops(config: LavidaConfig, prefix: int) -> int:
    """Encoding the prefix once; of its last position alone the hidden state is made. (Dream takes its first token from that
    position's logits, which are not counted.)"""
    return body_flops(config, prefix, prefix, read=1)


def step_flops(config: LavidaConfig, prefix: int, answer: int, *, cached: bool) -> int:
    """One denoising step: the answer's rows behind a cached prefix, or prefix and answer together; logits of the answer
    only."""
    rows = answer if cached else prefix + answer
    read = answer if cached else answer + 1
    return body_flops(config, rows, prefix + answer, read=read) + head_flops(config, answer)


def path_cost(config: LavidaConfig, shape: VisionShape, scenario: Scenario) -> PathCost:
    """Cost of one answer by the path of `shape`. The whole prompt is taken for the question that the gate compares
    with, which is a little more than it is."""
    prefix, answer = shape.tokens + scenario.prompt_tokens, scenario.answer_tokens
    selects = shape.mode in vision.SELECTING
    pixels, per_view = shape.views * shape.side**2, shape.grid[0] * shape.grid[1]
    tower = tower_flops(config, shape.views, per_view)
    relevance = relevance_flops(config, shape.views, per_view) if selects else 0
    rest = gate_arithmetic_flops(config, shape.encoded, pixels, scenario.prompt_tokens) if selects else 0
    projector = projector_flops(config, shape.tokens if selects else shape.encoded)  # pooling comes after it
    prefill = prefill_flops(config, prefix)
    cached, uncached = (step_flops(config, prefix, answer, cached=flag) for flag in (True, False))
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


# ------------------------------------------------------------------ savings


def references(config: LavidaConfig, image_size: tuple[int, int] = SQUARE) -> dict[str, int]:
    """Visual tokens of what a selection is compared with: LaViDa's pooled path as the config has it, the same without
    newlines and un-padding where that differs ("hd flat"), and all tokens of the large view."""
    flat = path_tokens(replace(config, patch_merge_type="flat"), "hd", image_size=image_size)
    counts = {"hd": path_tokens(config, "hd", image_size=image_size), "hd flat": flat}
    if counts["hd"] == flat:
        del counts["hd flat"]
    return {**counts, "highres": path_tokens(config, "highres")}


def savings(config: LavidaConfig, budgets: Sequence[int], scenario: Scenario) -> list[dict[str, Any]]:
    """Shares of the prefix cache that each budget saves against each reference: `visual` of the image's part, `prefix`
    of the whole; negative where the selection is larger."""
    text = scenario.prompt_tokens
    return [
        {
            "budget": budget,
            "against": name,
            "tokens": budget + 1,
            "reference_tokens": count,
            "visual": 1 - (budget + 1) / count,
            "prefix": 1 - (budget + 1 + text) / (count + text),
        }
        for budget in budgets
        for name, count in references(config, scenario.image_size).items()
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
    check_sizes(config)
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
