"""On what, and with what, a number was measured."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from shirg import identity
from shirg.gate import GateConfig
from shirg.gate.config import PRESETS
from shirg.lavida import Lavida
from shirg.version import __version__

PACKAGES = ("torch", "transformers", "peft", "accelerate", "pillow")


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
    run = {**identity.of_base(model), **identity.of_adapter(model)}
    shown = ("family", "resolution", "relevance", "relevance_sign", "parameters", "adapter_parameters")
    named = {name: run[name] for name in (*shown, "weights", "adapter_weights")}
    return {"nano": model.config.is_nano, **named}


def describe_gate(config: GateConfig) -> dict[str, Any]:
    """The gate's settings by the name of their preset, None where they are no preset's, and those that differ from the
    default's."""
    default = asdict(GateConfig())
    changed = {name: value for name, value in asdict(config).items() if value != default[name]}
    preset = next((name for name in PRESETS if GateConfig.preset(name) == config), None)
    return {"preset": preset, "changed": changed}
