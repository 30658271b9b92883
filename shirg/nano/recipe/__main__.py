"""Make LaViDa-nano from nothing: python -m shirg.nano.recipe --work FOLDER [--hours 2]

Stages run one after another; after a stop, the same command resumes. Every stage has one schedule for its whole length, so the
hours are best planned at the start; additional hours go to the last stage that was started and to those after it. Two
single-threaded processes use two cores better than two threads do:
OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 -m shirg.nano.recipe --work FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
from pathlib import Path

import torch
import torch.distributed as dist

from shirg import ranges
from shirg.errors import UserError
from shirg.locks import folder_lock
from shirg.nano.recipe.export import export
from shirg.nano.recipe.reader import Reader, train_reader
from shirg.nano.recipe.stage import Stage, rank
from shirg.nano.recipe.tower import TowerLesson, train_tower
from shirg.precision import choose_precision
from shirg.process_group import shut_down_process_group

SEED = 1
SHARES = {"glyphs": 0.25, "look": 0.1, "together": 0.65}  # of the hours


def main() -> None:
    """Run every stage that is not finished, then write the checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m shirg.nano.recipe", description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder of the stages' weights and curves; reused when it exists"
    )
    parser.add_argument(
        "--hours", type=float, default=2.0, help="hours of training in all on this machine (default: 2)"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to train; one process has a GPU to itself"
    )
    parser.add_argument("--output", type=Path, help="folder of the finished checkpoint (default: WORK/nano)")
    arguments = parser.parse_args()
    if not ranges.HOURS.contains(arguments.hours):
        parser.error(f"--hours: got {arguments.hours:g}, must be {ranges.HOURS}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here; leave the flag out to train on the CPU")
    if arguments.device == "cuda" and dist.is_torchelastic_launched():
        parser.error("--device cuda: one process has the GPU to itself; start it without torchrun")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    try:
        # The first process owns the folder for all of them.
        with folder_lock(arguments.work, setting="--work") if rank() == 0 else contextlib.nullcontext():
            run(arguments.work, arguments.hours * 3600, arguments.device, arguments.output or arguments.work / "nano")
    except UserError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    finally:
        shut_down_process_group()


def run(work: Path, seconds: float, device: str, output: Path) -> None:
    """All stages, one after the other, and the checkpoint that the first process writes."""
    torch.manual_seed(SEED)
    reader = Reader().to(device)
    for train, stage in zip((glyphs, look, together), stages(work, seconds, precision(device)), strict=True):
        train(stage, reader)
    if rank() == 0:
        export(reader, output)


def precision(device: str) -> torch.dtype:
    """What this machine computes fast in, bfloat16 or float32, which need no scaling of gradients; the first process decides."""
    chosen = [choose_precision("auto", device)]
    if dist.is_initialized():
        dist.broadcast_object_list(chosen)
    mixed = chosen[0].mixed == "bf16"
    logging.info("precision %s", chosen[0].reason if mixed or chosen[0].mixed == "no" else "float32")
    return torch.bfloat16 if mixed else torch.float32


def stages(work: Path, seconds: float, dtype: torch.dtype = torch.float32) -> list[Stage]:
    """The stages of a recipe of that length. One whose successor has begun is over, whatever its share would be now: it would
    train weights that the successor's replace."""
    planned = [Stage(work / name, share * seconds, dtype) for name, share in SHARES.items()]
    for stage, following in itertools.pairwise(planned):
        if following.weights.exists():
            stage.seconds = stage.spent
    return planned


def glyphs(stage: Stage, reader: Reader) -> None:
    """The tower learns the characters on every patch."""
    train_tower(stage, TowerLesson(reader.tower, reader.glyph_heads), SEED)


def look(stage: Stage, reader: Reader) -> None:
    """Projector and language model learn to find answers in the tower's output; the tower is frozen."""
    train_reader(stage, reader, SEED, learn_tower=False, views={"page": 1.0}, guide=(1.0, 1.0))


def together(stage: Stage, reader: Reader) -> None:
    """Everything learns, on the views of LaViDa's own training, and the guidance fades."""
    views = {"page": 0.4, "tiles": 0.6}
    train_reader(stage, reader, SEED + 1, learn_tower=True, views=views, guide=(1.0, 0.0), matrix_lr=0.004)


if __name__ == "__main__":
    main()
