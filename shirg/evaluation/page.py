"""A report in Markdown as one HTML file, with a light and a dark theme.

Charts are SVG in the theme's colours, pictures are embedded. The file has no scripts and loads nothing.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token
    from matplotlib.figure import Figure

MEDIA = {".png": "image/png", ".jpg": "image/jpeg"}


def page(title: str, markdown: str, picture: Callable[[str], str], style: str | None = None) -> str:
    """A report in Markdown as a self-contained page.

    Args:
        picture: gives the HTML of a picture of the report by its file name, or "" to leave it out.
        style: file beside this module with what the report needs beyond `page.css`.
    """
    body = _reader(picture).render(markdown)
    sheets = [files("shirg.evaluation") / name for name in ("page.css", style) if name]
    rules = "".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<style>\n{rules}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def _reader(picture: Callable[[str], str]) -> MarkdownIt:
    """CommonMark with tables; HTML is escaped, except `<br>`."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.inline.ruler.before("html_inline", "line_break", _line_break)

    def image(_: object, tokens: Sequence[Token], place: int, options: object, env: object) -> str:
        name = tokens[place].attrs["src"]
        shown, caption = picture(str(name)), html.escape(tokens[place].content)
        return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>" if shown else ""

    reader.add_render_rule("image", image)
    reader.add_render_rule("table_open", lambda *_: '<div class="scroll" tabindex="0"><table>\n')
    reader.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return reader


def _line_break(state: StateInline, silent: bool) -> bool:
    if not state.src.startswith("<br>", state.pos):
        return False
    if not silent:
        state.push("hardbreak", "br", 0)
    state.pos += len("<br>")
    return True


def embedded(path: Path) -> str:
    """The picture as a data URI; "" if there is none."""
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="" loading="lazy" src="data:{MEDIA[path.suffix]};base64,{data}">'


def svg(figure: Figure) -> str:
    """A figure as SVG that takes colours of text, lines and background from the page."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "shirg"}):
        figure.savefig(
            out, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None, "Creator": None}
        )
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg role="img" viewBox="\1">', drawn, count=1)
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    for colour, own in {"#000000": "currentColor", "#ffffff": "var(--paper)", "#ebebeb": "var(--line)"}.items():
        drawn = drawn.replace(colour, own)
    return _own_names(drawn)


def _own_names(drawn: str) -> str:
    """The SVG with ids that differ from those of other figures on the page."""
    import hashlib

    own = hashlib.sha256(drawn.encode()).hexdigest()[:8]
    drawn = re.sub(r'\bid="([^"]+)"', rf'id="{own}-\1"', drawn)
    drawn = re.sub(r'href="#([^"]+)"', rf'href="#{own}-\1"', drawn)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{own}-\1)", drawn)
