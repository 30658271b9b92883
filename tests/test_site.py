"""The site's reference names what is public; its hook leads links out of docs/ to copies and fetches nothing."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

from scripts.documented import ROOT

PUBLIC = ("gate", "lavida", "data", "training")


@pytest.mark.parametrize("name", PUBLIC)
def test_reference_has_every_public_name(name):
    page = (ROOT / f"docs/reference/{name}.md").read_text(encoding="utf-8").splitlines()
    there = {line.removeprefix("::: ") for line in page if line.startswith("::: ")}
    package = importlib.import_module(f"shirg.{name}")
    assert there == {f"shirg.{name}.{one}" for one in package.__all__}


def test_names_at_the_top_are_all_told():
    page = (ROOT / "docs/reference/shirg.md").read_text(encoding="utf-8")
    names = set(importlib.import_module("shirg").__all__) - {"__version__"}
    assert all(f"`{name}`" in page for name in names)


@pytest.fixture(scope="module")
def hook():
    pytest.importorskip("mkdocs", reason="sh scripts/setup.sh docs installs it")
    return importlib.import_module("scripts.docs_site")


@pytest.mark.parametrize(
    ("page", "written", "leads"),
    [
        ("docs/gate.md", "[a](../shirg/gate/gate.py)", "[a](source/shirg/gate/gate.py.md)"),
        ("docs/gate.md", "[a](../benchmarks/results)", "[a](source/benchmarks/results/index.md)"),
        ("docs/gate.md", "[a](../benchmarks/results/gate_cpu.json)", "[a](source/benchmarks/results/gate_cpu.json)"),
        ("docs/reference/gate.md", "[a](../../CONTRIBUTING.md#numbers)", "[a](../contributing.md#numbers)"),
        ("shirg/nano/weights/README.md", "![a](../../../docs/images/pages.png)", "![a](images/pages.png)"),
        ("docs/gate.md", "[a](../shirg/gate/nothing.py)", "[a](../shirg/gate/nothing.py)"),
        ("docs/gate.md", "[a](../../elsewhere)", "[a](../../elsewhere)"),
        ("docs/gate.md", "```\n[a](../shirg/gate/gate.py)\n```\n", "```\n[a](../shirg/gate/gate.py)\n```\n"),
    ],
)
def test_where_a_link_leads(hook, page, written, leads):
    path = ROOT / page
    place = hook.PAGES.get(page) or path.relative_to(ROOT / "docs").as_posix()
    file = SimpleNamespace(src_uri=place, abs_src_path=str(path))
    assert hook.on_page_markdown(written, SimpleNamespace(file=file), None, None) == leads


def test_equations_become_mathml(hook):
    made = hook.on_page_content('<span class="arithmatex">\\(a &lt; b\\)</span>', None, None, None)
    assert made.startswith("<math") and "&#x0003C;" in made and "arithmatex" not in made


@pytest.mark.parametrize(
    "tag",
    ['<script src="https://a.org/b.js">', '<link rel="stylesheet" href="//a.org/b.css">', "<img src=http://a.org/b>"],
)
def test_what_loads_from_elsewhere_is_refused(hook, tag):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    with pytest.raises(Exception, match="another host"):
        hook.on_post_page(f"<p>{tag}</p>", page, None)
    assert hook.on_post_page('<a href="https://a.org">a</a>', page, None)
