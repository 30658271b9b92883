"""Makes the checkout that holds this file the one that runs, even where an older release is installed.

Imported by the faces only when they run as scripts or with this folder on PYTHONPATH; nothing else touches `sys.path`.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[1])

if sys.path[:1] != [_ROOT]:
    sys.path.insert(0, _ROOT)
