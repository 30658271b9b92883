"""The gate: tensors in, kept tokens out. No model, no files; imports torch and nothing else of this package."""

from .clusters import Quadtree, plan_quadtree
from .config import GateConfig
from .gate import Kept, ShirgGate
from .selectors import SELECTORS, Request, Selection, Selector, register

__all__ = [
    "SELECTORS",
    "GateConfig",
    "Kept",
    "Quadtree",
    "Request",
    "Selection",
    "Selector",
    "ShirgGate",
    "plan_quadtree",
    "register",
]
