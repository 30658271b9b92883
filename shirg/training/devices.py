"""Where a run computes, and in which precision."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


def make_accelerator(
    mixed_precision: str, device: torch.device, *, trackers: Sequence[str] = (), log_folder: Path | None = None
) -> Accelerator:
    """An `accelerate.Accelerator` for this run.

    It takes the GPU if CUDA has one, and otherwise stays on the model's device: a Mac's GPU is used only by a model put
    there. On a CPU, fp16 becomes bf16, which needs no gradient scaling and has kernels there.

    Args:
        mixed_precision: "no", "bf16" or "fp16".
        device: where the model is now.
        trackers: names of accelerate's trackers to log to.
        log_folder: for those that write files.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration

    on_cpu = device.type == "cpu" and not torch.cuda.is_available()
    if on_cpu and mixed_precision == "fp16":
        logger.warning("mixed_precision: fp16 is not for CPUs; using bf16")
        mixed_precision = "bf16"
    # accelerate keeps the first precision of a process for good; a notebook may train twice (transformers' Trainer does
    # the same).
    AcceleratorState._reset_state(reset_partial_state=True)
    place = ProjectConfiguration(logging_dir=str(log_folder)) if trackers else None
    return Accelerator(
        mixed_precision=mixed_precision, cpu=on_cpu, log_with=list(trackers) or None, project_config=place
    )
