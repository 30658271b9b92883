"""LaViDa: image -> views -> tokens -> kept tokens -> embeddings -> prefix -> cache -> answer.

Names are imported on first use, so that modules that need only torch work with any version of transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shirg.lavida.cache import PrefixCache
    from shirg.lavida.config import LavidaConfig
    from shirg.lavida.language import LanguageModel
    from shirg.lavida.model import Lavida
    from shirg.lavida.tower import SigLipVisionTower
    from shirg.lavida.vision import MODES, VisionFeatures

_HOMES = {
    "MODES": "vision",
    "LanguageModel": "language",
    "Lavida": "model",
    "LavidaConfig": "config",
    "PrefixCache": "cache",
    "SigLipVisionTower": "tower",
    "VisionFeatures": "vision",
}

__all__ = ["MODES", "LanguageModel", "Lavida", "LavidaConfig", "PrefixCache", "SigLipVisionTower", "VisionFeatures"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'shirg.lavida' has no attribute '{name}'")
    return getattr(importlib.import_module(f"shirg.lavida.{_HOMES[name]}"), name)
