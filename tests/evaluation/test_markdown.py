"""Text from data stays text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.evaluation import markdown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, 12.50", "plain text, 12.50"),
        ("a|b", r"a\|b"),
        ("*bold* _it_ `code`", r"\*bold\* \_it\_ \`code\`"),
        ("[x](http://y)", r"\[x\](http://y)"),
        ("<script>&", "&lt;script&gt;&amp;"),
        ("two\nlines\x00", "two lines"),
        ("# heading", r"\# heading"),
        ("$x$", r"\$x\$"),
    ],
)
def test_escape(text, shown):
    assert markdown.escape(text) == shown


@settings(deadline=None, max_examples=40)
@given(st.text())
def test_escaped_text_cannot_leave_its_cell(text):
    shown = markdown.escape(text)
    assert "\n" not in shown and "<" not in shown
    assert "|" not in shown.replace(r"\|", "")


def test_long_text_is_cut():
    assert markdown.escape("x" * 500, limit=10) == "xxxxxxx..."


def test_table():
    assert markdown.table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_numbers():
    assert markdown.points(-0.0004) == "+0.0" and markdown.points(0.123) == "+12.3" and markdown.points(-0.05) == "-5.0"
    assert [markdown.milliseconds(value) for value in (None, 0.1234, 3.21, 1234.5)] == ["-", "0.12", "3.2", "1234"]
    assert markdown.count(1, "page") == "1 page" and markdown.count(1200, "page") == "1,200 pages"
