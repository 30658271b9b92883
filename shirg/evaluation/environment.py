"""On what, and with what, a number was measured."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from shirg.lavida import Lavida
from shirg.lavida.adapter import lora_parameters

PACKAGES = ("torch", "transformers", "peft", "accelerate")


def package_versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on."""
    return {name: version(name) for name in PACKAGES}


def describe_environment(model: Lavida) -> dict:
    """Versions, device, threads and precision of the run."""
    device = model.device
    return {
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


def describe_model(model: Lavida) -> dict:
    """Family, sizes, and parameters with those of the adapter apart."""
    adapter = sum(parameter.numel() for parameter in lora_parameters(model).values())
    return {
        "family": model.config.family,
        "nano": is_nano(model),
        "resolution": model.resolution,
        "relevance": model.config.relevance,
        "relevance_sign": model.config.relevance_sign,
        "parameters": sum(parameter.numel() for parameter in model.parameters()) - adapter,
        "adapter_parameters": adapter,
    }


def is_nano(model: Lavida) -> bool:
    """Whether this is the embedded small model: its `config.json` says so under "shirg"."""
    return bool(model.config.raw.get("shirg", {}).get("nano", False))
