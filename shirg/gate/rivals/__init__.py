"""Other static token selectors, written from their papers, behind the gate's own call.

Importing the package enters them into `shirg.gate.SELECTORS`. Each docstring names its source and says where it leaves
it: mostly because SigLIP has no class token, so that "attention" is what a token receives from all others, and because
the number of outputs is the budget to the token, where a paper adapts it or rounds it. All see the tower's raw tokens,
before the projector.
"""

from . import crops, diversity, merging, pooling

__all__ = ["crops", "diversity", "merging", "pooling"]
