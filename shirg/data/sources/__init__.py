"""Sources of records: data sets in the layouts of their releases, and the renderer."""

from __future__ import annotations

import logging
import re
from difflib import get_close_matches
from pathlib import Path

from shirg.data.sources.base import LocalSource, Records, find_source
from shirg.data.sources.charts import AI2D, ChartQA, OpenCQA, TabMWP
from shirg.data.sources.documents import FUNSD, SROIE, DocVQA, InfoVQA
from shirg.data.sources.hub import HUB, hub_records
from shirg.data.sources.llava import LlavaJson, LlavaPretrain
from shirg.data.sources.rendered import EMBEDDED, EmbeddedSet, RenderedPages
from shirg.data.sources.scene_text import OCRVQA, OCRBench, TextVQA
from shirg.errors import UserError

__all__ = [
    "BASE_SOURCE",
    "BENCHMARKS",
    "EMBEDDED",
    "EmbeddedSet",
    "HELD_OUT",
    "LlavaJson",
    "LocalSource",
    "OCR_SOURCES",
    "Records",
    "RenderedPages",
    "benchmark_key",
    "find_source",
    "load_benchmark",
]

logger = logging.getLogger(__name__)

BASE_SOURCE: type[LocalSource] = LlavaPretrain
"""Source of the base part."""

BENCHMARKS: dict[str, type[LocalSource]] = {
    source.name: source for source in (ChartQA, DocVQA, InfoVQA, TextVQA, TabMWP, AI2D, OCRBench, SROIE, FUNSD)
}
"""Readers of evaluation sets by lower-case name."""

HELD_OUT: dict[str, type[LocalSource]] = BENCHMARKS | {source.name: source for source in (OCRVQA, OpenCQA)}
"""Sets whose test parts can be excluded from training: the benchmarks and more."""

OCR_SOURCES: tuple[type[LocalSource], ...] = (
    ChartQA, DocVQA, InfoVQA, TextVQA, OCRVQA, TabMWP, AI2D, OpenCQA, SROIE, FUNSD,
)  # fmt: skip
"""Sources of the OCR part: their training parts."""


def load_benchmark(name: str, data_dir: str | Path | None = None, limit: int | None = None, seed: int = 0) -> Records:
    """The records of an evaluation set, from a local folder, from the hub, or embedded.

    Args:
        name: `documents` or `charts` (embedded), or a key of `BENCHMARKS`, see `benchmark_key`.
        data_dir: folder with one folder per data set (`chartqa`, `docvqa`, ...), or the data set's own folder; layouts
            are in docs/data.md.
        limit: size of the sample; None takes all records.
        seed: of the sample.

    Returns:
        A list of records; its `rejected` lists broken images and unusable entries with reasons.

    Raises:
        UserError: if the name is unknown, the limit is below 1, or the set is neither local nor reachable.
    """
    key = benchmark_key(name)
    if limit is not None and limit < 1:
        raise UserError(f"limit: {limit}; at least 1 record, or None for all")
    if key in EMBEDDED:
        return EMBEDDED[key].records(limit, seed)
    records = _local_or_hub(BENCHMARKS[key], data_dir, limit, seed)
    if records.rejected:
        first, number = records.rejected[0], sum(entry.records for entry in records.rejected)
        logger.warning("%s: questions skipped: %d; the first, %s: %s", key, number, first.item, first.reason)
    return records


def benchmark_key(name: str) -> str:
    """The key of a data set in `EMBEDDED` or `BENCHMARKS`; case, blanks and dashes are ignored.

    Raises:
        UserError: if there is none; the message lists all names.
    """
    key, known = re.sub(r"[^a-z0-9]", "", name.lower()), [*EMBEDDED, *BENCHMARKS]
    if key in known:
        return key
    near = get_close_matches(key, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(f"data set {name!r} is not a known benchmark{hint}; known: {', '.join(known)}")


def _local_or_hub(kind: type[LocalSource], data_dir: str | Path | None, limit: int | None, seed: int) -> Records:
    if data_dir is not None:
        folder = Path(data_dir)
        if not folder.is_dir():
            raise UserError(f"--eval-data-dir {folder}: no such folder")
        source = find_source(kind, folder, "test")
        if source is not None:
            return source.records(limit, seed)
    name = kind.name
    try:
        if name not in HUB:
            raise UserError("SHIRG reads no copy of it there")
        return hub_records(name, kind.licence, limit, seed)
    except UserError as error:
        looked = f"not in {data_dir}" if data_dir is not None else "no local folder given"
        hub = f"a connection to {HUB[name].repository}, or it in the cache" if name in HUB else "no copy is known"
        raise UserError(
            f"data set {name}: {looked}, and not from the hub ({error}). Provide it in one of two ways: "
            f"--eval-data-dir DIR with DIR/{name}/ holding {kind.layout}; or the Hugging Face hub: {hub}"
        ) from error
