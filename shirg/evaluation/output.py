"""What an evaluation leaves in its folder."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from shirg.errors import UserError
from shirg.evaluation.answering import Page
from shirg.evaluation.card import run_card
from shirg.evaluation.figures import accuracy_figure, kv_figure
from shirg.evaluation.kept_picture import draw_kept, save_picture
from shirg.evaluation.report import evaluation_report
from shirg.evaluation.sample import SamplePage
from shirg.evaluation.variants import Variant
from shirg.files import write_json, write_text
from shirg.lavida import Lavida

RESULTS_FILE = "evaluation_results.json"
DETAILS_FILE = "detailed_results.json"
PREDICTIONS_FILE = "predictions.jsonl"
REPORT_FILE = "evaluation_report.md"
CARD_FILE = "run_card.md"
FIGURES = "figures"
EVERYTHING = (PREDICTIONS_FILE, RESULTS_FILE, DETAILS_FILE, REPORT_FILE, CARD_FILE, FIGURES)

logger = logging.getLogger(__name__)


def set_aside(folder: Path, names: Sequence[str | Path] = EVERYTHING) -> None:
    """Move what an earlier run left of `names` into the first free of `old-1`, `old-2`, ... in the folder, and say so.

    Raises:
        UserError: if the folder cannot be written.
    """
    present = [Path(name) for name in names if (folder / name).exists()]
    if not present:
        return
    try:
        aside = _new_folder(folder)
        for name in present:
            (folder / name).rename(aside / name.name)
    except OSError as error:
        raise UserError(f"output_dir: {folder} cannot be written ({error.strerror}); choose another folder") from error
    logger.info("%s holds an earlier evaluation (--resume would have gone on with it): moved to %s", folder, aside)


def _new_folder(folder: Path) -> Path:
    """Made by this call and no other, as several processes may look for a free name at once."""
    for number in itertools.count(1):
        aside = folder / f"old-{number}"
        try:
            aside.mkdir()
        except FileExistsError:
            continue
        return aside
    raise AssertionError("numbers do not end")


def write_outputs(folder: Path, results: dict, rows: Sequence[dict], model: Lavida, sample: SamplePage) -> None:
    """Write results, details, figures and report, each file complete or not at all.

    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    try:
        write_json(folder / DETAILS_FILE, {"predictions": list(rows), "skipped": results["skipped"]})
        write_json(folder / RESULTS_FILE, results)
        _draw(folder / FIGURES, results, rows, model, sample)
        write_text(folder / REPORT_FILE, evaluation_report(results))
        write_text(folder / CARD_FILE, run_card(results))
    except OSError as error:
        raise UserError(f"output_dir: {folder} cannot be written ({error.strerror or error})") from error


def _draw(folder: Path, results: dict, rows: Sequence[dict], model: Lavida, sample: SamplePage) -> None:
    accuracy_figure(folder / "accuracy_against_tokens.png", results)
    if results["efficiency"]:
        kv_figure(folder / "kv_cache.png", results["efficiency"])
    chosen = drawn_variant(results)
    if chosen is not None:
        answer = next(
            row["prediction"] for row in rows if (row["id"], row["variant"]) == (sample.record.id, chosen.name)
        )
        draw_selection(folder / "kept_patches.png", model, sample, chosen, answer)


def drawn_variant(results: dict) -> Variant | None:
    """The selection that is drawn: `shirg` at the middle budget, in its most trained state; None if it was not run."""
    run = [variant for variant in results["variants"] if variant["mode"] == "shirg"]
    if not run:
        return None
    adapter = any(variant["adapter"] for variant in run)
    budgets = sorted({variant["budget"] for variant in run})
    return Variant("shirg", budgets[len(budgets) // 2], adapter)


@torch.no_grad()
def draw_selection(path: Path, model: Lavida, sample: SamplePage, variant: Variant, answer: str) -> None:
    """Draw what `variant` keeps of the sample page, with question, answer and truth below it."""
    features = Page(model, sample.image).features(variant)
    kept = model.select(features, variant.budget, model.question_ids(model.prompt_ids(sample.prompt)))
    record = sample.record
    truth = " / ".join(dict.fromkeys(record.answers))
    notes = [f"{name}: {text}" for name, text in (("Question", record.question), ("Answer", answer), ("Truth", truth))]
    save_picture(path, draw_kept(sample.image, kept, features.grid, fit=model.fit, notes=notes))
