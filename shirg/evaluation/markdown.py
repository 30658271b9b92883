"""Pieces of Markdown, with text from data escaped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

NOT_MEASURED = "not measured"

_SPECIAL = re.compile(r"([\\`*_\[\]|~$]|^[#+-])")


def escape(text: object, limit: int = 160) -> str:
    """`text` as one line that Markdown and HTML show as it is, cut at `limit` characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
    if len(line) > limit:
        line = line[: limit - 3] + "..."
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A table whose first `text_columns` columns are left-aligned and whose others are right-aligned."""
    rules = ["---" if column < text_columns else "---:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rules, *rows))


def percent(value: float) -> str:
    """A share as "12.3%"."""
    return f"{100 * value:.1f}%"


def points(value: float) -> str:
    """A difference of shares in signed points, "+4.2"; never "-0.0"."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"


class WithEnds(Protocol):
    """Has the ends of an interval."""

    @property
    def low(self) -> float | None: ...

    @property
    def high(self) -> float | None: ...


def interval(entry: WithEnds | Mapping[str, Any], show: Callable[[float], str]) -> str:
    """ "[low, high]" of an entry or of its JSON, or a note that there is none."""
    low, high = (entry["low"], entry["high"]) if isinstance(entry, Mapping) else (entry.low, entry.high)
    return "(one page: no interval)" if low is None or high is None else f"[{show(low)}, {show(high)}]"


def milliseconds(value: float | None) -> str:
    """A duration with three significant digits; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def megabytes(value: int) -> str:
    """Bytes in MB (10**6 bytes)."""
    return f"{value / 1e6:.2f}"


def count(number: int, noun: str) -> str:
    """ "1 page", "2 pages"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def code_block(text: str, language: str = "bash") -> str:
    """`text` as it is, in a fence longer than any in it."""
    longest = max((len(run) for run in text.split() if set(run) == {"`"}), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
