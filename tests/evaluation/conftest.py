"""A small benchmark of generated pages, and one evaluation of it that many tests look at."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from shirg.data import Record
from shirg.data.records import image_id
from shirg.data.sources import Records
from shirg.evaluation.config import SHIRGEvaluationConfig
from shirg.evaluation.evaluator import SHIRGEvaluator
from shirg.lavida.adapter import attach_lora, lora_parameters
from tests.tiny import tiny_model, tiny_page


def page_record(number: int, question: str = "What is the total?", page: int | None = None) -> Record:
    """A record about page `page` (its own page by default)."""
    buffer = io.BytesIO()
    page = number if page is None else page
    tiny_page(300, 200, f"Total {page}.50").save(buffer, "PNG")
    data = buffer.getvalue()
    return Record(
        id=f"made:{page}:{number}",
        image=data,
        image_id=image_id(data),
        question=question,
        answers=(f"{page}.50",),
        source="made | up",
        licence="CC0",
        width=300,
        height=200,
        kind="receipt" if page % 2 else "form",
        text_px=4.0 * (page + 1),
        split="test",
    )


def broken(record: Record) -> Record:
    """The record with an image that nothing can open."""
    return replace(record, id=record.id + ":broken", image=b"no image", image_id=image_id(b"no image"))


def adapted_model(**overrides):
    """The tiny model at a small grid, with an adapter whose update is not zero."""
    model = tiny_model(**overrides)
    model.vision = replace(model.vision, resolution=168)  # 12 x 12 patches
    attach_lora(model, rank=2, alpha=4, dropout=0.0)
    for name, parameter in lora_parameters(model).items():
        if "lora_B" in name:
            parameter.data.fill_(0.5)
    return model.eval()


def install(patch: pytest.MonkeyPatch, records: list[Record]) -> None:
    """Put records in the place of every benchmark, as long as `patch` lasts."""
    patch.setattr(
        "shirg.evaluation.evaluator.load_benchmark", lambda name, data_dir, limit, seed: Records(records[:limit])
    )


@pytest.fixture
def benchmark(monkeypatch):
    """Puts records in the place of every benchmark; returns the function that does it."""
    return partial(install, monkeypatch)


def small_config(folder: Path, **changes) -> SHIRGEvaluationConfig:
    """Two denoising steps on four tokens, two budgets, two timed runs."""
    settings = {
        "datasets": ["documents"],
        "token_budgets": [24, 48],
        "sample_size": 6,
        "max_new_tokens": 4,
        "output_dir": folder,
        "efficiency_repeats": 2,
    }
    return SHIRGEvaluationConfig(**settings | changes)


RECORDS = [page_record(number, page=number // 2) for number in range(4)]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Folder, results and model of one whole evaluation with an adapter: four questions on two pages, one page
    broken."""
    folder = tmp_path_factory.mktemp("evaluation")
    patch = pytest.MonkeyPatch()
    records = Records([*RECORDS, broken(page_record(7))])
    patch.setattr("shirg.evaluation.evaluator.load_benchmark", lambda name, data_dir, limit, seed: records)
    try:
        model = adapted_model()
        results = SHIRGEvaluator(small_config(folder), model, model.tower).evaluate()
    finally:
        patch.undo()
    return folder, results, model
