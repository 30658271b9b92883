"""Software, hardware and model of a run."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from shirg import identity
from shirg.evaluation.results import GateInfo, ModelInfo
from shirg.evaluation.variants import ADAPTER
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
    """The CPU's name, "" if unknown."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def describe_model(model: Lavida, adapters: Mapping[str | None, Lavida]) -> ModelInfo:
    """Family, sizes and fingerprints of the model and its adapters.

    Args:
        adapters: the model with each of its adapters, see `answering.models_by_adapter`.
    """
    base, carried = identity.of_base(model), identity.of_adapter(model)
    found = {name: identity.of_adapter(one) for name, one in adapters.items() if name is not None}
    shown = ("family", "resolution", "relevance", "relevance_sign", "parameters", "weights")
    return ModelInfo(
        nano=model.config.is_nano,
        **{name: base[name] for name in shown},
        adapter_parameters=max([one["adapter_parameters"] for one in found.values()], default=0),
        adapter_weights=carried["adapter_weights"],
        adapters={name: one["adapter_weights"] for name, one in found.items() if name != ADAPTER},
    )


def describe_gate(config: GateConfig) -> GateInfo:
    """The gate's preset and the fields that differ from the default."""
    default = asdict(GateConfig())
    changed = {name: value for name, value in asdict(config).items() if value != default[name]}
    preset = next((name for name in PRESETS if GateConfig.preset(name) == config), None)
    return GateInfo(preset=preset, changed=changed)
