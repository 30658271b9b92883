"""`sweep.html`: one file, the words and numbers of `sweep.md`, nothing of the data taken for markup."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from shirg.evaluation.sweep_page import sweep_page
from shirg.evaluation.sweep_report import sweep_report
from tests.evaluation.test_page import checked

STORED = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "gate_sweep.json"


@pytest.fixture(scope="module")
def record() -> dict:
    """The stored sweep as one of the present format, with what has no edge term stopped."""
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    after = {True: 28, False: None}
    results = [entry | {"stopped_after": after[entry["setting"].endswith("beta 0")]} for entry in stored["results"]]
    run = stored["run"] | {"early_stop": True}
    return stored | {"command": "shirg sweep --pages 60", "run": run, "results": results}


@pytest.fixture(scope="module")
def html(record) -> str:
    return sweep_page(record)


def test_one_file_that_asks_for_nothing(html):
    tags = checked(html).tags
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert "@import" not in html and not re.search(r"url\((?!#)", html) and "heatmap.png" not in html


def test_it_says_what_the_markdown_says(record, html):
    text = " ".join("".join(checked(html).text).split())
    for line in sweep_report(record).splitlines():
        for cell in line.strip("| -#*").replace("**", "").replace("`", "").split(" | "):
            if not line.startswith(("![", "```")) and "---" not in cell:
                assert " ".join(cell.replace("\\", "").split()) in text, cell
    assert html.count("<table>") == html.count('<div class="scroll"') == 4


def test_command_seed_versions_and_hardware_are_told(record, html):
    text = " ".join("".join(checked(html).text).split())
    packages = record["environment"]["packages"]
    for part in (
        "shirg sweep --pages 60",
        "Seed 0 decides",
        f"torch {packages['torch']}, transformers {packages['transformers']}",
        f"shirg {record['environment']['shirg']}, Python {record['environment']['python']}",
        f"AMD EPYC, 2 cores, load average {record['hardware']['load_average']}",
        record["date"],
        "stopped after 28 pages",
    ):
        assert part in text, part


def test_the_heat_map_is_drawn_into_it(record, html):
    assert html.count("<svg") == 2  # with the question and without
    inside = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    shown = re.findall(r">([-+]?[\d.]+)(?: \w+)?<", inside)
    for entry in record["results"]:
        if entry["budget"] == 256 and entry["setting"].startswith("alpha"):
            assert f"{100 * entry['answer_asked']['mean']:.1f}" in shown
    assert inside.count("(28 pages)") == 8  # four cells of each panel
    assert "#000000" not in inside and "#ffffff" not in inside  # the page's own colours, light or dark
    one = sweep_page(record | {"results": [entry | {"answer_asked": None} for entry in record["results"]]})
    assert one.count("<svg") == 1


def test_text_from_data_is_no_markup(record, html):
    evil = "<img src=x onerror=alert(1)></code></pre><script>a</script> [b](javascript:c) | `d` ![e](f)"
    wild = record | {
        "command": f"shirg sweep --model '{evil}' ```",
        "run": record["run"] | {"model": evil, "adapter": evil},
        "hardware": record["hardware"] | {"processor": evil},
        "environment": record["environment"] | {"device": evil, "system": evil, "machine": evil},
    }
    plain, found = checked(html), checked(sweep_page(wild))
    assert {tag for tag, _ in found.tags} <= {tag for tag, _ in plain.tags}
    assert not [attributes for _, attributes in found.tags if "onerror" in attributes]
    assert len([tag for tag, _ in found.tags if tag == "figure"]) == 1
    assert "".join(found.text).count("<script>a</script>") == 7
