"""Every vision path and budget over the benchmarks, without and with the adapter."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shirg import identity
from shirg.data import load_benchmark
from shirg.data.sources import Records
from shirg.data.workers import ordered_map
from shirg.errors import UserError
from shirg.evaluation.asking import Asker, PageQuestions, RowKey, Survey, row_key
from shirg.evaluation.bootstrap import LEVEL, RESAMPLES
from shirg.evaluation.config import SHIRGEvaluationConfig
from shirg.evaluation.efficiency import measure_efficiency
from shirg.evaluation.environment import describe_environment, describe_gate, describe_model
from shirg.evaluation.journal import Journal
from shirg.evaluation.markdown import count
from shirg.evaluation.output import PREDICTIONS_FILE, set_aside, write_outputs
from shirg.evaluation.sample import SamplePage
from shirg.evaluation.shards import merged_rows, shard_path, shard_settings
from shirg.evaluation.summary import summarise
from shirg.evaluation.tasks import find_task
from shirg.evaluation.variants import list_variants
from shirg.lavida import Lavida, SigLipVisionTower
from shirg.lavida.adapter import has_adapter
from shirg.locks import owned

__all__ = ["SHIRGEvaluationConfig", "SHIRGEvaluator"]

FORMAT = "shirg-evaluation-3"
"""Says how `evaluation_results.json` and `predictions.jsonl` are laid out; a change of layout changes it."""

ANSWERS_DEPEND_ON = (
    "datasets",
    "token_budgets",
    "modes",
    "sample_size",
    "seed",
    "max_new_tokens",
    "block_length",
    "step_ratio",
    "batch_size",
    "prompt_suffix",
)
"""Settings that answers of one run share, beside the model, the questions and the libraries."""

logger = logging.getLogger(__name__)


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
        self.variants = list_variants(
            self.settings["modes"], self.settings["token_budgets"], with_adapter=has_adapter(model)
        )
        self.asker = Asker(model, self.variants, config.decoding(model))
        self.folder = Path(config.output_dir)

    def run_evaluation(self) -> dict[str, Any]:
        """Run everything and write it to `config.output_dir`.

        Writes `predictions.jsonl` line by line as answers come, so that a stopped run goes on with `config.resume`, then
        `detailed_results.json`, `evaluation_results.json`, `evaluation_report.md` and `.html`, `run_card.md` and `figures/`.
        With `config.shard_index` only a share of the questions is asked, and written to `shards/`. A question that cannot be
        asked through a variant (`ItemError`) counts as one with an empty answer, and is listed as `unanswered`.

        Returns:
            The content of `evaluation_results.json`; of a share, how many `answers` it has, and in which `file`.

        Raises:
            UserError: if a benchmark cannot be had, no page of any of them can be read, the folder cannot be written or is
                being filled by another process, or what it holds was made with other settings.
        """
        index = self.config.shard_index
        with owned(self.folder, None if index is None else (index, self.config.num_shards)):
            return self._run()

    def _run(self) -> dict[str, Any]:
        started = time.perf_counter()
        survey = Survey.of(self.model, self._benchmarks(), self.settings["prompt_suffix"])
        if not survey.pages:
            raise UserError(_nothing_to_ask(survey))
        run = self.run_settings(survey)
        with _evaluating(self.model):
            if self.config.shard_index is not None:
                return self._run_shard(survey, run, self.config.shard_index)
            journal = self._journal(survey, run)
            before = len(journal.entries)
            self._ask(survey, journal)
            rows = survey.in_order(journal.entries, self.variants)
            sample = self._sample(survey, journal)
            efficiency = self._efficiency(sample)
        results = self._results(survey, rows, efficiency, run)
        results |= {"resumed_answers": before, "seconds": round(time.perf_counter() - started, 1)}
        write_outputs(self.folder, results, rows, self.model, sample, survey)
        return results

    def run_settings(self, survey: Survey) -> dict[str, Any]:
        """What answers must share to stand in one table, as plain values."""
        environment = describe_environment(self.model)
        return {
            "format": FORMAT,
            **{name: self.settings[name] for name in ANSWERS_DEPEND_ON},
            **identity.of_base(self.model),
            **identity.of_adapter(self.model),
            "questions": survey.fingerprint(),
            **{name: environment[name] for name in ("device", "shirg", "packages")},
        }

    # ------------------------------------------------------------------ questions and answers

    def _benchmarks(self) -> dict[str, Records]:
        found = {}
        for name in self.settings["datasets"]:
            found[name] = load_benchmark(name, self.config.data_dir, self.config.sample_size, self.config.seed)
            logger.info("%s: %s", name, count(len(found[name]), "question"))
        return found

    def _run_shard(self, survey: Survey, run: dict[str, Any], index: int) -> dict[str, Any]:
        number = self.config.num_shards
        path = shard_path(self.folder, index, number)
        if not self.config.resume:
            set_aside(self.folder, [path.relative_to(self.folder)])
        journal = self._open(path, shard_settings(run, index, number), identity.fingerprint(run))
        self._ask(survey.shard(index, number), journal)
        return {"num_shards": number, "shard_index": index, "answers": len(journal.entries), "file": str(path)}

    def _journal(self, survey: Survey, run: dict[str, Any]) -> Journal[RowKey]:
        """What there is already: of this run, or of all shares."""
        number = self.config.num_shards
        shares = merged_rows(self.folder, number, run, survey, self.asker) if number > 1 else []
        if shares or not self.config.resume:
            set_aside(self.folder)
        journal = self._open(self.folder / PREDICTIONS_FILE, run, identity.fingerprint(run))
        for row in shares:
            journal.add(row)
        return journal

    def _open(self, path: Path, settings: dict[str, Any], name: str) -> Journal[RowKey]:
        return Journal(path, settings, row_key, resume=self.config.resume, noun="answer", name=name)

    def _ask(self, survey: Survey, journal: Journal[RowKey]) -> None:
        """Ask what the journal lacks; pages that cannot be opened are listed as skipped."""
        total = sum(len(page.prompts) for page in survey.pages) * len(self.variants)
        pages = [page for page in survey.pages if self.asker.missing(page, journal.entries)]
        with progress_bar(total, len(journal.entries), shown=not self.config.shard_index) as advance:
            for page, rows in zip(pages, self._answered(pages, journal), strict=True):
                if isinstance(rows, UserError):
                    for record, _ in page.prompts:
                        survey.skip(page.task, record, rows)
                    continue
                for row in rows:
                    journal.add(row)
                    advance(f"evaluating {page.task.name}", 1)

    def _answered(
        self, pages: Sequence[PageQuestions], journal: Journal[RowKey]
    ) -> Iterator[Iterable[dict[str, Any]] | UserError]:
        """What each page's questions come to; in worker processes a page at a time, else as answers are drawn."""
        workers = self.config.workers_for(self.model)
        if workers < 2 or len(pages) < 2:
            yield from (self.asker.page_rows(page, journal.entries) for page in pages)
            return
        answer = partial(_finished_rows, self.asker, set(journal.entries))
        for found in ordered_map(answer, pages, min(workers, len(pages))):
            if isinstance(found, str):
                raise UserError(found)
            yield found

    def _sample(self, survey: Survey, journal: Journal[RowKey]) -> SamplePage:
        """The first page that was asked about, if possible by every variant."""
        asked = [page for page in survey.pages if next(page.keys(self.variants)) in journal.entries]
        if not asked:
            raise UserError(_nothing_to_ask(survey))
        whole = (
            page for page in asked if not any("unanswered" in journal.entries[key] for key in page.keys(self.variants))
        )
        page = next(whole, asked[0])
        return SamplePage(page.open_image(), *page.prompts[0])

    # ------------------------------------------------------------------ what it comes to

    def _efficiency(self, sample: SamplePage) -> dict[str, Any] | None:
        if not self.config.efficiency_repeats:
            return None
        measured = [variant for variant in self.variants if not variant.adapter]
        repeats = self.config.efficiency_repeats
        logger.info("timing %d variants on one page, each stage %d times", len(measured), repeats)
        with progress_bar(len(measured), 0, shown=True) as advance:
            found = measure_efficiency(
                self.model, sample.image, sample.prompt, measured, self.asker.decoding, repeats, advance
            )
        return found | {"record": sample.record.id} if found["rows"] else None

    def _results(
        self, survey: Survey, rows: list[dict[str, Any]], efficiency: dict[str, Any] | None, run: dict[str, Any]
    ) -> dict[str, Any]:
        seed = self.config.seed
        return {
            "format": FORMAT,
            "config": self.settings,
            "run": run,
            "fingerprint": identity.fingerprint(run),
            "model": describe_model(self.model),
            "gate": describe_gate(self.model.vision.gate),
            "environment": describe_environment(self.model),
            "intervals": {"resamples": RESAMPLES, "level": LEVEL, "seed": seed, "unit": "page"},
            "datasets": [_describe(name, survey, rows) for name in survey.benchmarks],
            "variants": [variant.as_dict() for variant in self.variants],
            **summarise(rows, self.variants, seed),
            "efficiency": efficiency,
            "skipped": survey.skipped,
            "unanswered": [
                {name: row[name] for name in ("dataset", "id", "variant")} | {"reason": row["unanswered"]}
                for row in rows
                if "unanswered" in row
            ],
        }


def _finished_rows(
    asker: Asker, answered: Container[RowKey], page: PageQuestions
) -> list[dict[str, Any]] | UserError | str:
    """In a worker process: the rows of a page, why it cannot be opened, or as text why it cannot be answered. An error that is
    raised would cross to the other process with its traceback in its message."""
    try:
        rows = asker.page_rows(page, answered)
        return rows if isinstance(rows, UserError) else list(rows)
    except UserError as error:
        return str(error)


def _nothing_to_ask(survey: Survey) -> str:
    reason = survey.skipped[0]["reason"] if survey.skipped else "no records"
    return f"datasets: nothing to ask in {', '.join(survey.benchmarks)}; the first reason: {reason}"


def _describe(name: str, survey: Survey, rows: list[dict[str, Any]]) -> dict[str, Any]:
    task, records = find_task(name), survey.benchmarks[name]
    answered = {row["id"] for row in rows if row["dataset"] == task.name}
    skipped = [entry for entry in survey.skipped if entry["dataset"] == task.name]
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


@contextmanager
def _evaluating(model: Lavida) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def progress_bar(total: int, done: int, *, shown: bool) -> Iterator[Callable[[str, int], None]]:
    """A bar on standard error; yields a function that says what is at work and advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("evaluating", total=total, completed=done)
        yield lambda name, count: bar.update(task, description=name, advance=count)
