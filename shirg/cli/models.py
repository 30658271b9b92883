"""Loading what the flags name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shirg.cli.flags import GateFlags, ModelFlags, SelectorFlags
from shirg.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from shirg.lavida import Lavida
    from shirg.lavida.settings import VisionSettings


def load_model(flags: ModelFlags, adapter: Path | None = None, *, as_stored: bool = False) -> Lavida:
    """The model of `flags`, with `adapter` if one is given, on the GPU where there is one.

    What the flags leave open the adapter decides, and what that leaves open the checkpoint.

    Its precision is `usual_dtype`, or on a processor that is slow in it float32.

    Args:
        as_stored: keep `usual_dtype` on any processor, for a model that is written again.

    Raises:
        UserError: if the model or adapter is missing, damaged, or one does not fit the other.
    """
    import torch

    from shirg.lavida import Lavida, checkpoint
    from shirg.lavida.adapter import warn_of_differences
    from shirg.lavida.config import read_config
    from shirg.lavida.upcast import suit_processor

    on_gpu = torch.cuda.is_available()
    with quiet_libraries():
        folder = checkpoint.resolve(flags.model, flags.revision)
        dtype = getattr(torch, usual_dtype(read_config(folder)))
        model = Lavida.from_pretrained(folder, device="cuda" if on_gpu else "cpu", dtype=dtype)
        if not as_stored:
            suit_processor(model)
        if adapter is not None:
            model.load_adapter(adapter)
        model.vision = _vision_settings(model.vision, flags)
        _load_text_tower(model, flags)
        if adapter is not None and model.adapter_vision is not None:
            warn_of_differences(model.vision, model.adapter_vision, adapter)
    return model


def _vision_settings(own: VisionSettings, flags: ModelFlags) -> VisionSettings:
    """`own`, the adapter's or the checkpoint's, with what the flags say."""
    from shirg.gate import GateConfig, ShirgGate

    gate = own.gate
    if isinstance(flags, GateFlags) and flags.preset is not None:
        gate = GateConfig.preset(flags.preset)
    if isinstance(flags, SelectorFlags) and flags.selector is not None:
        gate = dataclasses.replace(gate, selector=flags.selector)
        try:
            ShirgGate(gate)
        except ValueError as error:
            raise UserError(f"--selector: {error}") from error
    given = {
        "resolution": flags.image_resolution,
        "fit": flags.fit,
        "relevance": flags.relevance,
        "relevance_sign": flags.relevance_sign,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(own, gate=gate, **changes)


def usual_dtype(config: dict[str, Any]) -> str:
    """The precision in which a model computes here, by its `config.json`.

    A nano in float32, anything else in bfloat16: what official weights were trained in, and on a CPU the precision in which
    their files are mapped instead of copied, 17 GB for 8B parameters and not 34.
    """
    return "float32" if config.get("shirg", {}).get("nano") else "bfloat16"


def _load_text_tower(model: Lavida, flags: ModelFlags) -> None:
    """A text tower that the checkpoint or adapter asks for may be missing: not every vision path uses the question."""
    if flags.relevance == "siglip" and flags.text_tower is None:
        raise UserError(
            "--relevance siglip: needs --text-tower, the SigLIP checkpoint that the model's tower was made from"
        )
    if flags.text_tower is None:
        return
    if model.vision.relevance != "siglip":
        raise UserError(
            f"--text-tower: got {flags.text_tower}, but tokens are compared by relevance "
            f"{model.vision.relevance!r}, which needs none; add --relevance siglip"
        )
    model.load_text_tower(flags.text_tower)


def load_image(path: Path) -> Image.Image:
    """The page at `path`, upright and RGB.

    Raises:
        UserError: if it is missing, no image, damaged or too large.
    """
    from shirg.data.images import read_bytes
    from shirg.images import open_image

    return open_image(read_bytes(path), f"image {path}")


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """transformers' bars and notices are not about the user's run."""
    from transformers.utils import logging as chatter

    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()


def check_writable(folder: Path) -> None:
    """Make `folder` and try a small file in it, so that hours of work do not end at a closed door.

    Raises:
        UserError: if it cannot be made or written.
    """
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"shirg")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        if folder.is_file():
            raise UserError(f"--output-dir: {folder} is a file; give a folder, new or not") from error
        raise UserError(
            f"--output-dir: {folder} cannot be written ({error.strerror}); choose another folder"
        ) from error
