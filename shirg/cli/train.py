"""`shirg train`: train one LoRA adapter for every budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from tyro.conf import arg

from shirg.cli import config_file
from shirg.cli.flags import GateFlags, TrainingFlags
from shirg.cli.processes import Processes
from shirg.cli.runner import run_command
from shirg.settings import settings_of
from shirg.training.config import BodySettings, SHIRGLoRAConfig, TrainingSettings

if TYPE_CHECKING:
    from shirg.lavida import Lavida


@dataclasses.dataclass(kw_only=True)
class Flags(TrainingFlags, GateFlags, BodySettings):
    """Train one LoRA on the projector, with a token budget drawn at every optimizer step, so that it serves all budgets."""

    prepared_dir: Annotated[Path, arg(metavar="DIR")] = Path("./shirg_data")
    """Folder written by `shirg prepare`."""

    output_dir: Path = Path("./shirg_lora_output")
    """Gets `checkpoints/` with `best_model/`, and `logs/`."""


def training_config(flags: TrainingFlags, model: str, folder: Path) -> SHIRGLoRAConfig:
    """The flags as the library's configuration, for the base model `model`.

    Raises:
        UserError: for a value that cannot be trained with.
    """
    from shirg.training.logs import TRACKERS

    return SHIRGLoRAConfig(
        **settings_of(TrainingSettings, flags),
        **(settings_of(BodySettings, flags) if isinstance(flags, BodySettings) else {}),
        gradient_accumulation_steps=flags.accumulation_steps if flags.grad_accumulation else 1,
        trackers=[name for name in TRACKERS if getattr(flags, name)],
        base_model=model,
        output_dir=str(folder),
    )


def resumed_from(folder: Path) -> Path | None:
    """The checkpoint in an output folder that --resume continues from. Loading it sets the vision settings that no
    flag sets; the trainer compares those that a flag does set."""
    from shirg.training.checkpoints import find_latest

    return find_latest(folder / "checkpoints")


def train(flags: TrainingFlags, config: SHIRGLoRAConfig, model: Lavida, prepared: Path) -> dict[str, Any]:
    """Train `model` on a prepared folder; returns the trainer's results. Its settings are written to the output folder
    when the run starts."""
    import torch

    from shirg.data.loader import build_loaders
    from shirg.training.trainer import SHIRGLoRATrainer

    workers = flags.loader_workers
    loaders = build_loaders(
        prepared,
        flags.batch_size,
        seed=flags.seed,
        augment=flags.enable_augmentation,
        num_workers=(2 if torch.cuda.is_available() else 0) if workers is None else workers,
        shapes=model.view_shapes(),
        views=("large", "tiles") if flags.include_pooled else ("large",),
    )
    folder = Path(config.output_dir)
    return SHIRGLoRATrainer(config, model).train(
        *loaders, on_start=lambda: config_file.write(flags, folder, resumed=config.resume)
    )


def command(flags: Flags) -> None:
    """Train, and print the path of the best adapter."""
    from rich.console import Console

    from shirg.cli.models import load_model

    config = training_config(flags, flags.model, flags.output_dir)
    with Processes.of_launcher().owning(flags.output_dir):
        latest = resumed_from(flags.output_dir) if flags.resume else None
        model = load_model(flags, latest)
        config.check_grid(model)
        train(flags, config, model, flags.prepared_dir)
    best = flags.output_dir / "checkpoints" / "best_model"
    Console(soft_wrap=True).print(f"best adapter: {best}", highlight=False)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
