"""The files of an evaluation: write them, and recreate reports from the answers."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from shirg.bootstrap import UNDECIDED
from shirg.errors import UserError
from shirg.evaluation.answering import Page
from shirg.evaluation.figures import ACCURACY, accuracy_panels, charts, save_figure
from shirg.evaluation.kept_picture import draw_kept, draw_patches, enlarged_page, save_picture
from shirg.evaluation.page import embedded, page, svg
from shirg.evaluation.questions import QuestionSet, SamplePage
from shirg.evaluation.report import FIGURES, evaluation_report, example_picture, run_card
from shirg.evaluation.results import Answer, MetricGroup, Results, Summary, from_json, to_json
from shirg.evaluation.summary import headline, summarise
from shirg.evaluation.tasks import find_task
from shirg.evaluation.variants import Variant
from shirg.files import atomic_path, write_json, write_text
from shirg.gate import Kept
from shirg.lavida import Lavida, VisionFeatures

FORMAT = "shirg-evaluation-3"
"""Version of the layout of `evaluation_results.json` and `predictions.jsonl`."""
EARLIER_WORD = "not distinguishable"
"""What "undecided" was called in files that were written before `together` was."""

RESULTS_FILE = "evaluation_results.json"
DETAILS_FILE = "detailed_results.json"
PREDICTIONS_FILE = "predictions.jsonl"
REPORT_FILE = "evaluation_report.md"
PAGE_FILE = "evaluation_report.html"
CARD_FILE = "run_card.md"
EVERYTHING = (PREDICTIONS_FILE, RESULTS_FILE, DETAILS_FILE, REPORT_FILE, PAGE_FILE, CARD_FILE, FIGURES)
SMALL = 760
"""Pixels across a page in the list of examples."""

logger = logging.getLogger(__name__)


def set_aside(folder: Path, names: Sequence[str | Path] = EVERYTHING) -> None:
    """Move the files of an earlier run into the first free of `old-1`, `old-2`, ... in the folder, and log it.

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
    logger.info("%s holds an earlier evaluation (--resume would have continued it): moved to %s", folder, aside)


def _new_folder(folder: Path) -> Path:
    """The first free name, created atomically, since several processes may look for one."""
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
    results: Results,
    rows: Sequence[Answer],
    model: Lavida,
    sample: SamplePage,
    question_set: QuestionSet,
) -> None:
    """Write results, details, figures and reports, each file atomically.

    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    try:
        write_json(folder / DETAILS_FILE, to_json({"predictions": rows, "skipped": results.skipped}))
        write_json(folder / RESULTS_FILE, to_json(results))
        logger.info("drawing pages and writing the report to %s", folder)
        shown = headline(results.variants)
        if shown is not None:
            _draw_pages(folder / FIGURES, results, rows, PagePainter(model, shown), sample, question_set)
        write_reports(folder, results)
        write_text(folder / CARD_FILE, run_card(results))
    except OSError as error:
        raise UserError(f"output_dir: {folder} cannot be written ({error.strerror or error})") from error


def write_reports(folder: Path, results: Results) -> None:
    """Write the charts and the report, as Markdown and as a page; pictures of pages are there already.

    Raises:
        OSError: if the folder cannot be written or the disk is full.
    """
    drawn = charts(results)
    for name, figure in drawn.items():
        save_figure(figure, folder / FIGURES / name)
    report = evaluation_report(results)
    write_text(folder / REPORT_FILE, report)

    def picture(source: str) -> str:
        name = source.removeprefix(f"{FIGURES}/")
        if name == ACCURACY:
            return f'<div class="panels">{"".join(map(svg, accuracy_panels(results)))}</div>'
        return (
            f'<div class="wide" tabindex="0">{svg(drawn[name])}</div>' if name in drawn else embedded(folder / source)
        )

    write_text(folder / PAGE_FILE, page("SHIRG evaluation", report, picture))


def redo(folder: Path) -> Results:
    """Score the answers of `detailed_results.json` again, compare all that follows with `evaluation_results.json`, and write
    charts and reports again. Times and bytes cannot be measured again; they are taken from the file.

    Intervals have as many resamples as the file states. What earlier versions did not compute is computed from the answers; the
    file stays as it is.

    Returns:
        The results, with all that the answers give.

    Raises:
        UserError: if a file is missing or of another layout, or a score or summary is not what the answers give; the message
            names the first. Nothing is written then.
    """
    stored, details = (_read(folder / name) for name in (RESULTS_FILE, DETAILS_FILE))
    if stored.get("format") != FORMAT:
        raise UserError(f"{folder / RESULTS_FILE}: its format is {stored.get('format')!r}, must be {FORMAT}")
    for entry in (*stored["comparisons"], *stored["group_comparisons"]):
        if entry["verdict"] == EARLIER_WORD:
            entry["verdict"] = UNDECIDED
    try:
        results = from_json(Results, stored)
        rows = from_json(list[Answer], details["predictions"])
    except (TypeError, KeyError) as error:
        raise UserError(f"{folder}: its files are not complete ({error})") from error
    for row in rows:
        scores = find_task(row.dataset).scores(row.prediction, row.answers, row.kind)
        if scores != row.scores or row.score != next(iter(scores.values())):
            place = f"{row.dataset} {row.id} by {row.variant.name}"
            raise UserError(f"{folder / DETAILS_FILE}: {place} has scores {row.scores}, its answer gives {scores}")
    found = summarise(rows, results.variants, results.intervals)
    for one in fields(Summary):
        if not _contains(getattr(found, one.name), getattr(results, one.name)):
            raise UserError(f"{folder / RESULTS_FILE}: {one.name} is not what the answers of {DETAILS_FILE} give")
    results = replace(results, **vars(found))
    try:
        write_reports(folder, results)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return results


def _contains(found: Any, stored: Any) -> bool:
    """Whether `stored` is part of `found`: earlier versions compared fewer pairs."""
    if found == stored:
        return True
    if isinstance(found, list):
        return all(any(_contains(one, entry) for one in found) for entry in stored)
    if isinstance(found, MetricGroup):
        return replace(found, comparisons=stored.comparisons) == stored and _contains(
            found.comparisons, stored.comparisons
        )
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the folder of an evaluation") from error


def _draw_pages(
    folder: Path,
    results: Results,
    rows: Sequence[Answer],
    painter: PagePainter,
    sample: SamplePage,
    question_set: QuestionSet,
) -> None:
    """The sample page, and the pages of the worst losses and best wins."""
    answers = {row.id: row.prediction for row in rows if row.variant == painter.variant}
    painter.paint(folder / "kept_patches.png", sample, answers[sample.record.id])
    asked = {
        (page.task.name, record.id): (record, text) for page in question_set.pages for record, text in page.prompts
    }
    for kind, shown in results.examples.kinds().items() if results.examples else ():
        for number, example in enumerate(shown):
            record, text = asked[example.dataset, example.id]
            painter.paint_small(folder / example_picture(kind, number), SamplePage(record.open_image(), record, text))


@dataclass
class PagePainter:
    """Draws the patches that one variant keeps; each page is encoded once."""

    model: Lavida
    variant: Variant
    _features: dict[str, VisionFeatures] = field(default_factory=dict)

    def paint(self, path: Path, page: SamplePage, answer: str) -> None:
        """The page, with question, answer and accepted answers below."""
        record = page.record
        truth = " / ".join(dict.fromkeys(record.answers))
        notes = [f"Question: {record.question}", f"Answer: {answer}", f"Truth: {truth}"]
        kept, grid = self._kept(page)
        save_picture(path, draw_kept(page.image, kept, grid, fit=self.model.vision.fit, notes=notes))

    def paint_small(self, path: Path, page: SamplePage) -> None:
        """The page alone, small, for the list of examples."""
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
