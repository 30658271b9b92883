"""SHIRG: select the visual tokens of LaViDa once, at high resolution, and train one adapter for every budget.

Names are imported on first use, so that `import shirg` is fast.
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

# In torch's OpenMP on Linux (GNU) a waiting thread spins 300,000 times before it sleeps, which makes small products five times
# slower beside another program. A hundredth of that is no slower on an idle machine. The variable is read when torch is imported;
# results do not depend on it; a user's own setting has precedence.
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
