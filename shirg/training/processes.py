"""How many processes were asked for, and whether that many came."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shirg.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

LAUNCHERS = {
    "WORLD_SIZE": "torchrun",
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
}
"""Environment variable that tells the number of processes -> who sets it."""

KINDS = ("NO", "MULTI_CPU", "MULTI_GPU")
"""Ways of accelerate to run that the trainer knows: alone, or a whole copy of the model per process."""


def check_processes(accelerator: Accelerator) -> None:
    """Raise `UserError` where a launcher was asked for more processes than take part in this run, or for a way to run that
    the trainer does not know.

    Processes that do not know of one another would each train alone and write over each other's checkpoints.
    """
    kind = accelerator.distributed_type.value
    if kind not in KINDS:
        raise UserError(
            f"distributed_type: {kind} shards the trained weights, which are less than a megabyte here; use MULTI_GPU, and"
            " --shard-body (shard_body) to divide the frozen ones"
        )
    wanted, launcher = wanted_processes(os.environ, parent_command())
    if wanted > accelerator.num_processes:
        script = "torchrun --nproc_per_node"
        raise UserError(
            f"processes: {launcher} was asked for {wanted}, but this run has {accelerator.num_processes}; use `{script}"
            f" {wanted} -m shirg train ...`, or under srun export RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
            " (configs/slurm)"
        )


def wanted_processes(environment: Mapping[str, str], parent: Sequence[str]) -> tuple[int, str]:
    """How many processes the launcher was asked for, 1 without one, and the launcher's name.

    Args:
        parent: the command line of the parent process. `accelerate launch --cpu --num_processes 2` starts one process and
            tells it nothing of the 2.
    """
    found = [(int(environment[name]), who) for name, who in LAUNCHERS.items() if environment.get(name, "").isdigit()]
    words = [word.replace("-", "_") for word in " ".join(parent).replace("=", " ").split()]
    if "launch" in words and "__num_processes" in words[:-1]:
        count = words[words.index("__num_processes") + 1]
        found += [(int(count), "accelerate launch")] if count.isdigit() else []
    return max(found, default=(1, ""))


def parent_command() -> list[str]:
    """The parent's command line; empty where the system does not tell."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")
    return []
