"""What an evaluation leaves in its folder."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from shirg.errors import UserError
from shirg.evaluation.answering import Page
from shirg.evaluation.asking import Survey
from shirg.evaluation.card import run_card
from shirg.evaluation.failures import headline
from shirg.evaluation.figures import accuracy_figure, kv_figure, latency_figure
from shirg.evaluation.kept_picture import draw_kept, draw_patches, enlarged_page, save_picture
from shirg.evaluation.page import evaluation_page
from shirg.evaluation.report import evaluation_report
from shirg.evaluation.report_details import example_picture
from shirg.evaluation.sample import SamplePage
from shirg.evaluation.variants import Variant
from shirg.files import atomic_path, write_json, write_text
from shirg.gate import Kept
from shirg.lavida import Lavida, VisionFeatures

RESULTS_FILE = "evaluation_results.json"
DETAILS_FILE = "detailed_results.json"
PREDICTIONS_FILE = "predictions.jsonl"
REPORT_FILE = "evaluation_report.md"
PAGE_FILE = "evaluation_report.html"
CARD_FILE = "run_card.md"
FIGURES = "figures"
EVERYTHING = (PREDICTIONS_FILE, RESULTS_FILE, DETAILS_FILE, REPORT_FILE, PAGE_FILE, CARD_FILE, FIGURES)
SMALL = 760
"""Pixels across a page in the list of examples."""

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


def write_outputs(
    folder: Path,
    results: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    model: Lavida,
    sample: SamplePage,
    survey: Survey,
) -> None:
    """Write results, details, figures and reports, each file complete or not at all.

    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    try:
        write_json(folder / DETAILS_FILE, {"predictions": list(rows), "skipped": results["skipped"]})
        write_json(folder / RESULTS_FILE, results)
        logger.info("drawing pages and writing the report to %s", folder)
        shown = headline([Variant(entry["mode"], entry["budget"], entry["adapter"]) for entry in results["variants"]])
        if shown is not None:
            _draw_pages(folder / FIGURES, results, rows, PagePainter(model, shown), sample, survey)
        write_reports(folder, results)
        write_text(folder / CARD_FILE, run_card(results))
    except OSError as error:
        raise UserError(f"output_dir: {folder} cannot be written ({error.strerror or error})") from error


def write_reports(folder: Path, results: dict[str, Any]) -> None:
    """Write the charts and both reports from the content of `evaluation_results.json`; pictures of pages are there already.

    Raises:
        OSError: if the folder cannot be written or the disk is full.
    """
    accuracy_figure(folder / FIGURES / "accuracy_against_tokens.png", results)
    if results["efficiency"]:
        latency_figure(folder / FIGURES / "latency.png", results["efficiency"])
        kv_figure(folder / FIGURES / "kv_cache.png", results["efficiency"])
    write_text(folder / REPORT_FILE, evaluation_report(results))
    write_text(folder / PAGE_FILE, evaluation_page(results, folder / FIGURES))


def _draw_pages(
    folder: Path,
    results: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    painter: PagePainter,
    sample: SamplePage,
    survey: Survey,
) -> None:
    """The sample page, and the pages of the worst losses and best wins."""
    said = {row["id"]: row["prediction"] for row in rows if row["variant"] == painter.variant.name}
    painter.paint(folder / "kept_patches.png", sample, said[sample.record.id])
    shown = results["examples"]
    if shown is None:
        return
    asked = {(page.task.name, record.id): (record, text) for page in survey.pages for record, text in page.prompts}
    for kind in ("losses", "wins"):
        for number, example in enumerate(shown[kind]):
            record, text = asked[example["dataset"], example["id"]]
            page = SamplePage(record.open_image(), record, text)
            painter.paint_small(folder / example_picture(kind, number), page)


@dataclass
class PagePainter:
    """Draws what one variant keeps of pages, which go through the tower once however many questions are shown of them."""

    model: Lavida
    variant: Variant
    _features: dict[str, VisionFeatures] = field(default_factory=dict)

    def paint(self, path: Path, page: SamplePage, answer: str) -> None:
        """The page with its question, the answer to it and the truth below."""
        record = page.record
        truth = " / ".join(dict.fromkeys(record.answers))
        notes = [f"Question: {record.question}", f"Answer: {answer}", f"Truth: {truth}"]
        kept, grid = self._kept(page)
        save_picture(path, draw_kept(page.image, kept, grid, fit=self.model.vision.fit, notes=notes))

    def paint_small(self, path: Path, page: SamplePage) -> None:
        """The page alone, small enough for a report of twenty."""
        kept, grid = self._kept(page)
        picture = draw_patches(enlarged_page(page.image, self.model.vision.fit, SMALL, SMALL // 2), kept, grid)
        with atomic_path(path) as fresh:
            picture.save(fresh, "JPEG", quality=80)

    @torch.no_grad()
    def _kept(self, page: SamplePage) -> tuple[Kept, tuple[int, int]]:
        model, name = self.model, page.record.image_id
        if name not in self._features:
            self._features[name] = Page(model, page.image).features(self.variant)
        features = self._features[name]
        budget = self.variant.budget
        assert budget is not None, "only a selection keeps some patches"
        return model.select(features, budget, model.question_ids(model.prompt_ids(page.prompt))), features.grid
