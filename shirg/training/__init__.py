"""Training one adapter for every token budget.

Names are loaded on first use: the loss and what it costs need neither the data nor the trainer.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shirg.training.budgets import POOLED, BudgetSampler, Component
    from shirg.training.config import SHIRGLoRAConfig
    from shirg.training.trainer import SHIRGLoRATrainer

_HOMES = {
    "POOLED": "shirg.training.budgets",
    "BudgetSampler": "shirg.training.budgets",
    "Component": "shirg.training.budgets",
    "SHIRGLoRAConfig": "shirg.training.config",
    "SHIRGLoRATrainer": "shirg.training.trainer",
}

__all__ = ["POOLED", "BudgetSampler", "Component", "SHIRGLoRAConfig", "SHIRGLoRATrainer"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'shirg.training' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
