"""Every number and chart of an evaluation made again from its files, without model, pages or data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shirg.errors import UserError
from shirg.evaluation.bootstrap import UNDECIDED
from shirg.evaluation.evaluator import FORMAT
from shirg.evaluation.output import DETAILS_FILE, RESULTS_FILE, write_reports
from shirg.evaluation.summary import summarise
from shirg.evaluation.tasks import find_task
from shirg.evaluation.variants import Variant

EARLIER_WORD = "not distinguishable"
"""What "undecided" was called in files that were written before `together` was."""


def redo(folder: Path) -> dict[str, Any]:
    """Score the answers of `detailed_results.json` again, compare all that follows with `evaluation_results.json`, and write
    charts and reports anew. Times and bytes cannot be measured again; they are taken as they stand.

    Intervals are drawn as often as the file says. Where it has no `together`, as earlier files have not, that is made from
    the answers and given back; the file stays as it is.

    Returns:
        The content of `evaluation_results.json`, with `together`.

    Raises:
        UserError: if a file is missing or of another layout, or a score or summary is not what the answers give; the message
            names the first. Nothing is written then.
    """
    results, details = (_read(folder / name) for name in (RESULTS_FILE, DETAILS_FILE))
    if results.get("format") != FORMAT:
        raise UserError(f"{folder / RESULTS_FILE}: its format is {results.get('format')!r}, must be {FORMAT}")
    rows = details["predictions"]
    for row in rows:
        marks = find_task(row["dataset"]).marks(row["prediction"], row["answers"], row["kind"])
        if marks != row["scores"] or row["score"] != next(iter(marks.values())):
            place = f"{row['dataset']} {row['id']} by {row['variant']}"
            raise UserError(f"{folder / DETAILS_FILE}: {place} has scores {row['scores']}, its answer gives {marks}")
    for entry in (*results["comparisons"], *results["group_comparisons"]):
        if entry["verdict"] == EARLIER_WORD:
            entry["verdict"] = UNDECIDED
    variants = [Variant(entry["mode"], entry["budget"], entry["adapter"]) for entry in results["variants"]]
    drawn = results["intervals"]
    for name, found in summarise(rows, variants, drawn["seed"], drawn["resamples"]).items():
        again = json.loads(json.dumps(found))
        if name == "together":
            results.setdefault(name, again)
        if again != results[name]:
            raise UserError(f"{folder / RESULTS_FILE}: {name} is not what the answers of {DETAILS_FILE} give")
    try:
        write_reports(folder, results)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return results


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the folder that an evaluation left") from error
