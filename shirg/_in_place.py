"""Makes `import shirg` use the checkout that contains this file, even if another release is installed.

The scripts in this folder import it when they run as files or with this folder on PYTHONPATH; no other module changes `sys.path`.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[1])

if sys.path[:1] != [_ROOT]:
    sys.path.insert(0, _ROOT)
