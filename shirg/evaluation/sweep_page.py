"""`sweep.html`: the words and tables of `sweep.md` as one file that needs no other, with the heat map drawn into it."""

from __future__ import annotations

from typing import Any

from shirg.evaluation.page import page, svg
from shirg.evaluation.sweep_figure import heat_panels
from shirg.evaluation.sweep_report import sweep_report


def sweep_page(record: dict[str, Any]) -> str:
    """The page, from what `sweep.json` holds; its only picture is the heat map."""
    return page("SHIRG sweep", sweep_report(record), lambda _: _heat_map(record), style="sweep.css")


def _heat_map(record: dict[str, Any]) -> str:
    return f'<div class="panels">{"".join(map(svg, heat_panels(record)))}</div>'
