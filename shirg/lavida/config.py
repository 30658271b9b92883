"""The configuration of a LaViDa checkpoint (`config.json`), with the same names for both families."""

from __future__ import annotations

import ast
import json
import logging
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shirg.errors import ItemError, UserError
from shirg.lavida.settings import FIELDS, VisionSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

IMAGE_TOKEN_INDEX = -200  # LaViDa llava/constants.py:8
IGNORE_INDEX = -100  # LaViDa llava/constants.py:7

SO400M: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
"""siglip-so400m-patch14-384, the tower of every released LaViDa (LaViDa siglip_encoder.py:73-100)."""

SPECIAL_IDS = {
    "llada": {"mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081},
    "dream": {"mask_token_id": 151666, "eos_token_id": 151643, "pad_token_id": 151643},
}
"""Ids of the published tokenizers, used with a warning if neither config nor tokenizer has them (LaViDa
llava_llada.py:125-126, llava_dream.py:193-194)."""

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = {
    "llada": {"mask_token_id": "<|mdm_mask|>", "eos_token_id": END_OF_TEXT, "pad_token_id": END_OF_TEXT},
    "dream": {"mask_token_id": "<|mask|>", "eos_token_id": END_OF_TEXT, "pad_token_id": END_OF_TEXT},
}
"""Names of these tokens in the published tokenizers. LaViDa pads with the end of text."""

FIM_TOKEN = "<|reserved_token_1|>"
"""LLaDA's control token of infilling (LaViDa llava_llada.py:127, infill_utils.py:4-5); Dream has none."""

GRID_PINPOINTS = ((384, 768), (768, 384), (768, 768), (1152, 384), (384, 1152))
"""Default (width, height) of the canvases of tiles (LaViDa train.py:2039-2046)."""

LLADA_REQUIRED = {
    "block_type": ("llama",),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "rope": (True,),
    "alibi": (False,),
    "include_bias": (False,),
    "include_qkv_bias": (False, None),
    "attention_layer_norm": (False,),
    "input_emb_norm": (False,),
    "scale_logits": (False,),
    "weight_tying": (False,),
}
DREAM_REQUIRED = {"hidden_act": ("silu",), "rope_scaling": (None,), "tie_word_embeddings": (False,)}
ANSWER_TOKENS = 32
"""Default length of an answer; LaViDa's README measures 32 tokens in 16 steps."""

LARGEST_SIZE = 2**31
VISION_SIZES = {
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("image_size", "patch_size", "num_channels"),
}
MERGE_TYPES = ("flat", "spatial", "spatial_unpad")
POOL_MODES = ("bilinear", "average", "max")
OWN_KEYS = (*FIELDS, "answer_tokens", "nano")
"""Our keys, under "shirg" in the file; see `LavidaConfig`."""


@dataclass(frozen=True)
class BodyConfig:
    """Sizes of a language model, with the same names for both families."""

    family: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    rope_theta: float
    rms_norm_eps: float

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass
class LavidaConfig:
    """A checkpoint's configuration. `from_dict` reads the contents of a file, which `raw` keeps; `to_dict` writes them.

    Our keys are in the file under "shirg": the fields of `VisionSettings`, `answer_tokens` (default length of the answer block)
    and `nano` (whether it is the embedded model).
    """

    raw: dict[str, Any]
    body: BodyConfig
    vision_config: dict[str, Any]
    mask_token_id: int
    eos_token_id: int
    pad_token_id: int
    fim_token_id: int | None = None
    image_token_index: int = IMAGE_TOKEN_INDEX
    patch_merge_type: str = "flat"
    pool_mode: str = "bilinear"
    pinpoints: tuple[tuple[int, int], ...] = GRID_PINPOINTS
    vision: VisionSettings = VisionSettings()
    answer_tokens: int = ANSWER_TOKENS
    vision_hidden_size: int = field(init=False)

    def __post_init__(self) -> None:
        self.vision_hidden_size = self.vision_config["hidden_size"]
        if self.body.hidden_size % self.body.num_heads or self.body.num_heads % self.body.num_kv_heads:
            raise UserError(
                f"config: width {self.body.hidden_size}, {self.body.num_heads} heads and {self.body.num_kv_heads} key-value "
                "heads do not divide each other"
            )
        for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            if not isinstance(value, int):
                raise UserError(f"config: {name}={value!r} must be one id of the vocabulary")
            if not 0 <= value < self.body.vocab_size:
                raise UserError(f"config: {name}={value} is outside the vocabulary of {self.body.vocab_size} entries")
        if self.raw.get("mm_hidden_size", self.vision_hidden_size) != self.vision_hidden_size:
            raise UserError(
                f"config: mm_hidden_size={self.raw['mm_hidden_size']} does not match the tower's width "
                f"{self.vision_hidden_size}"
            )
        _expect("mm_patch_merge_type", self.patch_merge_type, MERGE_TYPES)
        _expect("mm_spatial_pool_mode", self.pool_mode, POOL_MODES)
        if type(self.answer_tokens) is not int or not 0 < self.answer_tokens < LARGEST_SIZE:
            raise UserError(f"config: shirg.answer_tokens={self.answer_tokens!r} must be a whole number above 0")

    @property
    def family(self) -> str:
        """Either "llada" or "dream"."""
        return self.body.family

    @property
    def hidden_size(self) -> int:
        """Width of the language model."""
        return self.body.hidden_size

    @property
    def max_positions(self) -> int | None:
        """Largest number of positions of the language model, or None if the file has none."""
        return self.raw.get("max_sequence_length") or self.raw.get("max_position_embeddings")

    def check_length(self, prefix: int, answer: int) -> None:
        """Raise `ItemError` if `prefix` + `answer` tokens exceed `max_positions`."""
        longest = self.max_positions
        if longest is not None and prefix + answer > longest:
            raise ItemError(
                f"{prefix} prefix tokens (image and prompt) and {answer} of the answer are more than this model's "
                f"{longest} positions; {prefix + answer - longest} fewer would fit: a smaller budget or image, or a shorter "
                "question or answer"
            )

    @property
    def has_newline(self) -> bool:
        """Whether the checkpoint has an `image_newline` vector (LaViDa llava_arch.py:59-60)."""
        return "unpad" in self.patch_merge_type

    @property
    def unused_tensors(self) -> frozenset[str]:
        """Tensors of the official code that are not used: with `add_faster_video`, a vector for video."""
        return frozenset({"model.faster_token"} if self.raw.get("add_faster_video") else ())

    @property
    def used_rows(self) -> int:
        """Rows of the input embedding up to the greatest special id."""
        return 1 + max(self.mask_token_id, self.eos_token_id, self.pad_token_id, self.fim_token_id or 0)

    @property
    def is_nano(self) -> bool:
        """Whether this is the embedded small model (`nano` under "shirg")."""
        return bool(self.raw.get("shirg", {}).get("nano", False))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None = None) -> LavidaConfig:
        """Read the contents of an official `config.json` (LLaDA's or Dream's names).

        Args:
            tokenizer: the checkpoint's, or None; gives special ids that the config lacks.

        Raises:
            UserError: with the field that is missing, or has a value that LaViDa's models do not support.
        """
        family = _family(raw)
        _check_own_keys(raw)
        _expect("mm_projector_type", raw.get("mm_projector_type", "mlp2x_gelu"), ("mlp2x_gelu",))
        known = {} if tokenizer is None else tokenizer.get_added_vocab()
        return cls(
            raw=raw,
            body=_llada_body(raw) if family == "llada" else _dream_body(raw),
            vision_config=_vision_config(raw),
            **_special_ids(raw, family, known),
            fim_token_id=_fim_token_id(raw, family, known),
            patch_merge_type=raw.get("mm_patch_merge_type", "flat"),
            pool_mode=raw.get("mm_spatial_pool_mode") or "bilinear",
            pinpoints=_pinpoints(raw.get("image_grid_pinpoints")),
            vision=_vision_settings(raw),
            answer_tokens=raw.get("shirg", {}).get("answer_tokens", ANSWER_TOKENS),
        )

    def to_dict(self, vision: VisionSettings | None = None) -> dict[str, Any]:
        """The contents of a `config.json`: `raw`, and under "shirg" the fields of `vision` that differ from it."""
        vision = vision or self.vision
        changed = {name: vision.as_dict()[name] for name in vision.differing(_vision_settings(self.raw))}
        return {**self.raw, "shirg": {**self.raw.get("shirg", {}), **changed}} if changed else self.raw


def _vision_settings(raw: dict[str, Any]) -> VisionSettings:
    """The vision settings in a `config.json`. Without our `fit`, images are padded to a square if `image_aspect_ratio` is "pad",
    else stretched (LaViDa mm_utils.py:318-344)."""
    base = VisionSettings(fit="pad" if raw.get("image_aspect_ratio") == "pad" else "stretch")
    try:
        return base.with_stored(raw.get("shirg", {}))
    except (TypeError, ValueError) as error:
        raise UserError(f"config: shirg.{error}") from error


def _check_own_keys(raw: dict[str, Any]) -> None:
    """Raise `UserError` for unknown keys under "shirg", which may be misspelt."""
    own = raw.get("shirg", {})
    if not isinstance(own, dict):
        raise UserError(f"config: shirg={own!r} must be an object with keys such as relevance")
    unknown = sorted(own.keys() - set(OWN_KEYS))
    if unknown:
        raise UserError(f"config: shirg has unknown {', '.join(unknown)}; there are {', '.join(OWN_KEYS)}")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The contents of a folder's `config.json`.

    Raises:
        UserError: if the file is missing or no JSON object.
    """
    path = Path(folder) / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} contains no config.json: not a model's folder") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} must contain a JSON object; got a {type(raw).__name__}")
    return raw


def _expect(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise UserError(f"config: {name}={value!r} is not supported; expected {' or '.join(map(repr, allowed))}")


def _family(raw: dict[str, Any]) -> str:
    model_type = str(raw.get("model_type", ""))
    for family in SPECIAL_IDS:
        if family in model_type.lower():
            return family
    raise UserError(f'config: model_type={model_type!r} is not a LaViDa model; expected "llava_llada" or "llava_dream"')


def _size(raw: dict[str, Any], *names: str) -> int:
    """The value of the first of these keys that exists, a whole number above 0."""
    name = next((name for name in names if raw.get(name) is not None), None)
    if name is None:
        raise UserError(f"config: missing {names[-1]}")
    if type(raw[name]) is not int or not 0 < raw[name] < LARGEST_SIZE:
        raise UserError(f"config: {name}={raw[name]!r} must be a whole number above 0")
    return raw[name]


def _number(raw: dict[str, Any], name: str) -> float:
    """A number above 0."""
    value = raw.get(name)
    if value is None:
        raise UserError(f"config: missing {name}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"config: {name}={value!r} must be a number above 0")
    return float(value)


def _llada_body(raw: dict[str, Any]) -> BodyConfig:
    for name, allowed in LLADA_REQUIRED.items():
        _expect(name, raw.get(name, allowed[0]), allowed)
    width, heads, layers = (_size(raw, name) for name in ("d_model", "n_heads", "n_layers"))
    key_heads, rows = _size(raw, "n_kv_heads", "n_heads"), _size(raw, "embedding_size", "vocab_size")
    given = raw.get("mlp_hidden_size") is not None
    inner = _size(raw, "mlp_hidden_size") if given else int(_number(raw, "mlp_ratio") * width)
    theta, eps = _number(raw, "rope_theta"), _number(raw, "rms_norm_eps")
    return BodyConfig("llada", width, inner, layers, heads, key_heads, rows, theta, eps)


def _dream_body(raw: dict[str, Any]) -> BodyConfig:
    for name, allowed in DREAM_REQUIRED.items():
        _expect(name, raw.get(name, allowed[0]), allowed)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    width, inner, layers, heads = (_size(raw, name) for name in names)
    key_heads, rows = _size(raw, "num_key_value_heads", "num_attention_heads"), _size(raw, "vocab_size")
    theta, eps = _number(raw, "rope_theta"), _number(raw, "rms_norm_eps")
    return BodyConfig("dream", width, inner, layers, heads, key_heads, rows, theta, eps)


def _vision_config(raw: dict[str, Any]) -> dict[str, Any]:
    vision, name = raw.get("vision_config"), str(raw.get("mm_vision_tower", ""))
    if vision:
        if not isinstance(vision, dict) or "hidden_size" not in vision:
            raise UserError("config: vision_config has no hidden_size, the tower's width")
        for size in VISION_SIZES & vision.keys():
            _size(vision, size)
        return vision
    if "so400m-patch14-384" in name:
        return SO400M
    raise UserError(
        f"config: sizes of the vision tower {name!r} are unknown; add them as vision_config, "
        "or use siglip-so400m-patch14-384"
    )


def _special_ids(raw: dict[str, Any], family: str, known: dict[str, int]) -> dict[str, Any]:
    """Special ids: the config's, else the tokenizer's, else the published ones, the latter two with a warning."""
    ids = {}
    for name, published in SPECIAL_IDS[family].items():
        token = SPECIAL_TOKENS[family][name]
        ids[name] = raw.get(name)
        if ids[name] is None:
            source = f"the tokenizer's {token}" if token in known else f"the published tokenizer's {token}"
            ids[name] = known.get(token, published)
            logger.warning("config names no %s; taking %d, %s", name, ids[name], source)
    return ids


def _fim_token_id(raw: dict[str, Any], family: str, known: dict[str, int]) -> int | None:
    """The config's id, else the tokenizer's (no official config has it), else None."""
    if raw.get("fim_token_id") is not None or family != "llada":
        return raw.get("fim_token_id")
    return known.get(FIM_TOKEN)


def _pinpoints(given: Any) -> tuple[tuple[int, int], ...]:
    """Canvases as (width, height) pairs; the string "(1x1),...,(2x2)" is every multiple of 384 in this range
    (LaViDa mm_utils.py:225-234)."""
    if given is None:
        return GRID_PINPOINTS
    if isinstance(given, str):
        corners = [tuple(map(int, pair)) for pair in re.findall(r"\((\d+)x(\d+)\)", given)]
        if corners:
            (low_w, low_h), (high_w, high_h) = corners[0], corners[-1]
            return tuple((384 * w, 384 * h) for w in range(low_w, high_w + 1) for h in range(low_h, high_h + 1))
        try:
            given = ast.literal_eval(given)
        except (SyntaxError, ValueError):
            raise UserError(f"config: image_grid_pinpoints={given!r} is neither a list nor a range of grids") from None
    try:
        pairs = tuple((int(width), int(height)) for width, height in given)
    except (TypeError, ValueError):
        pairs = ()
    if not pairs:
        raise UserError(f"config: image_grid_pinpoints={given!r} must contain pairs (width, height)")
    return pairs
