"""The component test: runs every part of SHIRG once and prints which parts pass."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from shirg import ranges
from shirg.cli.checkup import Finding, adapter_reloads, table
from shirg.cli.flags import ModelFlags
from shirg.cli.runner import run_command

if TYPE_CHECKING:
    from shirg.data.pages import Page
    from shirg.lavida import Lavida

RECORDS = 8
"""Rendered records of the test training."""


@dataclasses.dataclass(kw_only=True)
class Flags(ModelFlags):
    """Test the gate, the tower, the projector, the adapter, one training step and one answer, in under a minute."""

    budget: Annotated[int, ranges.BUDGET] = 512
    """Visual tokens to keep."""


@dataclasses.dataclass
class Inputs:
    """Inputs of the checks: the model, a rendered page, and a temporary folder."""

    model: Lavida
    page: Page
    budget: int
    folder: Path
    load: Callable[[], Lavida]
    """Loads another copy of the model."""


def check_gate(given: Inputs) -> str:
    """The gate keeps exactly K of 2304 random tokens in raster order, one or more of every cluster, and adds the summary."""
    import torch

    from shirg.gate import ShirgGate

    tokens = torch.randn(1, 2304, 1152, generator=torch.Generator().manual_seed(0))
    began = time.perf_counter()
    kept = ShirgGate()(tokens, budget=given.budget, grid=(48, 48))
    milliseconds = 1e3 * (time.perf_counter() - began)
    _require(kept.tokens.shape == (1, given.budget + 1, 1152), f"tokens have shape {tuple(kept.tokens.shape)}")
    _require(bool((kept.indices.diff() > 0).all()), "indices do not ascend")
    _require(
        len(set(kept.clusters[0][kept.indices[0]].tolist())) == kept.clusters[0].unique().numel(),
        "a cluster has no kept token",
    )
    return f"{given.budget} of 2304 tokens kept, every cluster covered, first call {milliseconds:.0f} ms"


def check_tower(given: Inputs) -> str:
    """The tower returns 27x27 tokens for 384 pixels, and the grid of the resolution for the large view."""
    counts = {mode: given.model.image_features(given.page.image, mode).num_tokens for mode in ("lowres", "highres")}
    wanted = {
        "lowres": (given.model.tower.image_size // 14) ** 2,
        "highres": (given.model.vision.resolution // 14) ** 2,
    }
    _require(counts == wanted, f"tokens {counts}, expected {wanted}")
    sides = given.model.tower.image_size, given.model.vision.resolution
    return f"{counts['lowres']} tokens at {sides[0]} pixels, {counts['highres']} at {sides[1]}"


def check_projector(given: Inputs) -> str:
    """The projector maps the selection to finite embeddings of the language model's width."""
    embeds = given.model.encode_images([given.page.image], mode="shirg", budget=given.budget)[0]
    _require(embeds.shape == (given.budget + 1, given.model.config.hidden_size), f"shape {tuple(embeds.shape)}")
    _require(bool(embeds.isfinite().all()), "not finite")
    return f"{embeds.shape[0]} embeddings of width {embeds.shape[1]}"


def check_adapter(given: Inputs) -> str:
    """A new LoRA on both layers of the projector does not change the output."""
    from shirg.lavida.adapter import attach_lora, lora_parameters

    before = given.model.encode_images([given.page.image], mode="shirg", budget=given.budget)[0]
    attach_lora(given.model)
    try:
        after = given.model.encode_images([given.page.image], mode="shirg", budget=given.budget)[0]
        parameters = lora_parameters(given.model)
    finally:
        given.model.unload_adapter()
    _require(bool((before == after).all()), "a new adapter changes the output")
    return f"{sum(p.numel() for p in parameters.values()):,} trainable parameters on mm_projector.0 and .2"


def check_training(given: Inputs) -> str:
    """Prepare a few rendered records, train one epoch on them, and save the adapter."""
    from shirg.data.loader import build_loaders
    from shirg.data.preparation import SHIRGDatasetConfig, SHIRGDatasetProcessor
    from shirg.training.config import SHIRGLoRAConfig
    from shirg.training.trainer import SHIRGLoRATrainer

    data = SHIRGDatasetConfig(RECORDS, 0, given.folder / "data", validation_fraction=0.0, num_workers=0)
    prepared = SHIRGDatasetProcessor(data).prepare_full_dataset()
    config = SHIRGLoRAConfig(
        token_budgets=[given.budget],
        include_pooled=False,
        num_epochs=1,
        output_dir=str(given.folder),
        mixed_precision="no",
    )
    results = SHIRGLoRATrainer(config, given.model).train(*build_loaders(prepared, batch_size=4))
    loss = results["train_loss_last"]
    _require(math.isfinite(loss), f"loss is {loss}")
    return f"{results['steps']} steps over {RECORDS} rendered records, last loss {loss:.2f}"


def check_reload(given: Inputs) -> str:
    """The saved adapter gives the same embeddings with a newly loaded base model."""
    folder = given.folder / "checkpoints" / "best_model"
    found = adapter_reloads(given.model, given.load, folder, given.page.image, [given.budget])
    given.model.unload_adapter()
    _require(found.good is True, found.found)
    return found.found


def check_answer(given: Inputs) -> str:
    """The model returns an answer, which may be wrong."""
    asked = given.page.questions[0]
    text = given.model.answer(given.page.image, asked.question, budget=given.budget)
    return f"{asked.question} answered {text!r}, the page has {asked.answers[0]!r}"


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


CHECKS: dict[str, Callable[[Inputs], str]] = {
    "gate": check_gate,
    "tower": check_tower,
    "projector": check_projector,
    "adapter": check_adapter,
    "training step": check_training,
    "save and load": check_reload,
    "answer": check_answer,
}


def command(flags: Flags) -> None:
    """Run every check, print the table, and exit with 1 if one failed."""
    from rich.console import Console

    from shirg.cli.models import load_model
    from shirg.data.render import render_page
    from shirg.lavida.vision import check_budget

    model = load_model(flags)
    check_budget(flags.budget, (model.vision.resolution // model.tower.patch_size) ** 2)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        given = Inputs(
            model,
            render_page("receipt", 0, text_px=(18.0, 24.0)),
            flags.budget,
            Path(folder),
            lambda: load_model(flags),
        )
        for name, check in CHECKS.items():
            began = time.perf_counter()
            try:
                good, what = True, check(given)
            except Exception as error:  # every failure is a row of the table
                if flags.debug:
                    raise
                good, what = False, f"{type(error).__name__}: {error}"
            found.append(Finding(name, good, f"{what} ({time.perf_counter() - began:.1f} s)"))
    Console().print(table("SHIRG component test", found))
    passed = sum(finding.good is True for finding in found)
    print(f"{passed} passed, {len(found) - passed} failed")
    if passed < len(found):
        raise SystemExit(1)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
