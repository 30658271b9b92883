"""The learning rate as a function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math


def cosine_with_warmup(step: int, total_steps: int, peak: float, warmup_ratio: float) -> float:
    """Rate of optimizer step `step` (from 0): linear up to `peak`, then half a cosine that would reach 0 at
    `total_steps`.

    The first step's rate is above zero: with a rate of zero LoRA's B would stay zero, and so A's gradient.
    """
    warmup = math.ceil(warmup_ratio * total_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total_steps - warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
