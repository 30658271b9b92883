"""A hook of mkdocs: what docs/ needs from outside of it, so that links work on a forge, in the site, and without a network.

* Pages that lie elsewhere (`PAGES`) are read from where they lie.
* A relative link out of docs/ leads to a copy in the site: text as a page with its code, JSON as it is, a folder as a list.
  A link to what does not exist stays as it is, and mkdocs reports it.
* Equations ($...$, which forges show too) become MathML, which browsers show without a script.
* A page that would load anything from another host is an error.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {
    "shirg/nano/weights/README.md": "nano.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""File of the repository -> page of the site."""
COPIES = "source"
"""Folder of the site for copies of linked files."""
LANGUAGES = {".py": "python", ".sh": "bash", ".sbatch": "bash", ".yaml": "yaml", ".toml": "toml", ".md": "markdown"}

FENCE = re.compile(r"^ *(```|~~~)")
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
EQUATION = re.compile(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', flags=re.DOTALL)
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b[^>]*\bhref=["']?(?:https?:)?//"""
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere, and a copy of everything that a page links to outside of docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for page in (*sorted(DOCS.rglob("*.md")), *(ROOT / source for source in PAGES)):
        for target in _targets(page):
            _add_copy(files, config, target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links out of docs/ lead to the copies."""
    if page.file.src_uri.startswith(f"{COPIES}/"):
        return markdown
    folder = Path(page.file.abs_src_path or "").parent
    here = Path(page.file.src_uri).parent

    def lead(match: re.Match[str]) -> str:
        before, target, anchor, after = match.groups()
        place = _place(folder / target)
        return match[0] if place is None else f"{before}{os.path.relpath(place, here)}{anchor or ''}{after}"

    return "".join(LINK.sub(lead, line) if prose else line for prose, line in _lines(markdown))


def on_page_content(html_text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Equations as MathML."""

    def typeset(match: re.Match[str]) -> str:
        if match[1] == "span":
            return convert(html.unescape(match[2]))
        return f'<div class="equation">{convert(html.unescape(match[2]), display="block")}</div>'

    return EQUATION.sub(typeset, html_text)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that asks another host for anything."""
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri}: loads from another host: {found[0]}")
    return output


def _lines(markdown: str) -> Iterator[tuple[bool, str]]:
    """(whether it is prose, line) for every line; lines between fences are none."""
    inside = ""
    for line in markdown.splitlines(keepends=True):
        fence = FENCE.match(line)
        if fence and not inside:
            inside = fence[1]
        elif fence and inside == fence[1]:
            inside = ""
        yield not inside and not fence, line


def _targets(page: Path) -> Iterator[Path]:
    """Files and folders of the repository, outside of docs/, that a page links to."""
    for prose, line in _lines(page.read_text(encoding="utf-8")):
        for match in LINK.finditer(line) if prose else ():
            path = Path(os.path.normpath(page.parent / match[2]))
            if path.exists() and path.is_relative_to(ROOT) and not path.is_relative_to(DOCS):
                yield path


def _place(path: Path) -> str | None:
    """Where the site has a file or folder of the repository; None if it is not there, or not in the repository."""
    path = Path(os.path.normpath(path))
    if not path.exists() or not path.is_relative_to(ROOT):
        return None
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    if name in PAGES:
        return PAGES[name]
    if path.is_dir():
        return f"{COPIES}/{name}/index.md"
    return f"{COPIES}/{name}" if path.suffix == ".json" else f"{COPIES}/{name}.md"


def _add_copy(files: Files, config: MkDocsConfig, path: Path) -> None:
    """Add the copy of a file, or of a folder with its files; nothing where it is there or is one of `PAGES`."""
    name, place = path.relative_to(ROOT).as_posix(), _place(path)
    if place is None or name in PAGES or files.get_file_from_path(place) is not None:
        return
    if path.is_dir():
        inside = [one for one in sorted(path.iterdir()) if one.is_file() and not one.name.startswith(".")]
        listed = "\n".join(
            f"* [{one.name}]({os.path.relpath(_place(one) or '', f'{COPIES}/{name}')})" for one in inside
        )
        files.append(File.generated(config, place, content=_copy_page(name + "/", listed)))
        for one in inside:
            _add_copy(files, config, one)
    elif path.suffix == ".json":
        files.append(File.generated(config, place, abs_src_path=str(path)))
    else:
        text = path.read_text(encoding="utf-8")
        code = f"~~~~~ {LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n~~~~~"
        files.append(File.generated(config, place, content=_copy_page(name, code)))


def _copy_page(name: str, content: str) -> str:
    return f"---\nsearch:\n  exclude: true\n---\n\n# {name}\n\n{content}\n"
