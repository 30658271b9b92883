"""The gate: tensors in, kept tokens out. No model, no files; imports torch and nothing else of this package."""

from . import rivals
from .clusters import Quadtree, plan_quadtree
from .config import GateConfig
from .gate import Kept, ShirgGate
from .selectors import SELECTORS, Request, Rule, Selection, Selector, register

__all__ = [
    "SELECTORS",
    "GateConfig",
    "Kept",
    "Quadtree",
    "Request",
    "Rule",
    "Selection",
    "Selector",
    "ShirgGate",
    "plan_quadtree",
    "register",
    "rivals",
]
