"""Evaluation of every vision path and budget on the benchmarks, without and with each adapter."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from shirg import identity
from shirg.data import load_benchmark
from shirg.data.sources import Records
from shirg.data.workers import ordered_map
from shirg.errors import UserError
from shirg.evaluation.answering import models_by_adapter
from shirg.evaluation.config import SHIRGEvaluationConfig
from shirg.evaluation.efficiency import measure_efficiency
from shirg.evaluation.environment import describe_environment, describe_gate, describe_model
from shirg.evaluation.journal import Journal
from shirg.evaluation.markdown import count
from shirg.evaluation.output import FORMAT, PREDICTIONS_FILE, set_aside, write_outputs
from shirg.evaluation.questions import (
    Inference,
    PageQuestions,
    QuestionSet,
    RowKey,
    SamplePage,
    Unopened,
    merged_rows,
    row_key,
    share_path,
    share_settings,
)
from shirg.evaluation.results import (
    Answer,
    Bootstrap,
    DatasetInfo,
    Efficiency,
    Environment,
    Results,
    Unanswered,
    from_json,
    to_json,
)
from shirg.evaluation.summary import summarise
from shirg.evaluation.tasks import find_task
from shirg.evaluation.variants import Variant, list_variants
from shirg.lavida import Lavida, SigLipVisionTower
from shirg.locks import folder_lock

__all__ = ["SHIRGEvaluationConfig", "SHIRGEvaluator"]

ANSWERS_DEPEND_ON = (
    "datasets",
    "token_budgets",
    "modes",
    "sample_size",
    "seed",
    "max_new_tokens",
    "block_length",
    "step_ratio",
    "threshold",
    "batch_size",
    "prompt_suffix",
)
"""Settings that change answers, besides model, questions and libraries."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShareResult:
    """Result of one process of several: its number of answers and their file."""

    num_shards: int
    shard_index: int
    answers: int
    file: str


class SHIRGEvaluator:
    """Asks a model the questions of the benchmarks through every vision path and budget.

    Args:
        config: what to run; see the fields of `SHIRGEvaluationConfig`.
        model: every variant is run without an adapter, then with the one that the model has, and with those of
            `config.adapters`.
        vision_tower: the model's own tower, `model.tower`, or None.
        benchmarks: records of data sets that are not to be loaded, by their names in `config.datasets`.
        variants: what to run in the place of all combinations of `config.modes`, `token_budgets` and adapters.

    Raises:
        UserError: for another tower than the model's own, settings that do not fit the model, or an adapter that cannot be
            loaded.
    """

    def __init__(
        self,
        config: SHIRGEvaluationConfig,
        model: Lavida,
        vision_tower: SigLipVisionTower | None = None,
        *,
        benchmarks: Mapping[str, Records] | None = None,
        variants: Sequence[Variant] | None = None,
    ):
        if vision_tower is not None and vision_tower is not model.tower:
            raise UserError(
                f"vision_tower: got a {type(vision_tower).__name__} that is not the model's own; "
                "pass model.tower, or leave it out"
            )
        self.config = config
        self.model = model
        self.benchmarks = benchmarks or {}
        self.settings = config.resolved(model)
        self.models = models_by_adapter(model, config.adapters)
        adapters = [name for name in self.models if name is not None]
        self._all = list_variants(self.settings.modes, self.settings.token_budgets, adapters)
        self.variants = self._all if variants is None else list(variants)
        self.folder = Path(config.output_dir)

    def run_evaluation(self) -> dict[str, Any]:
        """The result of `evaluate` as JSON values: the content of `evaluation_results.json`; of a share
        `num_shards`, `shard_index`, `answers` and `file`."""
        return to_json(self.evaluate())

    def evaluate(self) -> Results | ShareResult:
        """Run everything and write it to `config.output_dir`.

        Writes `predictions.jsonl` line by line as answers come, so that a stopped run continues with `config.resume`, then
        `detailed_results.json`, `evaluation_results.json`, `evaluation_report.md` and `.html`, `run_card.md` and `figures/`.
        With `config.shard_index` only one share of the questions is asked, and written to `shards/`. A question that cannot be
        asked through a variant (`ItemError`) counts as one with an empty answer, and is listed as `unanswered`.

        Raises:
            UserError: if a benchmark cannot be loaded, no page of any of them can be read, the folder cannot be written or is
                being written by another process, or has answers of other settings.
        """
        index = self.config.shard_index
        with folder_lock(self.folder, None if index is None else (index, self.config.num_shards)):
            return self._run()

    def _run(self) -> Results | ShareResult:
        started = time.perf_counter()
        question_set = QuestionSet.of(self.model, self._benchmarks(), self.settings.prompt_suffix)
        if not question_set.pages:
            raise UserError(_nothing_to_ask(question_set))
        with _evaluating(self.model):
            inference = Inference(self.models, self.variants, self.config.decoding(self.model))
            run = self._run_settings(question_set)
            if self.config.shard_index is not None:
                return self._run_share(question_set, inference, run, self.config.shard_index)
            journal = self._journal(question_set, inference, run)
            before = len(journal.entries)
            self._ask(question_set, inference, journal)
            rows = [from_json(Answer, row) for row in question_set.in_order(journal.entries, self.variants)]
            sample = self._sample(question_set, journal)
            efficiency = self._efficiency(inference, sample)
        bootstrap = Bootstrap(seed=self.config.seed)
        results = Results(
            **vars(summarise(rows, self.variants, bootstrap)),
            format=FORMAT,
            config=self.settings,
            run=run,
            fingerprint=identity.fingerprint(run),
            model=describe_model(self.model, self.models),
            gate=describe_gate(self.model.vision.gate),
            environment=from_json(Environment, describe_environment(self.model)),
            intervals=bootstrap,
            datasets=[_describe(name, question_set, rows) for name in question_set.benchmarks],
            variants=self.variants,
            efficiency=efficiency,
            skipped=question_set.skipped,
            unanswered=[
                Unanswered(dataset=row.dataset, id=row.id, variant=row.variant.name, reason=row.unanswered)
                for row in rows
                if row.unanswered
            ],
            resumed_answers=before,
            seconds=round(time.perf_counter() - started, 1),
        )
        write_outputs(self.folder, results, rows, self.model, sample, question_set)
        return results

    def _run_settings(self, question_set: QuestionSet) -> dict[str, Any]:
        """All that answers depend on, JSON values."""
        environment = describe_environment(self.model)
        named = {name: identity.of_adapter(self.models[name])["adapter_weights"] for name in self.config.adapters}
        return {
            "format": FORMAT,
            **{name: getattr(self.settings, name) for name in ANSWERS_DEPEND_ON},
            **({"adapters": named} if named else {}),
            **({"variants": [one.name for one in self.variants]} if self.variants != self._all else {}),
            **identity.of_base(self.model),
            **identity.of_adapter(self.model),
            "questions": question_set.fingerprint(),
            **{name: environment[name] for name in ("device", "shirg", "packages")},
        }

    # ------------------------------------------------------------------ questions and answers

    def _benchmarks(self) -> dict[str, Records]:
        found = {}
        for name in self.settings.datasets:
            given, limit = self.benchmarks.get(name), self.config.sample_size
            found[name] = given or load_benchmark(name, self.config.data_dir, limit, self.config.seed)
            logger.info("%s: %s", name, count(len(found[name]), "question"))
        return found

    def _run_share(
        self, question_set: QuestionSet, inference: Inference, run: dict[str, Any], index: int
    ) -> ShareResult:
        number = self.config.num_shards
        path = share_path(self.folder, index, number)
        if not self.config.resume:
            set_aside(self.folder, [path.relative_to(self.folder)])
        journal = self._open(path, share_settings(run, index, number), identity.fingerprint(run))
        self._ask(question_set.share(index, number), inference, journal)
        return ShareResult(number, index, len(journal.entries), str(path))

    def _journal(self, question_set: QuestionSet, inference: Inference, run: dict[str, Any]) -> Journal[RowKey]:
        """The journal, with the existing answers of this run or of all its shares."""
        number = self.config.num_shards
        merged = merged_rows(self.folder, number, run, question_set, inference) if number > 1 else []
        if merged or not self.config.resume:
            set_aside(self.folder)
        journal = self._open(self.folder / PREDICTIONS_FILE, run, identity.fingerprint(run))
        for row in merged:
            journal.add(row)
        return journal

    def _open(self, path: Path, settings: dict[str, Any], name: str) -> Journal[RowKey]:
        return Journal(path, settings, row_key, resume=self.config.resume, noun="answer", name=name)

    def _ask(self, question_set: QuestionSet, inference: Inference, journal: Journal[RowKey]) -> None:
        """Answer the questions that are missing in the journal; pages that cannot be opened are listed as skipped."""
        total = sum(len(page.prompts) for page in question_set.pages) * len(self.variants)
        with progress_bar(total, len(journal.entries), shown=not self.config.shard_index) as advance:
            for row in self._answered(question_set.pages, inference, journal):
                if isinstance(row, Unopened):
                    for record, _ in row.page.prompts:
                        question_set.skip(row.page.task, record, row.error)
                else:
                    journal.add(row)
                    advance(f"evaluating {row['dataset']}", 1)

    def _answered(
        self, pages: Sequence[PageQuestions], inference: Inference, journal: Journal[RowKey]
    ) -> Iterator[dict[str, Any] | Unopened]:
        """The rows that are missing, and pages that cannot be opened; lazily without worker processes."""
        answered, workers = set(journal.entries), self.config.workers_for(self.model)
        groups = list(inference.groups(pages, answered))
        if workers < 2 or len(groups) < 2:
            for group in groups:
                yield from inference.rows(group, answered)
            return
        for found in ordered_map(partial(_finished_rows, inference, answered), groups, min(workers, len(groups))):
            if isinstance(found, str):
                raise UserError(found)
            yield from found

    def _sample(self, question_set: QuestionSet, journal: Journal[RowKey]) -> SamplePage:
        """The first page with answers, if possible of every variant."""
        asked = [page for page in question_set.pages if next(page.keys(self.variants)) in journal.entries]
        if not asked:
            raise UserError(_nothing_to_ask(question_set))
        whole = (
            page for page in asked if not any("unanswered" in journal.entries[key] for key in page.keys(self.variants))
        )
        page = next(whole, asked[0])
        return SamplePage(page.open_image(), *page.prompts[0])

    def _efficiency(self, inference: Inference, sample: SamplePage) -> Efficiency | None:
        if not self.config.efficiency_repeats:
            return None
        measured = [variant for variant in self.variants if variant.adapter is None]
        repeats = self.config.efficiency_repeats
        logger.info("timing %d variants on one page, each stage %d times", len(measured), repeats)
        with progress_bar(len(measured), 0, shown=True) as advance:
            model = inference.models[None]
            prompt_ids = model.prompt_ids(sample.prompt)
            found = measure_efficiency(model, sample.image, prompt_ids, measured, inference.decoding, repeats, advance)
        return replace(found, record=sample.record.id) if found.rows else None


def _finished_rows(
    inference: Inference, answered: Container[RowKey], pages: Sequence[PageQuestions]
) -> list[dict[str, Any] | Unopened] | str:
    """In a worker process: all of `Inference.rows`, or the message of a `UserError`. (A raised one would get its traceback into
    its message.)"""
    try:
        return list(inference.rows(pages, answered))
    except UserError as error:
        return str(error)


def _nothing_to_ask(question_set: QuestionSet) -> str:
    reason = question_set.skipped[0].reason if question_set.skipped else "no records"
    return f"datasets: nothing to ask in {', '.join(question_set.benchmarks)}; the first reason: {reason}"


def _describe(name: str, question_set: QuestionSet, rows: Sequence[Answer]) -> DatasetInfo:
    task, records = find_task(name), question_set.benchmarks[name]
    answered = {row.id for row in rows if row.dataset == task.name}
    return DatasetInfo(
        name=task.name,
        metric=task.metric,
        note="; ".join(filter(None, (task.note, records.note))),
        questions=len(answered),
        pages=len({record.image_id for record in records if record.id in answered}),
        skipped=sum(entry.questions for entry in question_set.skipped if entry.dataset == task.name),
        sources=sorted({record.source for record in records}),
        licences=sorted({record.licence for record in records}),
    )


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
    """A bar on standard error; yields a function that shows what is being done and advances the bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("evaluating", total=total, completed=done)
        yield lambda name, count: bar.update(task, description=name, advance=count)
