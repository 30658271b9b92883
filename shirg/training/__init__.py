"""Training one adapter for every token budget."""

from shirg.training.budgets import POOLED, BudgetSampler
from shirg.training.config import SHIRGLoRAConfig
from shirg.training.trainer import SHIRGLoRATrainer

__all__ = ["POOLED", "BudgetSampler", "SHIRGLoRAConfig", "SHIRGLoRATrainer"]
