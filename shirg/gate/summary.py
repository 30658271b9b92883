"""The gate's output: kept tokens, and one summary token for those that were dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .selectors import Selection


def keep_tokens(tokens: Tensor, selection: Selection, summary: bool) -> Tensor:
    """The kept tokens, then the mean of the dropped ones (of all, if none was dropped): [B, K + 1, D].

    The sum of the dropped tokens is the sum of all minus the sum of the kept, in float32, so that dropped tokens are not read.

    Args:
        tokens: [B, N, D].
        selection: with `indices` [B, K].
        summary: False leaves the mean out: [B, K, D].
    """
    batch, count, width = tokens.shape
    indices = selection.indices
    assert indices is not None, "selectors that merge tokens are not gathered"
    budget = indices.shape[1]
    if summary:  # one extra row for the summary; cheaper than appending it later
        indices = torch.nn.functional.pad(indices, (0, 1))
    offsets = torch.arange(batch, device=tokens.device).unsqueeze(1) * count
    kept = tokens.flatten(0, 1).index_select(0, (indices + offsets).flatten()).view(batch, -1, width)
    if not summary:
        return kept
    total = selection.total
    if total is None or (tokens.requires_grad and torch.is_grad_enabled()):  # the selector's sum carries no gradient
        total = tokens.sum(dim=1, dtype=torch.float32)
    if budget < count:
        total = total - kept[:, :budget].sum(dim=1, dtype=torch.float32)
    kept[:, budget] = (total / (count - budget or count)).to(kept.dtype)
    return kept
