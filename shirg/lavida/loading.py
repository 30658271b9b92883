"""Loading a model for a run: device, precision, and vision settings from flags, adapter and checkpoint."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from shirg.errors import UserError
from shirg.gate import GateConfig, ShirgGate
from shirg.lavida import checkpoint
from shirg.lavida.adapter import warn_of_differences
from shirg.lavida.config import read_config
from shirg.lavida.model import Lavida
from shirg.lavida.upcast import upcast_if_faster


def load_model(
    name: str = "nano",
    adapter: Path | None = None,
    *,
    revision: str | None = None,
    resolution: int | None = None,
    fit: str | None = None,
    preset: str | None = None,
    selector: str | None = None,
    relevance: str | None = None,
    relevance_sign: int | None = None,
    text_tower: str | None = None,
    as_stored: bool = False,
) -> Lavida:
    """The model `name`, with `adapter` if one is given, on a GPU if there is one.

    A setting that is None is the adapter's, else the checkpoint's. The precision is `usual_dtype`, or float32 on a processor that
    is slow in it.

    Args:
        name: "nano", a folder in LaViDa's official layout, or an id on the Hugging Face hub.
        adapter: folder of a SHIRG adapter.
        revision: branch, tag or commit of a model on the hub.
        resolution: pixels per side of the large view.
        fit: "stretch" or "pad".
        preset: the gate's settings, one of `shirg.gate.config.PRESETS`.
        selector: a name in `shirg.gate.SELECTORS`.
        relevance: "llm", "siglip" or "none".
        relevance_sign: 1 or -1.
        text_tower: SigLIP checkpoint for relevance "siglip".
        as_stored: keep `usual_dtype` on every processor, for a model that will be saved.

    Raises:
        UserError: if the model or adapter is missing, damaged, or they do not match, or a setting is unknown.
    """
    with quiet_libraries():
        folder = checkpoint.resolve(name, revision)
        dtype = getattr(torch, usual_dtype(read_config(folder)))
        model = Lavida.from_pretrained(folder, device="cuda" if torch.cuda.is_available() else "cpu", dtype=dtype)
        if not as_stored:
            upcast_if_faster(model)
        if adapter is not None:
            model.load_adapter(adapter)
        given = {"resolution": resolution, "fit": fit, "relevance": relevance, "relevance_sign": relevance_sign}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        gate = _gate(model.vision.gate, preset, selector)
        model.vision = dataclasses.replace(model.vision, gate=gate, **changes)
        _load_text_tower(model, relevance, text_tower)
        if model.adapter_vision is not None:
            warn_of_differences(model.vision, model.adapter_vision, str(adapter))
    return model


def with_own_projector(model: Lavida) -> Lavida:
    """A model of the same modules but for a projector of its own, for another adapter."""
    twin = copy.copy(model)
    twin._modules = model._modules.copy()
    twin.mm_projector = copy.deepcopy(model.mm_projector).eval()
    return twin


def _gate(own: GateConfig, preset: str | None, selector: str | None) -> GateConfig:
    if preset is not None:
        try:
            own = GateConfig.preset(preset)
        except ValueError as error:
            raise UserError(f"preset: {error}") from error
    if selector is not None:
        own = dataclasses.replace(own, selector=selector)
        try:
            ShirgGate(own)
        except ValueError as error:
            raise UserError(f"selector: {error}") from error
    return own


def _load_text_tower(model: Lavida, relevance: str | None, text_tower: str | None) -> None:
    """Load the text tower. Checkpoint or adapter may have relevance "siglip" without one: not every path uses the question."""
    if relevance == "siglip" and text_tower is None:
        raise UserError(
            "relevance: siglip needs a text tower (--text-tower), the SigLIP checkpoint that the model's tower was made from"
        )
    if text_tower is None:
        return
    if model.vision.relevance != "siglip":
        raise UserError(
            f"text_tower: got {text_tower}, but tokens are compared by relevance {model.vision.relevance!r}, which needs "
            "none; ask for relevance siglip (--relevance siglip)"
        )
    model.load_text_tower(text_tower)


def usual_dtype(config: dict[str, Any]) -> str:
    """The default precision of a model, by its `config.json`: float32 for a nano, bfloat16 for others.

    Official weights were trained in bfloat16; on a CPU their files are then memory-mapped, 17 GB for 8B parameters.
    """
    return "float32" if config.get("shirg", {}).get("nano") else "bfloat16"


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without transformers' progress bars and notices."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
