"""The precision of a run.

A GPU has bfloat16 or float16 units. A CPU has instructions for bfloat16, which is then faster than float32, or it emulates them,
20 to 60 times slower. torch does not report which, so a matrix product is timed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional

logger = logging.getLogger(__name__)

MIXED_PRECISIONS = ("auto", "no", "bf16", "fp16")
"""Values of `--mixed-precision`; all but "auto" are accelerate's names."""

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

PROBE = (256, 512, 512)
"""Rows, inputs and outputs of the timed layer: 3 ms in float32 on two cores, 0.1 s in emulated bfloat16."""

WORTH_IT = 1.1
"""Smallest speedup for which bfloat16 is chosen; casting activations costs part of it."""


@dataclass(frozen=True)
class Precision:
    """The precision of a run and the reason for it."""

    mixed: str
    """"no" (the weights' own precision), "bf16" or "fp16"."""
    reason: str
    """For the first lines of a run: "float32: bfloat16 is 25x slower on this processor"."""

    @property
    def dtype(self) -> torch.dtype:
        """What matrix products of float32 weights are computed in."""
        return DTYPES[self.mixed]


@cache
def bfloat16_speedup() -> float:
    """Speed of a linear layer under bfloat16 autocast relative to float32 on this CPU; below 1 it is slower.

    The products of the forward and the backward pass are timed, since emulation slows the second more (10 and 70 times on a
    processor with AVX2). Timed once per process, with torch's current number of threads; draws no random numbers.
    """
    rows, inputs, outputs = PROBE
    values = torch.linspace(-1, 1, rows * inputs).view(rows, inputs)
    weight = torch.linspace(-1, 1, outputs * inputs).view(outputs, inputs)

    def products() -> None:
        functional.linear(values, weight) @ weight

    def rounded_products() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            products()

    with torch.no_grad():
        plain = _best_seconds(products, calls=6)
        rounded_products()  # loads the kernel
        once = _best_seconds(rounded_products, calls=1)  # enough if it is emulated, which is slow
        return plain / (once if once > 5 * plain else min(once, _best_seconds(rounded_products, calls=5)))


def _best_seconds(action: Callable[[], None], calls: int) -> float:
    best = float("inf")
    for _ in range(calls):
        began = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - began)
    return best


def choose_precision(asked: str, device: torch.device | str, *, trained_in_bfloat16: bool = False) -> Precision:
    """The precision to compute in on `device`.

    * A GPU: as asked; "auto" is bf16 if the GPU has it, else fp16.
    * A CPU: "no" and "bf16" as asked, the latter with a warning if it is slow; "auto" measures, and so does "fp16", which is
      for GPUs.
    * Other devices: as asked; "auto" is the weights' precision.

    Args:
        asked: one of `MIXED_PRECISIONS`.
        trained_in_bfloat16: whether the weights were; then fp16 has a warning, since activations may exceed its range.
    """
    found = _choose(asked, torch.device(device).type)
    if found.mixed == "fp16" and trained_in_bfloat16:
        logger.warning(
            "mixed_precision: fp16, but the weights were trained in bfloat16: activations above %s overflow. Take bf16 where the "
            "device has it, else no",
            f"{torch.finfo(torch.float16).max:,.0f}",
        )
    return found


def _choose(asked: str, kind: str) -> Precision:
    if asked == "no":
        return Precision("no", "the weights' own precision, as set")
    if kind == "cpu":
        return _choose_on_cpu(asked)
    if asked != "auto":
        return Precision(asked, f"{asked}, as set")
    if kind != "cuda":
        return Precision("no", f"the weights' own precision: nothing else is known to be faster on {kind}")
    mixed = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return Precision(mixed, f"{mixed}: what this GPU computes fastest in")


def _choose_on_cpu(asked: str) -> Precision:
    speedup = bfloat16_speedup()
    faster, slower = f"{speedup:.1f}x faster", f"{_rounded(1 / speedup)}x slower"
    if asked == "bf16":
        if speedup < 1 / WORTH_IT:
            logger.warning(
                "mixed_precision: bf16 as asked, but bfloat16 is %s than float32 on this processor; auto takes float32",
                slower,
            )
        return Precision("bf16", "bf16, as set")
    note = "; fp16 is for GPUs" if asked == "fp16" else ""
    if speedup > WORTH_IT:
        return Precision("bf16", f"bfloat16: {faster} than float32 on this processor{note}")
    reason = f"bfloat16 is {slower}" if speedup < 1 / WORTH_IT else "bfloat16 is no faster"
    return Precision("no", f"float32: {reason} on this processor{note}")


def _rounded(factor: float) -> str:
    return f"{factor:.0f}" if factor >= 10 else f"{factor:.1f}"
