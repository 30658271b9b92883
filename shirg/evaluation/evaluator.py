"""Every vision path and budget over the benchmarks, without and with the adapter."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from shirg.data import Record, load_benchmark
from shirg.data.sources import Records
from shirg.errors import UserError
from shirg.evaluation.answering import Page, adapter_switched
from shirg.evaluation.config import SHIRGEvaluationConfig
from shirg.evaluation.efficiency import measure_efficiency
from shirg.evaluation.environment import describe_environment, describe_model
from shirg.evaluation.markdown import count
from shirg.evaluation.output import PREDICTIONS_FILE, write_outputs
from shirg.evaluation.sample import SamplePage
from shirg.evaluation.summary import breakdown, comparisons, scores, token_counts
from shirg.evaluation.tasks import Task, find_task, prompt
from shirg.evaluation.variants import Variant, list_variants
from shirg.lavida import Lavida, SigLipVisionTower
from shirg.lavida.adapter import has_adapter

__all__ = ["SHIRGEvaluationConfig", "SHIRGEvaluator"]

FORMAT = "shirg-evaluation-1"
"""Says how `evaluation_results.json` is laid out; a change of layout changes it."""

logger = logging.getLogger(__name__)


@dataclass
class _Progress:
    """What a run has gathered so far."""

    rows: list[dict] = field(default_factory=list)
    skipped: list[dict] = field(default_factory=list)
    sample: SamplePage | None = None


class SHIRGEvaluator:
    """Asks a model the questions of the benchmarks through every vision path and budget.

    Args:
        config: what to run; see the fields of `SHIRGEvaluationConfig`.
        model: with an adapter loaded, every variant is run without it ("before") and with it ("after").
        vision_tower: the model's own tower, `model.tower`, or None.

    Raises:
        UserError: for another tower than the model's own, which answers would not be read through.
    """

    def __init__(self, config: SHIRGEvaluationConfig, model: Lavida, vision_tower: SigLipVisionTower | None = None):
        if vision_tower is not None and vision_tower is not model.tower:
            raise UserError(
                f"vision_tower: got a {type(vision_tower).__name__} that is not the model's own; "
                "pass model.tower, or leave it out"
            )
        self.config = config
        self.model = model
        self.settings = config.resolved(model)
        self.decoding = config.decoding(model)
        self.variants = list_variants(
            self.settings["modes"], self.settings["token_budgets"], with_adapter=has_adapter(model)
        )

    def run_evaluation(self) -> dict:
        """Run everything and write it to `config.output_dir`.

        Writes `predictions.jsonl` line by line as answers come, so that an interrupted run leaves them, then
        `detailed_results.json`, `evaluation_results.json`, `evaluation_report.md` and `figures/`.

        Returns:
            The content of `evaluation_results.json`.

        Raises:
            UserError: if a benchmark cannot be had, no page of any of them can be read, or the folder cannot be
            written.
        """
        started = time.perf_counter()
        benchmarks = {name: self._load(name) for name in self.settings["datasets"]}
        progress = _Progress()
        for name, records in benchmarks.items():
            progress.skipped += _rejected(name, records)
        with _evaluating(self.model), _prediction_file(Path(self.config.output_dir)) as sink:
            for row in self._rows(benchmarks, progress):
                progress.rows.append(row)
                sink.write(json.dumps(row, ensure_ascii=False) + "\n")
                sink.flush()
            if progress.sample is None:
                reason = progress.skipped[0]["reason"] if progress.skipped else "no records"
                raise UserError(f"datasets: nothing to ask in {', '.join(benchmarks)}; the first reason: {reason}")
            efficiency = self._efficiency(progress.sample)
        results = self._results(benchmarks, progress, efficiency, seconds=time.perf_counter() - started)
        write_outputs(Path(self.config.output_dir), results, progress.rows, self.model, progress.sample)
        return results

    def _load(self, name: str) -> Records:
        records = load_benchmark(name, self.config.data_dir, self.config.sample_size, self.config.seed)
        logger.info("%s: %s", name, count(len(records), "question"))
        return records

    def _rows(self, benchmarks: dict[str, Records], progress: _Progress) -> Iterator[dict]:
        total = sum(map(len, benchmarks.values())) * len(self.variants)
        with _progress_bar(total) as advance:
            for name, records in benchmarks.items():
                task = find_task(name)
                for page_records in _by_page(records):
                    for row in self._page_rows(task, page_records, progress):
                        advance(name, 1)
                        yield row

    def _page_rows(self, task: Task, records: Sequence[Record], progress: _Progress) -> Iterator[dict]:
        """One row for each variant and question of one page; a page or question that cannot be used is listed."""
        try:
            image = records[0].open_image()
        except UserError as error:
            progress.skipped += [_skipped(task, record, error) for record in records]
            return
        prompts: list[tuple[Record, str]] = []
        for record in records:
            try:
                text = prompt(task, record.question, self.settings["prompt_suffix"])
                self.model.prompt_ids(text)
                prompts.append((record, text))
            except UserError as error:
                progress.skipped.append(_skipped(task, record, error))
        if prompts and progress.sample is None:
            progress.sample = SamplePage(image, *prompts[0])
        page = Page(self.model, image)
        for variant in self.variants:
            with adapter_switched(self.model, variant.adapter):
                answers = page.answers(variant, [text for _, text in prompts], self.decoding)
                for (record, _), (prediction, tokens) in zip(prompts, answers, strict=True):
                    yield _row(task, record, variant, prediction, tokens, self.model.resolution)

    def _efficiency(self, sample: SamplePage) -> dict | None:
        if not self.config.efficiency_repeats:
            return None
        measured = [variant for variant in self.variants if not variant.adapter]
        return measure_efficiency(
            self.model, sample.image, sample.prompt, measured, self.decoding, self.config.efficiency_repeats
        ) | {"record": sample.record.id}

    def _results(
        self, benchmarks: dict[str, Records], progress: _Progress, efficiency: dict | None, seconds: float
    ) -> dict:
        return {
            "format": FORMAT,
            "config": self.settings,
            "model": describe_model(self.model),
            "environment": describe_environment(self.model),
            "datasets": [_describe(find_task(name), records, progress) for name, records in benchmarks.items()],
            "variants": [variant.as_dict() for variant in self.variants],
            "tokens": token_counts(progress.rows),
            "scores": scores(progress.rows, self.config.seed),
            "comparisons": comparisons(progress.rows, self.variants, self.config.seed),
            "breakdown": breakdown(progress.rows, self.config.seed),
            "efficiency": efficiency,
            "skipped": progress.skipped,
            "seconds": round(seconds, 1),
        }


def _row(task: Task, record: Record, variant: Variant, prediction: str, tokens: int, resolution: int) -> dict:
    marks = {name: metric(prediction, record.answers) for name, metric in task.metrics.items()}
    return {
        "dataset": task.name,
        "id": record.id,
        "image_id": record.image_id,
        "question": record.question,
        "answers": list(record.answers),
        "kind": record.kind,
        "text_px": round(record.text_px * resolution / record.height, 2),  # as the tower sees it, page stretched
        **variant.as_dict(),
        "tokens": tokens,
        "prediction": prediction,
        "score": marks[task.metric],
        "scores": marks,
    }


def _skipped(task: Task, record: Record, error: UserError) -> dict:
    return {"dataset": task.name, "id": record.id, "questions": 1, "reason": str(error)}


def _rejected(dataset: str, records: Records) -> list[dict]:
    """What the reader of the data set could not use."""
    return [
        {"dataset": dataset, "id": entry.item, "questions": entry.records, "reason": entry.reason}
        for entry in records.rejected
    ]


def _describe(task: Task, records: Records, progress: _Progress) -> dict:
    answered = {row["id"] for row in progress.rows if row["dataset"] == task.name}
    skipped = [entry for entry in progress.skipped if entry["dataset"] == task.name]
    return {
        "name": task.name,
        "metric": task.metric,
        "note": "; ".join(filter(None, (task.note, records.note))),
        "questions": len(answered),
        "pages": len({record.image_id for record in records if record.id in answered}),
        "skipped": sum(entry["questions"] for entry in skipped),
        "sources": sorted({record.source for record in records}),
        "licences": sorted({record.licence for record in records}),
    }


def _by_page(records: Sequence[Record]) -> list[list[Record]]:
    """Records of one image together, pages in order of first appearance, so that the tower sees each page once."""
    pages: dict[str, list[Record]] = {}
    for record in records:
        pages.setdefault(record.image_id, []).append(record)
    return list(pages.values())


@contextmanager
def _evaluating(model: Lavida) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _prediction_file(folder: Path) -> Iterator[IO[str]]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sink = open(folder / PREDICTIONS_FILE, "w", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(f"output_dir: {folder} cannot be written ({error.strerror}); choose another folder") from error
    with sink:
        yield sink


@contextmanager
def _progress_bar(total: int):
    """A bar on standard error; yields a function that names the benchmark and advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("evaluating", total=total)
        yield lambda name, count: bar.update(task, description=f"evaluating {name}", advance=count)
