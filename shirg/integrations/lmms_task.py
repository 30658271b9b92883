"""A benchmark as a local task of lmms-eval, with the questions of `shirg evaluate`, offline.

    python -m shirg.integrations.lmms_task --eval-datasets documents --eval-samples 50 --output-dir lmms_tasks
    python -m lmms_eval --model lavida_shirg --model_args pretrained=nano,budget=512 \
        --tasks shirg_documents --include_path lmms_tasks

A Parquet file contains questions (with the prompt's suffix), images and accepted answers; answers are scored by the benchmark's
metrics in `shirg.evaluation.metrics`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from shirg.data import Record
from shirg.evaluation.tasks import find_task, prompt
from shirg.files import atomic_path, write_text
from shirg.images import open_image

FUNCTIONS = "shirg_task.py"
"""Python file beside the task's YAML, where lmms-eval finds functions."""

SPLIT = "test"


def write_task(folder: Path, name: str, records: Sequence[Record], prompt_suffix: str) -> Path:
    """Write the task `shirg_NAME` into `folder`: a YAML file, a Parquet file, and its Python functions.

    Args:
        name: of the benchmark, as `load_benchmark` takes it.
        prompt_suffix: "official" or "none", as in `SHIRGEvaluationConfig`.

    Returns:
        The YAML file.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    task = find_task(name)
    key = f"shirg_{task.name.lower()}"
    rows = [
        {
            "id": record.id,
            "benchmark": task.name,
            "image": record.image,
            "question": prompt(task, record.question, prompt_suffix),
            "answers": list(record.answers),
            "kind": record.kind,
        }
        for record in records
    ]
    data = folder.resolve() / f"{key}.parquet"
    with atomic_path(data) as fresh:
        parquet.write_table(pa.Table.from_pylist(rows), fresh)
    write_text(
        folder / FUNCTIONS, f"from {__name__} import doc_to_text, doc_to_visual, process_results  # noqa: F401\n"
    )
    write_text(folder / f"{key}.yaml", _yaml(key, data, task.metrics))
    return folder / f"{key}.yaml"


def _yaml(key: str, data: Path, metrics: Sequence[str]) -> str:
    lines = [
        f"task: {key}",
        "dataset_path: parquet",
        f"dataset_kwargs: {json.dumps({'data_files': {SPLIT: str(data)}})}",
        f"test_split: {SPLIT}",
        "output_type: generate_until",
        *(f"{name}: !function {FUNCTIONS.removesuffix('.py')}.{name}" for name in ("doc_to_visual", "doc_to_text")),
        "doc_to_target: answers",
        "generation_kwargs: {temperature: 0, do_sample: false, until: []}",
        f"process_results: !function {FUNCTIONS.removesuffix('.py')}.process_results",
        "metric_list:",
        *(f"  - {{metric: {metric}, aggregation: mean, higher_is_better: true}}" for metric in metrics),
    ]
    return "\n".join(lines) + "\n"


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The image of a row."""
    return [open_image(doc["image"], f"image of record {doc['id']}")]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The question of a row, with its suffix."""
    return doc["question"]


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Every metric of the row's benchmark."""
    return find_task(doc["benchmark"]).scores(results[0], doc["answers"], doc["kind"])


if __name__ == "__main__":
    from shirg.cli.lmms_task import main

    main(prog="python -m shirg.integrations.lmms_task")
