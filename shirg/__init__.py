"""SHIRG: choose the visual tokens of LaViDa once, at high resolution, and train one adapter for every budget.

Names are loaded on first use, so `import shirg` costs nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from shirg.version import __version__

if TYPE_CHECKING:
    from shirg.data.preparation import SHIRGDatasetConfig, SHIRGDatasetProcessor
    from shirg.errors import UserError
    from shirg.evaluation.evaluator import SHIRGEvaluationConfig, SHIRGEvaluator
    from shirg.gate import GateConfig, Kept, ShirgGate
    from shirg.lavida import Lavida
    from shirg.siglip_encoder import SigLipVisionTower
    from shirg.training.config import SHIRGLoRAConfig
    from shirg.training.trainer import SHIRGLoRATrainer

# GNU's OpenMP, which torch comes with on Linux, lets a thread that waits spin 300,000 times before it sleeps. Beside another
# program that makes small products five times slower; a hundredth is enough for none to be slower on a quiet machine. It is read
# when torch is imported, results do not depend on it, and who has set one of the two has decided.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

_HOMES = {
    "GateConfig": "shirg.gate",
    "Kept": "shirg.gate",
    "ShirgGate": "shirg.gate",
    "Lavida": "shirg.lavida",
    "SHIRGDatasetConfig": "shirg.data.preparation",
    "SHIRGDatasetProcessor": "shirg.data.preparation",
    "SHIRGLoRAConfig": "shirg.training.trainer",
    "SHIRGLoRATrainer": "shirg.training.trainer",
    "SHIRGEvaluationConfig": "shirg.evaluation.evaluator",
    "SHIRGEvaluator": "shirg.evaluation.evaluator",
    "SigLipVisionTower": "shirg.siglip_encoder",
    "UserError": "shirg.errors",
}

__all__ = [
    "GateConfig",
    "Kept",
    "Lavida",
    "SHIRGDatasetConfig",
    "SHIRGDatasetProcessor",
    "SHIRGEvaluationConfig",
    "SHIRGEvaluator",
    "SHIRGLoRAConfig",
    "SHIRGLoRATrainer",
    "ShirgGate",
    "SigLipVisionTower",
    "UserError",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'shirg' has no attribute '{name}'")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ImportError as error:
        from shirg.errors import missing_package

        message = missing_package(error)
        if message is None:
            raise
        raise ImportError(message) from error


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
