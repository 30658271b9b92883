"""Static token selectors of others, written from their papers, with the same interface as SHIRG's own.

Importing the package registers them in `shirg.gate.SELECTORS`. Each docstring names its source and, under "Ours", the
differences from it. Two are common: SigLIP has no class token, so "attention" is what a token receives from all others; and the
number of outputs is exactly the budget, which some papers adapt or round. All receive the tower's raw tokens, before the
projector.
"""

from . import crops, diversity, merging, pooling

__all__ = ["crops", "diversity", "merging", "pooling"]
