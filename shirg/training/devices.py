"""Where a run computes, and in which precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from shirg.precision import Precision, choose_precision

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(
    mixed_precision: str, device: torch.device, *, trackers: Sequence[str] = (), log_folder: Path | None = None
) -> tuple[Accelerator, Precision]:
    """An `accelerate.Accelerator` for this run, and why it computes in the precision that it does.

    It takes the GPU if CUDA has one, and otherwise stays on the model's device: a Mac's GPU is used only by a model put
    there. Of several processes the first one's measurement decides.

    Args:
        mixed_precision: one of `shirg.precision.MIXED_PRECISIONS`.
        device: where the model is now.
        trackers: names of accelerate's trackers to log to.
        log_folder: for those that write files.
    """
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration, broadcast_object_list

    on_cpu = device.type == "cpu" and not torch.cuda.is_available()
    # accelerate keeps the first precision of a process for good; a notebook may train twice (transformers' Trainer does
    # the same).
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=on_cpu)
    chosen = [choose_precision(mixed_precision, device if on_cpu or device.type != "cpu" else "cuda")]
    precision = broadcast_object_list(chosen)[0]
    place = ProjectConfiguration(logging_dir=str(log_folder)) if trackers else None
    accelerator = Accelerator(
        mixed_precision=precision.mixed, cpu=on_cpu, log_with=list(trackers) or None, project_config=place
    )
    return accelerator, precision
