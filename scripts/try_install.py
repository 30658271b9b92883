"""Try an installed shirg: python scripts/try_install.py minimal|whole

minimal: torch, numpy and Pillow are there; the gate works, and models of the official code can be wrapped.
whole: every module can be imported.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import sys

import shirg

NEEDS_EXTRA = ("shirg.integrations.lmms_eval", "shirg.integrations.lmms_task")
"""Modules that the extra `lmms` is for."""


def minimal() -> str:
    """The gate on random tokens, then pixels for an official model, and no more packages loaded than either needs."""
    import torch

    from shirg.gate import SELECTORS

    tokens, budget = torch.randn(1, 2304, 64), 512
    kept = shirg.ShirgGate(shirg.GateConfig())(tokens, budget=budget, grid=(48, 48))
    assert kept.tokens.shape == (1, budget + 1, 64)
    heavy = {"transformers", "peft", "accelerate", "datasets", "safetensors", "matplotlib", "tyro", "rich"}
    assert not (heavy | {"PIL"}) & set(sys.modules)

    from PIL import Image

    from shirg.integrations.llava import enable_shirg, pixels_for_shirg

    assert pixels_for_shirg([Image.new("L", (30, 20))]).shape == (1, 3, 672, 672) and callable(enable_shirg)
    assert not heavy & set(sys.modules)
    return f"the gate keeps {budget} of 2304 tokens, {len(SELECTORS)} selectors"


def whole() -> str:
    """Every module, and the version that the metadata tells."""
    names = [module.name for module in pkgutil.walk_packages(shirg.__path__, "shirg.")]
    names = [name for name in names if name not in NEEDS_EXTRA and not name.endswith(("__main__", "_in_place"))]
    for name in names:
        importlib.import_module(name)
    assert importlib.metadata.version("shirg") == shirg.__version__
    return f"{len(names)} modules"


if __name__ == "__main__":
    print(f"{shirg.__file__}: {minimal() if sys.argv[1] == 'minimal' else whole()}")
