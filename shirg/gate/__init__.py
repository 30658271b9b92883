"""The gate: tensors in, kept tokens out. No model, no files; imports torch and nothing else of this package."""

from . import baselines
from .clusters import Quadtree, plan_quadtree
from .config import GateConfig
from .gate import Kept, ShirgGate
from .page_budget import page_budget
from .selectors import SELECTORS, RegisteredSelector, Request, Selection, Selector, register

__all__ = [
    "SELECTORS",
    "GateConfig",
    "Kept",
    "Quadtree",
    "Request",
    "RegisteredSelector",
    "Selection",
    "Selector",
    "ShirgGate",
    "page_budget",
    "plan_quadtree",
    "register",
    "baselines",
]
