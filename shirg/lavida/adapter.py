"""The LoRA adapter of the projector, its folder, and the check of its base.

An adapter folder contains `adapter_config.json` and `adapter_model.safetensors` as `peft.PeftModel.from_pretrained` reads
them, `shirg_settings.json` (gate, budgets, fingerprint of the base projector) and a model card, `README.md`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from shirg.errors import UserError
from shirg.files import write_json, write_text
from shirg.lavida.lora_options import CONFIG_FILE, lora_config, read_lora_config
from shirg.lavida.settings import FIELDS, VisionSettings

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import Linear as LoraLinear

logger = logging.getLogger(__name__)

TARGETS = ("mm_projector.0", "mm_projector.2")
WEIGHTS_FILE = "adapter_model.safetensors"
SETTINGS_FILE = "shirg_settings.json"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, SETTINGS_FILE)

_PLAIN = (
    "peft_type task_type inference_mode base_model_name_or_path revision r lora_alpha lora_dropout target_modules bias "
    "fan_in_fan_out init_lora_weights modules_to_save layers_to_transform layers_pattern"
)
PLAIN_KEYS = frozenset(_PLAIN.split())
"""Fields of a LoRA's configuration in peft 0.4 and later."""
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NAME = "default"
"""The adapter's name inside peft."""

PEFT_PREFIX = "base_model.model."
"""Prefix of weight names in peft's files, where the model is inside peft's wrapper."""

ROLES = {"tower": "vision", "mm_projector": "projector", "image_newline": "projector", "language": "language"}
"""Child module of the model -> its role in the printed table."""


def attach_lora(
    model: nn.Module,
    rank: int = 16,
    alpha: float = 32,
    dropout: float = 0.05,
    targets: Sequence[str] = TARGETS,
    *,
    seed: int = 0,
) -> None:
    """Attach a new LoRA to exactly the layers named `targets` and freeze everything else.

    Initially B = 0, so the model's outputs do not change. A is Kaiming-uniform (Hu et al. 2021, section 4.1, as in peft) from
    `seed`. Both are float32 for all base precisions, since AdamW's small steps are lost in bfloat16.

    Raises:
        UserError: if the model has an adapter already, a number is out of range, or a target does not exist, is not a linear
            layer, or its name also matches another.
    """
    if has_adapter(model):
        raise UserError("the model already has an adapter; call unload_adapter() first")
    options = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": list(targets)}
    _inject(model, lora_config(options, "LoRA"))
    draws = torch.Generator().manual_seed(seed)
    for name, parameter in lora_parameters(model).items():
        if "lora_A" in name and not parameter.is_meta:
            bound = 1 / math.sqrt(parameter.shape[1])  # kaiming_uniform with a = sqrt(5)
            fresh = torch.empty(parameter.shape).uniform_(-bound, bound, generator=draws)
            parameter.data.copy_(fresh)


def has_adapter(model: nn.Module) -> bool:
    """Whether the model has a LoRA."""
    return bool(getattr(model, "peft_config", None))


def base_linear(layer: nn.Module) -> nn.Linear:
    """The linear layer without its adapter; peft keeps it as `base_layer`."""
    base = getattr(layer, "base_layer", layer)
    assert isinstance(base, nn.Linear)
    return base


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """{name in the model: tensor} of the adapter, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}


def stored_weights(folder: Path) -> dict[str, Tensor]:
    """{name in the model: tensor} of an adapter folder.

    Raises:
        UserError: if the folder is not a SHIRG adapter, or is damaged.
    """
    named = _read(folder)[1].items()
    part = re.compile(r"\.(lora_\w+)\.")
    return {part.sub(rf".\1.{NAME}.", name.removeprefix(PEFT_PREFIX)): value for name, value in named}


def detach_lora(model: nn.Module) -> None:
    """Remove the LoRA; the base layers are unchanged and frozen."""
    for name, layer in _lora_layers(model).items():
        model.set_submodule(name, layer.base_layer)
    if has_adapter(model):
        del model.peft_config


def merge_lora(model: nn.Module) -> None:
    """Add the LoRA's update to the layers' own weights and remove it.

    The sum is rounded once, to the weights' precision: in float32 outputs are equal up to rounding, in bfloat16 a small update
    loses digits.

    Raises:
        UserError: if the model has no adapter.
    """
    if not has_adapter(model):
        raise UserError("the model has no adapter to merge; load_adapter(folder) first")
    for name, layer in _lora_layers(model).items():
        base = base_linear(layer)
        base.weight.data = (base.weight.double() + layer.get_delta_weight(NAME).double()).to(base.weight.dtype)
        offset = layer.lora_B[NAME].bias  # None without `lora_bias`
        if offset is not None:
            base.bias.data = (base.bias.double() + layer.scaling[NAME] * offset.double()).to(base.bias.dtype)
        model.set_submodule(name, base)
    del model.peft_config


def write_adapter(model: nn.Module, folder: Path, settings: dict[str, Any]) -> None:
    """Write the adapter's four files into an existing folder.

    Args:
        model: with a LoRA.
        settings: training settings, JSON values, for `shirg_settings.json`.

    Raises:
        UserError: if the model has no adapter.
    """
    from safetensors.torch import save_file

    if not has_adapter(model):
        raise UserError("the model has no adapter to save; attach_lora(model) or load_adapter(folder) first")
    peft_config: Any = model.peft_config
    config = copy.copy(peft_config[NAME])
    config.inference_mode = True
    config.base_model_name_or_path = settings.get("base_model")
    config.save_pretrained(str(folder))
    _remove_defaults(folder / CONFIG_FILE)
    weights = {_file_name(name): value.detach().cpu().contiguous() for name, value in lora_parameters(model).items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_json(folder / SETTINGS_FILE, settings)
    write_text(folder / "README.md", adapter_card(config.to_dict(), settings))


def _remove_defaults(path: Path) -> None:
    """Remove default values from a configuration: peft 0.5 to 0.13 raise errors for unknown keys."""
    from peft import LoraConfig

    defaults = LoraConfig().to_dict()
    stored = json.loads(path.read_text(encoding="utf-8"))
    changed = (name for name, value in stored.items() if name != "peft_version" and value != defaults.get(name))
    kept = PLAIN_KEYS.union(changed)
    write_json(path, {name: value for name, value in stored.items() if name in kept})


@dataclass(frozen=True)
class StoredAdapter:
    """Contents of an adapter folder."""

    folder: Path
    settings: dict[str, Any]
    """Training settings."""
    config: LoraConfig
    weights: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> StoredAdapter:
        """Read the folder.

        Raises:
            UserError: if it is not a SHIRG adapter, damaged, or has options that are not supported
                (see `shirg.lavida.lora_options`).
        """
        settings, weights = _read(folder)
        return cls(folder, settings, read_lora_config(folder), weights)

    def check_base(self, projector: nn.Sequential) -> None:
        """Raise `UserError` unless it was trained on a model with this projector."""
        if self.settings.get("base_fingerprint") != base_fingerprint(projector):
            base = self.settings.get("base_model") or "another base"
            raise UserError(
                f"adapter {self.folder}: it was trained on {base}, whose projector is not this model's; load that base"
            )

    def vision(self, base: VisionSettings, patch_size: int) -> VisionSettings:
        """The vision settings that it was trained with; those that the folder lacks are those of `base`.

        Args:
            patch_size: of the model's tower; the resolution must be a multiple of it.

        Raises:
            UserError: for settings that this version does not know.
        """
        try:
            trained = base.with_stored(self.settings)
            if trained.resolution % patch_size:
                raise UserError(f"resolution: got {trained.resolution}, must be a multiple of {patch_size}")
            return trained
        except (TypeError, ValueError) as error:  # a UserError is a ValueError
            raise UserError(f"adapter {self.folder}: its settings are unknown to this version ({error})") from error

    def attach(self, model: nn.Module) -> None:
        """Put it on a model without an adapter. After an error the model has none.

        Raises:
            UserError: if its weights do not match the model, or are damaged.
        """
        _inject(model, self.config)
        try:
            _load_weights(model, self.weights, self.folder)
        except UserError:
            detach_lora(model)
            raise


def with_adapter_vision(own: VisionSettings, checkpoint: VisionSettings, adapter: VisionSettings) -> VisionSettings:
    """The adapter's settings, except fields of `own` that differ from the checkpoint's, which the user has set."""
    chosen = own.differing(checkpoint)
    return replace(adapter, **{name: getattr(own, name) for name in chosen})


def without_adapter_vision(
    own: VisionSettings, checkpoint: VisionSettings, adapter: VisionSettings | None
) -> VisionSettings:
    """`own` with the checkpoint's fields where they equal the adapter's: the inverse of `with_adapter_vision`."""
    if adapter is None:
        return own
    adopted = (name for name in FIELDS if getattr(own, name) == getattr(adapter, name))
    return replace(own, **{name: getattr(checkpoint, name) for name in adopted})


def warn_of_differences(own: VisionSettings, adapter: VisionSettings, folder: str | Path) -> None:
    """Log each setting in which a model differs from its adapter's training."""
    for name in adapter.differing(own):
        trained, has = getattr(adapter, name), getattr(own, name)
        logger.warning("adapter %s was trained with %s %s; this model has %s", folder, name, trained, has)


def base_fingerprint(projector: nn.Sequential) -> str:
    """SHA-256 (hex) of the base projector's weights and biases, the same with and without an adapter.

    Weights are rounded to bfloat16 and then to multiples of 2^-14, below which float16 loses digits: a checkpoint stored in
    bfloat16, as LaViDa's are, has the same fingerprint when loaded in bfloat16, float16 or float32.
    """
    digest = hashlib.sha256()
    for index in (0, 2):
        layer = base_linear(projector[index])
        for tensor in (layer.weight, layer.bias):
            coarse = (tensor.detach().to("cpu", torch.bfloat16).float() * 2**14).round().to(torch.int32)
            digest.update(repr(tuple(coarse.shape)).encode())
            digest.update(coarse.contiguous().numpy().astype("<i4").tobytes())
    return digest.hexdigest()


def parameters_by_role(model: nn.Module) -> dict[str, tuple[int, int]]:
    """{"vision": (trainable, total), "projector": ..., "language": ...}, counted in numbers, adapter included."""
    counts = dict.fromkeys(("vision", "projector", "language"), (0, 0))
    for name, parameter in model.named_parameters():
        role = ROLES[name.split(".", 1)[0]]
        trainable, total = counts[role]
        counts[role] = (trainable + parameter.numel() * parameter.requires_grad, total + parameter.numel())
    return counts


def describe_parameters(model: nn.Module) -> list[str]:
    """One line per role and one for the sum: trainable of total, and the share."""
    counts = parameters_by_role(model)
    trainable, total = (sum(column) for column in zip(*counts.values(), strict=True))
    counts["all"] = (trainable, total)
    return [
        f"{role:<9} trainable {trainable:>12,} of {total:>14,} ({trainable / max(total, 1):.3%})"
        for role, (trainable, total) in counts.items()
    ]


def adapter_card(peft_config: dict[str, Any], settings: dict[str, Any]) -> str:
    """The README.md of an adapter folder: base, training settings, results, how to load it."""
    base = settings.get("base_model")
    front = ["---", "library_name: peft", "tags: [shirg, lavida, lora]"]
    front += ([f"base_model: {base}"] if base else []) + ["license: apache-2.0", "---", "", "# SHIRG adapter", ""]
    rank, alpha = peft_config["r"], peft_config["lora_alpha"]
    targets = " and ".join(f"`{name}`" for name in sorted(peft_config["target_modules"]))
    body = [
        f"LoRA of rank {rank}, alpha {alpha}, on {targets}: for SHIRG's token selection, one adapter for every budget.",
        "",
    ]
    if settings.get("trained") is False:
        body += [
            "**Not trained**: these are the weights from before the first step, which do not change the model's outputs.",
            "",
        ]
    body += [
        "```python",
        "from shirg import Lavida",
        "",
        f"model = Lavida.from_pretrained({json.dumps(base or 'BASE')})",
        'model.load_adapter("FOLDER")  # the folder of this README.md',
        "```",
        "",
        "| trained with | |",
        "| --- | --- |",
    ]
    body += [f"| {key} | `{json.dumps(value)}` |" for key, value in settings.items()]
    return "\n".join(front + body) + "\n"


def _inject(model: nn.Module, config: LoraConfig) -> None:
    """Wrap exactly the configured layers. peft matches the ends of names, so matches are checked before and after."""
    from peft import inject_adapter_in_model

    targets = set(config.target_modules or ())
    fitting = {
        name: module
        for name, module in model.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in targets)
    }
    if set(fitting) != targets:
        raise UserError(
            f"target_modules: {sorted(targets)} fit {sorted(fitting)} in this model; give full names of layers"
        )
    for name, module in fitting.items():
        if not isinstance(module, nn.Linear):
            raise UserError(f"target_modules: {name} is a {type(module).__name__}; only linear layers take a LoRA")
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        inject_adapter_in_model(config, model, adapter_name=NAME)
    config.target_modules = sorted(
        targets
    )  # of twenty names or more peft has made short ones, which fit other layers too
    for parameter in lora_parameters(model).values():
        parameter.data = parameter.data.float()
    layers = _lora_layers(model)
    for layer in layers.values():
        layer.train(model.training)  # peft's new dropout is in train mode even if the model is in eval mode
    assert set(layers) == targets, "peft wrapped other layers than those named"


def _lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    from peft.tuners.lora import Linear as LoraLinear

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def _file_name(name: str) -> str:
    return PEFT_PREFIX + name.replace(f".{NAME}.", ".")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not folder.is_dir():
        raise UserError(f"adapter {folder}: no such folder; give a `best_model` or `checkpoint-N` folder of a training")
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if missing:
        best = folder / "checkpoints" / "best_model"
        raise UserError(
            f"adapter {folder}: no {', '.join(missing)}; "
            + (f"give {best}" if best.is_dir() else "an adapter folder contains all three")
        )
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS_FILE)
        if not isinstance(settings, dict):
            raise TypeError(f"{SETTINGS_FILE} contains no JSON object")
    except (ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"adapter {folder}: a file in it is damaged ({error}); take another checkpoint") from error
    return settings, weights


def _load_weights(model: nn.Module, weights: dict[str, Tensor], folder: str | Path) -> None:
    expected = {_file_name(name): parameter for name, parameter in lora_parameters(model).items()}
    if weights.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
        raise UserError(f"adapter {folder}: {WEIGHTS_FILE} lacks {missing} and has unknown {extra}")
    for name, parameter in expected.items():
        if weights[name].shape != parameter.shape:
            shapes = f"{tuple(weights[name].shape)}, the model's is {tuple(parameter.shape)}"
            raise UserError(
                f"adapter {folder}: {name} has shape {shapes}; adapter_config.json or the base belongs to another adapter"
            )
        if weights[name].dtype not in WEIGHT_DTYPES:
            raise UserError(f"adapter {folder}: {name} is stored as {weights[name].dtype}; floats are expected")
        if not weights[name].isfinite().all():
            raise UserError(f"adapter {folder}: {name} contains values that are not finite; take an earlier checkpoint")
        parameter.data.copy_(weights[name])
