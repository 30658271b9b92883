"""Checkpoints, written atomically: an adapter folder, the optimizer's moments, and the state of the run."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shirg.errors import UserError
from shirg.files import atomic_path, json_line, read_lines, remove_folder, write_json, write_text
from shirg.identity import check_same_run
from shirg.lavida.adapter import ADAPTER_FILES, SETTINGS_FILE, lora_parameters, write_adapter
from shirg.lavida.settings import FIELDS

if TYPE_CHECKING:
    from shirg.lavida import Lavida

logger = logging.getLogger(__name__)

STATE_FILE = "training_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
BEST = "best_model"
NAME = re.compile(r"checkpoint-(\d+)")


@dataclass
class RunState:
    """The state of a run between two optimizer steps. Order, components, rates and noise all follow from `step`."""

    step: int = 0
    """Optimizer steps done, those that fp16 skipped for an overflow included."""
    updates: int = 0
    """Optimizer steps that changed the weights."""
    tokens: int = 0
    """Language-model tokens processed in training, on all processes."""
    seconds: float = 0.0
    """Wall time spent in training steps, over all sessions."""
    validated_step: int = -1
    """Step of the last complete validation."""
    start: dict[str, float] = field(default_factory=dict)
    """Validation loss of the answers' tokens by component before the first step; empty in runs of earlier versions."""
    best_step: int | None = None
    """Step of the adapter that is kept as the best."""
    best_loss: float | None = None
    """Its validation loss, the mean over the components: of the answers' tokens, without `start` of all targets."""
    best_relative: float | None = None
    """Its mean over the components of the loss relative to `start`, by which it was chosen; None without `start`."""
    drawn: dict[str, int] = field(default_factory=dict)
    """Optimizer steps per component."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Records left out because their image cannot be opened, their question cannot be asked or they are longer than the
    model, and why."""
    cut: list[str] = field(default_factory=list)
    """Records whose answer is longer than the answer block."""
    scaler: dict[str, float] | None = None
    """State of fp16's gradient scaler."""


def save_checkpoint(
    folder: Path,
    model: Lavida,
    optimizer: torch.optim.Optimizer,
    state: RunState,
    *,
    settings: dict[str, Any],
    run: dict[str, Any],
) -> Path:
    """Write `folder`/checkpoint-STEP, atomically. Returns its path.

    Args:
        folder: the run's `checkpoints` folder.
        model: with its adapter.
        optimizer: AdamW over the adapter's tensors.
        state: of the run.
        settings: for the adapter's card; see `write_adapter`.
        run: what a resumed run must share (`check_same_run`).

    Raises:
        UserError: if the disk is full or the folder not writable; earlier checkpoints are still there.
    """
    from safetensors.torch import save_file

    target = folder / f"checkpoint-{state.step}"
    try:
        with atomic_path(target) as fresh:
            fresh.mkdir()
            write_adapter(model, fresh, {**model.adapter_settings(), **settings})
            save_file(_moments(model, optimizer), fresh / OPTIMIZER_FILE)
            write_json(fresh / STATE_FILE, {"state": dataclasses.asdict(state), "run": run})
    except OSError as error:
        raise UserError(f"output_dir: {target} cannot be written ({error.strerror or error})") from error
    return target


def save_best(folder: Path, model: Lavida, *, settings: dict[str, Any]) -> Path:
    """Write the adapter to `folder`/best_model, atomically; raises `UserError` as `save_checkpoint`
    does."""
    try:
        return model.save_adapter(folder / BEST, settings=settings)
    except OSError as error:
        raise UserError(f"output_dir: {folder / BEST} cannot be written ({error.strerror or error})") from error


def load_state(checkpoint: Path, *, run: dict[str, Any]) -> RunState:
    """The state of the run of `checkpoint`. What earlier versions did not store of the selection is taken from the adapter.

    Raises:
        OtherRunError: if that run had other settings, data or weights than `run`, naming the first that differs.
    """
    content, settings = (_read(checkpoint / name) for name in (STATE_FILE, SETTINGS_FILE))
    selection = {name: settings[name] for name in FIELDS if name in settings}
    check_same_run(checkpoint, selection | content["run"], run)
    return RunState(**content["state"])


def load_optimizer(checkpoint: Path, model: Lavida, optimizer: torch.optim.Optimizer) -> None:
    """Load AdamW's moments from `checkpoint` into an optimizer over the adapter's tensors."""
    from safetensors.torch import load_file

    for key, value in load_file(checkpoint / OPTIMIZER_FILE).items():
        name, moment = key.rsplit("|", 1)
        parameter = lora_parameters(model)[name]
        device = "cpu" if moment == "step" else parameter.device  # AdamW counts steps on the CPU
        optimizer.state[parameter][moment] = value.to(device)


def find_latest(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step, or None. Incomplete folders are skipped with a warning."""
    for checkpoint in reversed(all_checkpoints(folder)):
        missing = [name for name in (*ADAPTER_FILES, OPTIMIZER_FILE, STATE_FILE) if not (checkpoint / name).is_file()]
        if not missing:
            return checkpoint
        logger.warning("%s is incomplete (no %s) and is skipped", checkpoint, ", ".join(missing))
    return None


def stored_run(checkpoint: Path) -> dict[str, Any]:
    """The settings of the run that wrote a checkpoint."""
    return _read(checkpoint / STATE_FILE)["run"]


def all_checkpoints(folder: Path) -> list[Path]:
    """The folders checkpoint-STEP in `folder`, by step."""
    named = ((NAME.fullmatch(path.name), path) for path in folder.glob("checkpoint-*") if path.is_dir())
    return [path for _step, path in sorted((int(name[1]), path) for name, path in named if name is not None)]


def rotate(folder: Path, keep: int | None) -> None:
    """Delete the oldest checkpoints beyond `keep`; None keeps all. `best_model` is a copy of its own and never
    deleted."""
    if keep is None:
        return
    for checkpoint in all_checkpoints(folder)[:-keep]:
        remove_folder(checkpoint)


def set_aside(path: Path) -> None:
    """Rename what an earlier run left at `path` to the first free `path.old-1`, `.old-2`, ...: no file of it is
    lost."""
    if not path.exists():
        return
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(aside)
    logger.warning(
        "%s is from an earlier run and was renamed to %s; --resume (resume=True in Python) would have continued it",
        path,
        aside,
    )


def rewind(path: Path, step: int) -> None:
    """Drop the lines after `step` from a JSON Lines file whose values have one: a resumed run writes them again."""
    write_text(path, "".join(json_line(entry) for entry in read_lines(path) if entry["step"] <= step))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _moments(model: Lavida, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's tensors under "parameter|moment"; empty before the first step."""
    return {
        f"{name}|{moment}": value.detach().cpu().contiguous()
        for name, parameter in lora_parameters(model).items()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }
