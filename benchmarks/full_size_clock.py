"""How `full_size.py` measures: the clock, the memory it sees, and the floor beside every number."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

NO_CUDA = "not measured: no CUDA device"

SWEEP_BYTES = 2**28
"""Written between cold runs: several times the last-level cache of any card below (H100: 50 MB)."""


@dataclass(frozen=True)
class Card:
    """Published peaks of a card."""

    bytes_per_second: float
    """Of its memory."""
    flops: float
    """Of dense bfloat16 or float16 products with float32 sums, without sparsity."""


# NVIDIA's data sheets: "H100 Tensor Core GPU", "H200 Tensor Core GPU" and "A100 Tensor Core GPU". Where a sheet gives
# tensor performance with sparsity only (H100, H200), half of it. Names are those of `torch.cuda.get_device_name`.
CARDS = {
    "NVIDIA H200": Card(4.8e12, 989e12),
    "NVIDIA H100 80GB HBM3": Card(3.35e12, 989e12),
    "NVIDIA H100 PCIe": Card(2.0e12, 756e12),
    "NVIDIA A100-SXM4-80GB": Card(2.039e12, 312e12),
    "NVIDIA A100 80GB PCIe": Card(1.935e12, 312e12),
    "NVIDIA A100-SXM4-40GB": Card(1.555e12, 312e12),
}


def floor(device_name: str, moved: int, flops: int) -> dict:
    """The least there is to do, and how long that takes at the card's published peaks, whichever is longer.

    Args:
        device_name: a key of `CARDS`; for any other `ms` is None.
        moved: bytes that must be read or written at least once.
        flops: operations, counted as `shirg.lavida.costs` counts.
    """
    card = CARDS.get(device_name)
    seconds = None if card is None else max(moved / card.bytes_per_second, flops / card.flops)
    return {"bytes": moved, "flops": flops, "ms": None if seconds is None else round(seconds * 1e3, 5)}


class Clock:
    """Times calls on one device: by CUDA events where it is a GPU, by the wall clock elsewhere."""

    def __init__(self, device: torch.device):
        self.device = device
        self.cuda = device.type == "cuda"

    @property
    def kind(self) -> str:
        """What the times are by."""
        return "CUDA events" if self.cuda else "wall clock"

    @property
    def device_name(self) -> str:
        """As the driver gives it."""
        return torch.cuda.get_device_name(self.device) if self.cuda else self.device.type

    def time(self, call: Callable[[], object], *, warm_up: int, runs: int, cold: bool = False) -> dict:
        """Median and quartiles of `runs` calls in milliseconds, after `warm_up` that are not counted.

        Every run begins on an idle device, so that the launches of a call count as they do for whoever waits for it.

        Args:
            cold: sweep the device's cache before each run, for calls whose input would else lie in it from the last one.
        """
        for _ in range(warm_up):
            call()
        sweep = torch.empty(SWEEP_BYTES, dtype=torch.uint8, device=self.device) if cold and self.cuda else None
        times = []
        for _ in range(runs):
            if sweep is not None:
                sweep.zero_()
            self.wait()
            times.append(self._one(call))
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if runs > 1 else times * 3
        return {
            "median_ms": round(middle, 4),
            "quartiles_ms": [round(low, 4), round(high, 4)],
            "runs": runs,
            "warm_up": warm_up,
        }

    def _one(self, call: Callable[[], object]) -> float:
        if not self.cuda:
            began = time.perf_counter()
            call()
            return (time.perf_counter() - began) * 1e3
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def peak(self, call: Callable[[], object]) -> dict[str, int | str]:
        """Most bytes of tensors while `call` runs once, weights and all, and of what torch's allocator took for them."""
        if not self.cuda:
            call()
            return {"peak_bytes": NO_CUDA, "reserved_bytes": NO_CUDA}
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        self.wait()
        return {
            "peak_bytes": torch.cuda.max_memory_allocated(self.device),
            "reserved_bytes": torch.cuda.max_memory_reserved(self.device),
        }

    def wait(self) -> None:
        """Return when the device has nothing left to do."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def release(self) -> None:
        """Give memory that nothing refers to back to the device, so that one row's remains are no part of the next."""
        if self.cuda:
            gc.collect()
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
