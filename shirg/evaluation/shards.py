"""One evaluation in several processes: each answers its share of the pages into a file of its own, one joins them."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from shirg.errors import UserError
from shirg.evaluation.asking import Asker, PageQuestions, RowKey, Survey, row_key
from shirg.evaluation.journal import entries_of
from shirg.evaluation.markdown import count
from shirg.files import read_lines
from shirg.identity import check_same_run

FOLDER = "shards"


def shard_path(folder: Path, index: int, number: int) -> Path:
    """Where a share's answers are written."""
    return folder / FOLDER / f"predictions-{index}-of-{number}.jsonl"


def shard_settings(run: dict[str, Any], index: int, number: int) -> dict[str, Any]:
    """The settings of a run as a share's file states them."""
    return run | {"num_shards": number, "shard_index": index}


def merged_rows(folder: Path, number: int, run: dict[str, Any], survey: Survey, asker: Asker) -> list[dict[str, Any]]:
    """The rows of all shares, in the order in which one process asks.

    Raises:
        UserError: if a share is missing, unfinished, or of a run with other settings; the message names it.
    """
    rows: dict[RowKey, dict[str, Any]] = {}
    for index in range(number):
        path = shard_path(folder, index, number)
        lines = read_lines(path)
        if not lines:
            raise UserError(f"num_shards: {path} is missing; run --num-shards {number} --shard-index {index} first")
        check_same_run(path, lines[0], shard_settings(run, index, number))
        found = {row_key(row): row for row in entries_of(path, lines)}
        _check_finished(path, index, number, survey, asker, found)
        rows |= found
    return survey.in_order(rows, asker.variants)


def _check_finished(
    path: Path, index: int, number: int, survey: Survey, asker: Asker, found: Container[RowKey]
) -> None:
    lacking = 0
    for page in survey.shard(index, number).pages:
        missing = sum(len(prompts) for _, prompts in asker.missing(page, found))
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
