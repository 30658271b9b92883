"""The small-print table of nano_claim.py as a picture: score against visual tokens, without an adapter and with the mixed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nano_claim_bars import SMALL

from shirg.errors import UserError
from shirg.evaluation.figures import accuracy_figure
from shirg.nano.recipe.score import MEASURES

WITH_ADAPTER = "+adapter"


def draw(path: Path, record: dict[str, Any]) -> None:
    """One panel for each measure, 95 % intervals over pages.

    Raises:
        UserError: if no page of small print was read yet.
    """
    if not record["sets"][SMALL]["rows"]:
        raise UserError("--figure: there is nothing to draw before a page of small print was read")
    accuracy_figure(path, as_evaluation(record["sets"][SMALL]))


def as_evaluation(found: dict[str, Any]) -> dict[str, Any]:
    """A set of the record in the form of an evaluation's results, as far as its figure reads them.

    Adapters for one budget alone are left out: they lie on top of the mixed one, and the table has them.
    """
    rows = {name: row for name, row in found["rows"].items() if name.partition("+")[2] in ("", "adapter")}
    variants = [
        {"variant": name, "mode": name.partition("+")[0].partition("-")[0], "adapter": name.endswith(WITH_ADAPTER)}
        for name in rows
    ]
    about = {"name": SMALL, "questions": found["questions"], "pages": found["pages"]}
    return {
        "datasets": [about | {"metric": metric} for metric in MEASURES.values()],
        "config": {"modes": list(dict.fromkeys(variant["mode"] for variant in variants))},
        "variants": variants,
        "tokens": [{"variant": name, "mean": row["tokens"]} for name, row in rows.items()],
        "scores": [
            {"dataset": SMALL, "metric": metric, "variant": name, "score": row[measure]["mean"], **_ends(row[measure])}
            for measure, metric in MEASURES.items()
            for name, row in rows.items()
        ],
    }


def _ends(value: dict[str, Any]) -> dict[str, Any]:
    return {end: value[end] for end in ("low", "high")}
