"""The questions of a run, page by page, and one row per answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from shirg.data import Record
from shirg.data.sources import Records
from shirg.errors import ItemError, UserError
from shirg.evaluation.answering import Decoding, Generated, Models, Page, answers
from shirg.evaluation.journal import entries_of
from shirg.evaluation.markdown import count
from shirg.evaluation.results import Answer, Skipped, to_json
from shirg.evaluation.tasks import Task, find_task, prompt
from shirg.evaluation.variants import Variant
from shirg.files import read_lines
from shirg.identity import check_same_run
from shirg.lavida import Lavida

RowKey = tuple[str, str, str]
SHARDS = "shards"
"""Folder with the answers of every share (`--num-shards`)."""


def row_key(row: dict[str, Any]) -> RowKey:
    """Key of an answer: data set, record and variant."""
    return row["dataset"], row["id"], row["variant"]


@dataclass(frozen=True)
class SamplePage:
    """The page and question that are timed and drawn."""

    image: Image.Image
    record: Record
    prompt: str
    """The record's question as the model gets it, suffix included."""


@dataclass(frozen=True)
class PageQuestions:
    """One page and the questions about it."""

    task: Task
    prompts: tuple[tuple[Record, str], ...]
    """Records and their questions as the model gets them, suffix included; at least one."""

    def open_image(self) -> Image.Image:
        """The page.

        Raises:
            UserError: if its bytes are damaged.
        """
        return self.prompts[0][0].open_image()

    def keys(self, variants: Sequence[Variant]) -> Iterator[RowKey]:
        """Keys of all its rows, in the order in which the questions are asked."""
        for variant in variants:
            for record, _ in self.prompts:
                yield self.task.name, record.id, variant.name


@dataclass(frozen=True)
class QuestionSet:
    """All questions of a run."""

    benchmarks: dict[str, Records]
    pages: list[PageQuestions]
    skipped: list[Skipped] = field(default_factory=list)

    @classmethod
    def of(cls, model: Lavida, benchmarks: dict[str, Records], prompt_suffix: str) -> QuestionSet:
        """Group records by page; questions that cannot be tokenized are listed in `skipped`."""
        question_set = cls(benchmarks, [])
        for name, records in benchmarks.items():
            task = find_task(name)
            question_set.skipped.extend(_rejected(task.name, records))
            for of_page in _by_page(records):
                prompts = question_set._prompts(model, task, of_page, prompt_suffix)
                if prompts:
                    question_set.pages.append(PageQuestions(task, prompts))
        return question_set

    def _prompts(
        self, model: Lavida, task: Task, records: Sequence[Record], suffix: str
    ) -> tuple[tuple[Record, str], ...]:
        prompts = []
        for record in records:
            try:
                text = prompt(task, record.question, suffix)
                model.prompt_ids(text)
                prompts.append((record, text))
            except ItemError as error:
                self.skip(task, record, error)
        return tuple(prompts)

    def skip(self, task: Task, record: Record, error: UserError) -> None:
        """List a question that cannot be asked."""
        self.skipped.append(Skipped(dataset=task.name, id=record.id, questions=1, reason=str(error)))

    def share(self, index: int, number: int) -> QuestionSet:
        """The pages of one of `number` shares: every `number`-th, so that each share has pages of each data set."""
        return QuestionSet(self.benchmarks, self.pages[index::number])

    def in_order(self, rows: Mapping[RowKey, dict[str, Any]], variants: Sequence[Variant]) -> list[dict[str, Any]]:
        """The existing rows in the order of a run in one process."""
        return [rows[key] for page in self.pages for key in page.keys(variants) if key in rows]

    def fingerprint(self) -> str:
        """16 hexadecimal digits of a hash over all prompts, images and accepted answers."""
        digest = hashlib.sha256()
        for page in self.pages:
            for record, text in page.prompts:
                asked = [page.task.name, record.id, record.image_id, text, *record.answers]
                digest.update(json.dumps(asked).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Unopened:
    """A page that cannot be opened, and why."""

    page: PageQuestions
    error: UserError


@dataclass(frozen=True)
class Inference:
    """Answers every question in every variant."""

    models: Models
    variants: Sequence[Variant]
    decoding: Decoding

    def missing(
        self, page: PageQuestions, answered: Container[RowKey]
    ) -> list[tuple[Variant, list[tuple[Record, str]]]]:
        """The questions about a page that are not answered yet, by variant."""
        todo = []
        for variant in self.variants:
            keys = [(page.task.name, record.id, variant.name) for record, _ in page.prompts]
            prompts = [pair for pair, key in zip(page.prompts, keys, strict=True) if key not in answered]
            if prompts:
                todo.append((variant, prompts))
        return todo

    def groups(self, pages: Iterable[PageQuestions], answered: Container[RowKey]) -> Iterator[list[PageQuestions]]:
        """The pages with questions that are not answered yet, in lists of at most one batch of questions, or of one page."""
        group: list[PageQuestions] = []
        for page in pages:
            if not self.missing(page, answered):
                continue
            if group and sum(len(one.prompts) for one in (*group, page)) > self.decoding.batch_size:
                yield group
                group = []
            group.append(page)
        if group:
            yield group

    def rows(self, pages: Iterable[PageQuestions], answered: Container[RowKey]) -> Iterator[dict[str, Any] | Unopened]:
        """One row for each variant and question that is not answered yet; `unanswered` has the reason if it cannot be asked.
        Questions about all of `pages` are denoised together."""
        asked: dict[Variant, list[tuple[PageQuestions, Page, Record, str]]] = {}
        for page in pages:
            try:
                image = page.open_image()
            except UserError as error:
                yield Unopened(page, error)
                continue
            todo = self.missing(page, answered)
            shown = Page(self.models[None], image, [variant for variant, _ in todo])
            for variant, prompts in todo:
                asked.setdefault(variant, []).extend((page, shown, record, text) for record, text in prompts)
        for variant, questions in asked.items():
            model = self.models[variant.adapter]
            found = answers(model, variant, [(shown, text) for _, shown, _, text in questions], self.decoding)
            for (page, _, record, _), answer in zip(questions, found, strict=True):
                yield to_json(_row(page.task, record, variant, answer, model.vision.resolution))


def _row(task: Task, record: Record, variant: Variant, read: Generated | ItemError, resolution: int) -> Answer:
    prediction, tokens = ("", None) if isinstance(read, ItemError) else read
    scores = task.scores(prediction, record.answers, record.kind)
    return Answer(
        dataset=task.name,
        id=record.id,
        image_id=record.image_id,
        question=record.question,
        answers=list(record.answers),
        kind=record.kind,
        part=task.part_of(record.kind),
        text_px=round(
            record.text_px * resolution / record.height, 2
        ),  # in the large view, to which the page is stretched
        variant=variant,
        tokens=tokens,
        prediction=prediction,
        score=scores[task.metric],
        scores=scores,
        unanswered=str(read) if isinstance(read, ItemError) else "",
    )


def _rejected(dataset: str, records: Records) -> list[Skipped]:
    """Entries that the data set's source rejected."""
    return [Skipped(dataset=dataset, id=one.item, questions=one.records, reason=one.reason) for one in records.rejected]


def _by_page(records: Sequence[Record]) -> list[list[Record]]:
    """Records of one image together, pages in order of first appearance, so that the tower sees each page once."""
    pages: dict[str, list[Record]] = {}
    for record in records:
        pages.setdefault(record.image_id, []).append(record)
    return list(pages.values())


# ------------------------------------------------------------------ shares


def share_path(folder: Path, index: int, number: int) -> Path:
    """File of a share's answers."""
    return folder / SHARDS / f"predictions-{index}-of-{number}.jsonl"


def share_settings(run: dict[str, Any], index: int, number: int) -> dict[str, Any]:
    """The settings of a run as stored in a share's file."""
    return run | {"num_shards": number, "shard_index": index}


def merged_rows(
    folder: Path, number: int, run: dict[str, Any], question_set: QuestionSet, inference: Inference
) -> list[dict[str, Any]]:
    """The rows of all shares, in the order of a run in one process.

    Raises:
        UserError: if a share is missing, unfinished, or of a run with other settings; the message names it.
    """
    rows: dict[RowKey, dict[str, Any]] = {}
    for index in range(number):
        path = share_path(folder, index, number)
        lines = read_lines(path)
        if not lines:
            raise UserError(f"num_shards: {path} is missing; run --num-shards {number} --shard-index {index} first")
        check_same_run(path, lines[0], share_settings(run, index, number))
        found = {row_key(row): row for row in entries_of(path, lines)}
        _check_finished(path, index, number, question_set, inference, found)
        rows |= found
    return question_set.in_order(rows, inference.variants)


def _check_finished(
    path: Path, index: int, number: int, question_set: QuestionSet, inference: Inference, found: Container[RowKey]
) -> None:
    lacking = 0
    for page in question_set.share(index, number).pages:
        missing = sum(len(prompts) for _, prompts in inference.missing(page, found))
        if missing and _opens(page):
            lacking += missing
    if lacking:
        raise UserError(
            f"num_shards: {path} lacks {count(lacking, 'answer')}; finish it with --num-shards {number} "
            f"--shard-index {index} --resume"
        )


def _opens(page: PageQuestions) -> bool:
    try:
        page.open_image()
    except UserError:
        return False  # listed as skipped, so that nothing is missing
    return True
