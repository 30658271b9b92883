"""The LoRA adapter: a plain PEFT folder, the settings it was trained with, and the check that it meets its own base.

An adapter folder holds `adapter_config.json` and `adapter_model.safetensors` as `peft.PeftModel.from_pretrained` reads
them, `shirg_settings.json` (gate, budgets, fingerprint of the base projector) and a card, `README.md`.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from shirg.errors import UserError
from shirg.files import atomic_path, write_json, write_text
from shirg.gate import GateConfig, ShirgGate
from shirg.lavida.config import SHIRG_DEFAULTS, LavidaConfig, shirg_settings
from shirg.lavida.images import FITS
from shirg.lavida.lora_options import CONFIG_FILE, lora_config, read_lora_config

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import Linear as LoraLinear

    from shirg.lavida.model import Lavida

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
"""What peft 0.4 has in a LoRA's configuration, and every peft since."""
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NAME = "default"
"""The adapter's name inside peft."""

PEFT_PREFIX = "base_model.model."
"""peft names weights as seen from its own wrapper; `Lavida` is the module inside it."""

ROLES = {"tower": "vision", "mm_projector": "projector", "image_newline": "projector", "language": "language"}
"""Child of the model -> its role in the printed table."""

SELECTION = ("gate", "relevance", "relevance_sign", "resolution", "fit")
"""What decides which tokens an adapter is trained on: it brings these settings along."""

_TAKEN = "_taken_from_adapter"
"""Attribute of the model: the settings that the adapter on it brought along."""


def attach_lora(
    model: nn.Module,
    rank: int = 16,
    alpha: float = 32,
    dropout: float = 0.05,
    targets: Sequence[str] = TARGETS,
    *,
    seed: int = 0,
) -> None:
    """Put a fresh LoRA on exactly the layers named `targets` and freeze everything else.

    The update is zero at first (B = 0), so the model's outputs do not change. A is Kaiming-uniform (Hu et al. 2021,
    section 4.1, as peft initialises it) from `seed`, in float32 whatever the base's precision: AdamW's small steps
    vanish in bfloat16.

    Raises:
        UserError: if an adapter is there already, a number is out of range, or a target does not exist, is no linear
            layer, or its name also fits another.
    """
    if has_adapter(model):
        raise UserError("the model already carries an adapter; call unload_adapter() first")
    options = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": list(targets)}
    _inject(model, lora_config(options, "LoRA"))
    draws = torch.Generator().manual_seed(seed)
    for name, parameter in lora_parameters(model).items():
        if "lora_A" in name and not parameter.is_meta:
            bound = 1 / math.sqrt(parameter.shape[1])  # kaiming_uniform with a = sqrt(5)
            fresh = torch.empty(parameter.shape).uniform_(-bound, bound, generator=draws)
            parameter.data.copy_(fresh)


def has_adapter(model: nn.Module) -> bool:
    """Whether a LoRA is attached."""
    return bool(getattr(model, "peft_config", None))


def base_linear(layer: nn.Module) -> nn.Linear:
    """A linear layer as it is without any adapter: peft wraps a layer and keeps it as `base_layer`."""
    base = getattr(layer, "base_layer", layer)
    assert isinstance(base, nn.Linear)
    return base


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's tensors by their names in the model, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}


def stored_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter folder by their names in the model.

    Raises:
        UserError: if the folder is no SHIRG adapter, or damaged.
    """
    named = _read(folder)[1].items()
    part = re.compile(r"\.(lora_\w+)\.")
    return {part.sub(rf".\1.{NAME}.", name.removeprefix(PEFT_PREFIX)): value for name, value in named}


def unload_adapter(model: Lavida) -> None:
    """Take the adapter off; the base layers stand again as they were, frozen, and so do the settings it replaced."""
    _select_by(model, _returned(model))
    model.__dict__.pop(_TAKEN, None)
    for name, layer in _lora_layers(model).items():
        model.set_submodule(name, layer.base_layer)
    if has_adapter(model):
        del model.peft_config


def merge_adapter(model: Lavida) -> None:
    """Add the adapter's update to the projector's own weights and take the adapter off.

    `save_pretrained` then writes an ordinary checkpoint. The sum is rounded once, to the weights' precision: in float32
    outputs stay equal to rounding, in bfloat16 a small update loses digits. The settings that the adapter brought along
    stay on the model; the gate's are no part of a checkpoint, and what differs from the defaults is said.

    Raises:
        UserError: if the model has no adapter.
    """
    if not has_adapter(model):
        raise UserError("the model carries no adapter to merge; load_adapter(folder) first")
    for name, layer in _lora_layers(model).items():
        base = base_linear(layer)
        base.weight.data = (base.weight.double() + layer.get_delta_weight(NAME).double()).to(base.weight.dtype)
        offset = layer.lora_B[NAME].bias  # None without `lora_bias`
        if offset is not None:
            base.bias.data = (base.bias.double() + layer.scaling[NAME] * offset.double()).to(base.bias.dtype)
        model.set_submodule(name, base)
    model.__dict__.pop(_TAKEN, None)
    del model.peft_config
    if model.gate.config != GateConfig():
        logger.warning("the merged checkpoint does not hold the gate's settings: %s", model.gate.config)


def save_adapter(model: Lavida, folder: str | Path, *, settings: dict[str, Any]) -> Path:
    """Write the adapter folder, complete or not at all. Returns its path.

    Args:
        model: with an adapter.
        folder: replaced if it exists.
        settings: what it was trained with, JSON values; the model's gate, resolution and fingerprint are added.

    Raises:
        UserError: if the model has no adapter.
    """
    with atomic_path(folder) as fresh:
        fresh.mkdir()
        write_adapter(model, fresh, settings=settings)
    return Path(folder)


def write_adapter(model: Lavida, folder: Path, *, settings: dict[str, Any]) -> None:
    """Write the adapter's four files into an existing folder; see `save_adapter`."""
    from safetensors.torch import save_file

    if not has_adapter(model):
        raise UserError("the model carries no adapter to save; attach_lora(model) or load_adapter(folder) first")
    config = copy.copy(model.peft_config[NAME])
    config.inference_mode = True
    config.base_model_name_or_path = settings.get("base_model")
    config.save_pretrained(str(folder))
    _leave_out_defaults(folder / CONFIG_FILE)
    weights = {_file_name(name): value.detach().cpu().contiguous() for name, value in lora_parameters(model).items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    complete = {**model_settings(model), **settings}
    write_json(folder / SETTINGS_FILE, complete)
    write_text(folder / "README.md", adapter_card(config.to_dict(), complete))


def _leave_out_defaults(path: Path) -> None:
    """Take from a configuration what says nothing: pefts from 0.5 to 0.13 refuse a key that they do not know."""
    from peft import LoraConfig

    usual = LoraConfig().to_dict()
    stored = json.loads(path.read_text(encoding="utf-8"))
    told = (name for name, value in stored.items() if name != "peft_version" and value != usual.get(name))
    kept = PLAIN_KEYS.union(told)
    write_json(path, {name: value for name, value in stored.items() if name in kept})


def model_settings(model: Lavida) -> dict[str, Any]:
    """What of the model decides how an adapter sees images: the gate, where relevance comes from and its sign,
    resolution, the base."""
    return {**_selection(model), "base_fingerprint": base_fingerprint(model)}


def base_config(model: Lavida) -> LavidaConfig:
    """The model's configuration with the settings that it has now, but for those that its adapter brought along."""
    own = _returned(model)
    return dataclasses.replace(model.config, **{name: own[name] for name in own.keys() & SHIRG_DEFAULTS})


def load_adapter(model: Lavida, folder: str | Path) -> dict[str, Any]:
    """Attach the adapter saved in `folder`, in place of one that is there. Returns the settings it was trained with.

    Of these the model takes over gate, relevance and its sign, resolution and fit, until the adapter is taken off. Those
    that are no longer what its checkpoint says were set by someone: they stay, with a warning where they differ.

    Raises:
        UserError: if the folder is no SHIRG adapter, was trained on another base, has options that are not supported
            (see `shirg.lavida.lora_options`; the model is left as it is), or its weights are damaged (the model may be
            left without an adapter, never with a part of one).
    """
    settings, weights = _read(Path(folder))
    config = read_lora_config(Path(folder))
    if settings.get("base_fingerprint") != base_fingerprint(model):
        base = settings.get("base_model") or "another base"
        raise UserError(
            f"adapter {folder}: it was trained on {base}, whose projector is not this model's; load that base"
        )
    unload_adapter(model)
    _inject(model, config)
    try:
        _fill(model, weights, folder)
        _settle_selection(model, settings, folder)
    except UserError:
        unload_adapter(model)
        raise
    return settings


def base_fingerprint(model: Lavida) -> str:
    """SHA-256 (hex) of the base projector's weights and biases, the same with and without an adapter.

    Weights are rounded to bfloat16 and then to steps of 2^-14, below which float16 loses digits: a checkpoint stored in
    bfloat16, as LaViDa's are, has one fingerprint in whichever of the three precisions it is loaded.
    """
    digest = hashlib.sha256()
    for index in (0, 2):
        layer = base_linear(model.mm_projector[index])
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
    """The README.md of an adapter folder: what it belongs to, how it was trained, what it reached, how to load it."""
    base = settings.get("base_model")
    front = ["---", "library_name: peft", "tags: [shirg, lavida, lora]"]
    front += ([f"base_model: {base}"] if base else []) + ["license: apache-2.0", "---", "", "# SHIRG adapter", ""]
    rank, alpha = peft_config["r"], peft_config["lora_alpha"]
    targets = " and ".join(f"`{name}`" for name in sorted(peft_config["target_modules"]))
    body = [
        f"LoRA of rank {rank}, alpha {alpha}, on {targets}: for SHIRG's token selection, one adapter for every budget.",
        "",
        "```python",
        "from shirg import Lavida",
        "",
        f"model = Lavida.from_pretrained({json.dumps(base or 'BASE')})",
        'model.load_adapter("this folder")',
        "```",
        "",
        "| trained with | |",
        "| --- | --- |",
    ]
    body += [f"| {key} | `{json.dumps(value)}` |" for key, value in settings.items()]
    return "\n".join(front + body) + "\n"


def _inject(model: nn.Module, config: LoraConfig) -> None:
    """Wrap exactly the configured layers. peft matches name endings, so what would fit is checked before and after."""
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
    with torch.random.fork_rng(devices=[]):  # peft initialises from the global generator; leave that as it was
        inject_adapter_in_model(config, model, adapter_name=NAME)
    for parameter in lora_parameters(model).values():
        parameter.data = parameter.data.float()
    layers = _lora_layers(model)
    for layer in layers.values():
        layer.train(model.training)  # peft leaves the new dropout switched on, in an evaluating model too
    assert set(layers) == targets, "peft wrapped other layers than asked"


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
            + (f"give {best}" if best.is_dir() else "such a folder holds all three")
        )
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS_FILE)
        if not isinstance(settings, dict):
            raise TypeError(f"{SETTINGS_FILE} holds no JSON object")
    except (ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"adapter {folder}: a file in it is damaged ({error}); take another checkpoint") from error
    return settings, weights


def _fill(model: nn.Module, weights: dict[str, Tensor], folder: str | Path) -> None:
    expected = {_file_name(name): parameter for name, parameter in lora_parameters(model).items()}
    if weights.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
        raise UserError(f"adapter {folder}: {WEIGHTS_FILE} lacks {missing} and has unknown {extra}")
    for name, parameter in expected.items():
        if weights[name].shape != parameter.shape:
            shapes = f"{tuple(weights[name].shape)}, the model's is {tuple(parameter.shape)}"
            raise UserError(
                f"adapter {folder}: {name} has shape {shapes}; adapter_config.json or the base is not its own"
            )
        if weights[name].dtype not in WEIGHT_DTYPES:
            raise UserError(f"adapter {folder}: {name} is stored as {weights[name].dtype}; floats are expected")
        if not weights[name].isfinite().all():
            raise UserError(f"adapter {folder}: {name} holds values that are not finite; take an earlier checkpoint")
        parameter.data.copy_(weights[name])


def warn_of_differences(model: Lavida, settings: dict[str, Any], folder: str | Path) -> None:
    """Warn of each setting of the selection in which the model is not what the adapter was trained with."""
    own = _selection(model)
    for name, value in _brought(settings).items():
        if value != own[name]:
            logger.warning("adapter %s was trained with %s %s; this model has %s", folder, name, value, own[name])


def _settle_selection(model: Lavida, settings: dict[str, Any], folder: str | Path) -> None:
    own, stored = _selection(model), _stored_selection(model.config)
    try:
        taken = {name: value for name, value in _brought(settings).items() if own[name] == stored[name] != value}
        _select_by(model, taken)
    except (TypeError, ValueError) as error:
        raise UserError(f"adapter {folder}: its settings are not ones this version knows ({error})") from error
    setattr(model, _TAKEN, taken)
    warn_of_differences(model, settings, folder)


def _brought(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of the selection among an adapter's, with the defaults of gate settings that are younger than it."""
    found = {name: settings[name] for name in SELECTION if name in settings}
    return found | ({"gate": dataclasses.asdict(GateConfig.stored(found["gate"]))} if "gate" in found else {})


def _selection(model: Lavida) -> dict[str, Any]:
    found = {name: getattr(model.config, name) for name in ("relevance", "relevance_sign")}
    return {"gate": dataclasses.asdict(model.gate.config), **found, "resolution": model.resolution, "fit": model.fit}


def _stored_selection(config: LavidaConfig) -> dict[str, Any]:
    """How a model selects that was just read from its checkpoint."""
    return {"gate": dataclasses.asdict(GateConfig()), **shirg_settings(config.raw), "fit": config.fit}


def _returned(model: Lavida) -> dict[str, Any]:
    """What the checkpoint says of the settings that the model has from its adapter."""
    taken = getattr(model, _TAKEN, None)
    if not taken:
        return {}
    own, stored = _selection(model), _stored_selection(model.config)
    return {name: stored[name] for name, value in taken.items() if own[name] == value}


def _select_by(model: Lavida, settings: dict[str, Any]) -> None:
    """Give the model these settings of the selection, or, if one makes no sense, none of them."""
    if "resolution" in settings:
        model.tower.grid(settings["resolution"], settings["resolution"])
    if settings.get("fit", FITS[0]) not in FITS:
        raise UserError(f"fit={settings['fit']!r} is unknown")
    own: dict[str, Any] = {name: settings[name] for name in ("fit",) if name in settings}
    if "gate" in settings:
        own["gate"] = ShirgGate(GateConfig.stored(settings["gate"]))
    in_config = {name: settings[name] for name in ("relevance", "relevance_sign", "resolution") if name in settings}
    if in_config:
        own["config"] = dataclasses.replace(model.config, **in_config)
    for name, value in own.items():
        setattr(model, name, value)
