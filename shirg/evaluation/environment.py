"""On what, and with what, a number was measured."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shirg import __version__
from shirg.gate import GateConfig
from shirg.gate.config import PRESETS
from shirg.lavida import Lavida
from shirg.lavida.adapter import lora_parameters

PACKAGES = ("torch", "transformers", "peft", "accelerate", "pillow")

SAMPLED = 256
"""Values of each tensor that a model's fingerprint is made of; reading all of 8B parameters would take minutes."""


def package_versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on."""
    return {name: version(name) for name in PACKAGES}


def describe_environment(model: Lavida) -> dict[str, Any]:
    """Versions, device, threads and precision of the run."""
    device = model.device
    return {
        "shirg": __version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": package_versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def processor() -> str:
    """The CPU's name, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def describe_model(model: Lavida) -> dict[str, Any]:
    """Family, sizes, and parameters with those of the adapter apart."""
    adapter = sum(parameter.numel() for parameter in lora_parameters(model).values())
    return {
        "family": model.config.family,
        "nano": model.config.is_nano,
        "resolution": model.resolution,
        "relevance": model.config.relevance,
        "relevance_sign": model.config.relevance_sign,
        "parameters": sum(parameter.numel() for parameter in model.parameters()) - adapter,
        "adapter_parameters": adapter,
        "weights": fingerprint((name, value) for name, value in model.named_parameters() if ".lora_" not in name),
        "adapter_weights": fingerprint(lora_parameters(model).items()) if adapter else None,
    }


def describe_gate(config: GateConfig) -> dict[str, Any]:
    """The gate's settings by the name of their preset, None where they are no preset's, and those that differ from the
    default's."""
    default = asdict(GateConfig())
    changed = {name: value for name, value in asdict(config).items() if value != default[name]}
    preset = next((name for name in PRESETS if GateConfig.preset(name) == config), None)
    return {"preset": preset, "changed": changed}


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Tells weights apart: 16 hexadecimal digits of names, shapes and evenly sampled values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        flat = tensor.detach().flatten()
        values = flat[:: max(1, len(flat) // SAMPLED)].double().cpu().numpy()
        digest.update(f"{name.replace('.base_layer', '')}{list(tensor.shape)}".encode() + values.tobytes())
    return digest.hexdigest()[:16]
