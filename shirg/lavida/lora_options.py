"""Supported options of a LoRA. An option that changes outputs works in load, unload and merge, or raises an error.

| option | value |
| --- | --- |
| `r` | a whole number from 1 |
| `lora_alpha` | a number above 0 |
| `lora_dropout` | from 0 to below 1; used in training only |
| `target_modules` | a list of full names of linear layers |
| `use_rslora`, `lora_bias` | true or false |
| `rank_pattern`, `alpha_pattern` | objects of name patterns, with values as for `r` and `lora_alpha` |
| `init_lora_weights` | true, false or "gaussian"; other values change the base weights |

Every other option must be empty or have peft's default, except those without effect on the model (`task_type`, `revision`, ...).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shirg.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG_FILE = "adapter_config.json"

DESCRIPTIVE = frozenset(
    ("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode")
)


def _is_rank(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_alpha(value: object) -> bool:
    return type(value) in (int, float) and 0 < float(value) < math.inf  # type: ignore[arg-type]  # narrowed by `type`


def _is_fraction(value: object) -> bool:
    return type(value) in (int, float) and 0 <= float(value) < 1  # type: ignore[arg-type]  # narrowed by `type`


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)


def _pattern_of(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


RANK, ALPHA = "a whole number from 1", "a number above 0"
SUPPORTED: dict[str, tuple[Callable[[object], bool], str]] = {
    "r": (_is_rank, RANK),
    "lora_alpha": (_is_alpha, ALPHA),
    "lora_dropout": (_is_fraction, "a number from 0 to below 1"),
    "target_modules": (_are_names, "a list of layers' names"),
    "use_rslora": (_is_flag, "true or false"),
    "lora_bias": (_is_flag, "true or false"),
    "rank_pattern": (_pattern_of(_is_rank), f"an object whose values are {RANK}"),
    "alpha_pattern": (_pattern_of(_is_alpha), f"an object whose values are {ALPHA}"),
}
"""Option -> (check of a value, the valid values in words)."""

ALLOWED_INITS = (True, False, "gaussian")
"""Values of `init_lora_weights` that change the adapter's weights only."""


def lora_config(options: Mapping[str, Any], where: str) -> LoraConfig:
    """peft's configuration with these options.

    Args:
        where: beginning of error messages.

    Raises:
        UserError: with the first option that has an invalid value or is not supported.
    """
    from peft import LoraConfig

    defaults = LoraConfig().to_dict()
    for name, value in options.items():
        if name in SUPPORTED:
            is_valid, expected = SUPPORTED[name]
            if not is_valid(value):
                raise UserError(f"{where}: {name}={value!r} must be {expected}")
        elif name == "init_lora_weights":
            if not any(value == allowed for allowed in ALLOWED_INITS if type(value) is type(allowed)):
                raise UserError(f"{where}: {name}={value!r} changes the base model's weights and is not supported")
        elif name not in DESCRIPTIVE and value not in (None, False, {}, [], "") and value != defaults.get(name):
            raise UserError(f"{where}: {name}={value!r} is not supported; LoRA with {', '.join(SUPPORTED)} is")
    return LoraConfig(**{name: value for name, value in options.items() if name in SUPPORTED})


def read_lora_config(folder: Path) -> LoraConfig:
    """The options in a folder's `adapter_config.json`.

    Raises:
        UserError: if the file is damaged, of another PEFT type, or has options that are not supported.
    """
    where = f"adapter {folder}: {CONFIG_FILE}"
    try:
        options = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where} cannot be read ({error}); take another checkpoint") from error
    kind = options.get("peft_type") if isinstance(options, dict) else None
    if kind != "LORA":
        raise UserError(f"{where} has peft_type {kind!r}; only 'LORA' is read")
    absent = [name for name in ("r", "lora_alpha", "target_modules") if name not in options]
    if absent:
        raise UserError(f"{where} lacks {', '.join(absent)}; take another checkpoint")
    return lora_config(options, where)
