"""The page: one file, the report's words, nothing of the data taken for markup."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from shirg.errors import UserError
from shirg.evaluation.output import redo, write_reports
from shirg.evaluation.page import page, svg
from shirg.evaluation.results import Answer, Bootstrap, Example, Skipped, from_json, to_json
from shirg.evaluation.summary import summarise

VOID = {"meta", "img", "br", "hr", "path", "use"}


class Checker(HTMLParser):
    """Keeps the open elements, and fails where one is closed that is not the last."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def html(run):
    folder, _, _ = run
    return (folder / "evaluation_report.html").read_text(encoding="utf-8")


def test_one_file_that_asks_for_nothing(html):
    tags = checked(html).tags
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_it_says_what_the_report_says(run, html):
    _, results, _ = run
    text = " ".join("".join(checked(html).text).split())
    for entry in results.scores:
        assert f"{100 * entry.score:.1f}%" in text
    for part in (
        "exact match",
        "whole answer, timed",
        "Wrong answers by cause",
        "Largest losses and wins",
        "Targets",
    ):
        assert part in text, part
    assert html.count("<svg") == len(results.datasets) + 2
    assert html.count("<table>") == html.count('<div class="scroll"')


def test_pictures_of_the_examples_are_in_it(run, html):
    folder, results, _ = run
    shown = sum(map(len, results.examples.kinds().values()))
    assert len(list((folder / "figures" / "examples").glob("*.jpg")) if shown else []) == shown
    assert html.count("data:image/jpeg") == shown and html.count("data:image/png") == 1


def test_names_of_shapes_are_used_once(html):
    names = [attributes["id"] for _, attributes in checked(html).tags if "id" in attributes]
    assert len(names) == len(set(names))
    used = {attributes["xlink:href"][1:] for tag, attributes in checked(html).tags if tag == "use"}
    assert used <= set(names)


def test_charts_take_the_pages_colours(html):
    for chart in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert "#000000" not in chart and "#ffffff" not in chart and "currentColor" in chart


def test_text_from_data_is_no_markup(run, tmp_path):
    _, results, _ = run
    evil = "<img src=x onerror=alert(1)><script>a</script> [b](javascript:c) <br> | `d` ![e](f)"
    texts = dict.fromkeys(("id", "question", "kind", "prediction", "theirs"), evil)
    example = Example(
        dataset="documents", image_id="x", answers=[evil], text_px=9.0, score=0.0, their_score=1.0, **texts
    )
    hostile = replace(
        results,
        examples=replace(results.examples, losses=[example], wins=[]),
        skipped=[Skipped(dataset="documents", id=evil, questions=1, reason=evil)],
    )
    pages = []
    for found in (results, hostile):
        write_reports(tmp_path, found)
        pages.append(checked((tmp_path / "evaluation_report.html").read_text(encoding="utf-8")))
    plain, wild = pages
    assert {tag for tag, _ in wild.tags} <= {tag for tag, _ in plain.tags} | {"h4", "ul", "li", "p"}
    assert not [attributes for _, attributes in wild.tags if "onerror" in attributes]
    assert not [attributes for tag, attributes in wild.tags if tag == "a" and "href" in attributes]
    assert "<script>a</script>" in "".join(wild.text)


def test_a_picture_that_is_missing_is_left_out():
    assert "<figure>" not in page("t", "![a](figures/b.png)", lambda name: "")
    assert "<figure><svg></svg><figcaption>a &amp; b</figcaption>" in page(
        "t", "![a & b](x.png)", lambda name: "<svg></svg>"
    )


def test_same_figure_same_svg(run):
    from shirg.evaluation.figures import kv_chart

    _, results, _ = run
    assert svg(kv_chart(results.efficiency)) == svg(kv_chart(results.efficiency))


def test_everything_is_made_again_from_the_json(run, tmp_path):
    folder, results, _ = run
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    made = ["evaluation_report.md", "evaluation_report.html"]
    made += [f"figures/{name}.png" for name in ("accuracy_against_tokens", "latency", "kv_cache")]
    for name in made:
        (copied / name).unlink()
    assert redo(copied) == results
    for name in made:
        assert (copied / name).read_bytes() == (folder / name).read_bytes(), name


def as_it_was_written_earlier(folder, results) -> dict:
    """The results as a file of 2,000 draws that knows no `together` and has another word for "undecided"."""
    rows = json.loads((folder / "detailed_results.json").read_text(encoding="utf-8"))["predictions"]
    draws = Bootstrap(resamples=2000)
    found = vars(summarise(from_json(list[Answer], rows), results.variants, draws))
    old = to_json(replace(results, intervals=draws, **found))
    del old["together"]
    return json.loads(json.dumps(old).replace('"verdict": "undecided"', '"verdict": "not distinguishable"'))


def test_an_earlier_file_is_checked_with_its_own_draws_and_reported_with_what_it_lacks(run, tmp_path):
    folder, results, _ = run
    old = as_it_was_written_earlier(folder, results)
    shutil.copy(folder / "detailed_results.json", tmp_path)
    (tmp_path / "evaluation_results.json").write_text(json.dumps(old), encoding="utf-8")
    stored = (tmp_path / "evaluation_results.json").read_bytes()
    found = redo(tmp_path)
    (group,) = found.together
    kept = [entry for entry in found.comparisons if (entry.variant, entry.against) == ("shirg-24", "lowres")]
    assert [replace(group.compared("shirg-24", "lowres"), dataset="documents")] == kept
    report = (tmp_path / "evaluation_report.md").read_text(encoding="utf-8")
    assert "2,000 resamples" in report and "not distinguishable" not in report
    assert (tmp_path / "evaluation_results.json").read_bytes() == stored
    (tmp_path / "evaluation_results.json").write_bytes(
        stored.replace(b'differing_pages": 0', b'differing_pages": 9', 1)
    )
    with pytest.raises(UserError, match="comparisons is not what the answers"):
        redo(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("detailed_results.json", '"score": 0.0', '"score": 1.0', "has scores .* its answer gives"),
        (
            "evaluation_results.json",
            '"differing_pages": 0',
            '"differing_pages": 9',
            "together is not what the answers",
        ),
        (
            "evaluation_results.json",
            '"verdict": "undecided"',
            '"verdict": "better"',
            "together is not what the answers",
        ),
        ("evaluation_results.json", "shirg-evaluation-", "shirg-evaluation-0", "format is 'shirg-evaluation-0"),
        ("evaluation_results.json", "{", "(", "cannot be read"),
    ],
)
def test_a_number_that_is_not_the_answers_is_found(run, tmp_path, file, old, new, says):
    folder, _, _ = run
    for name in ("detailed_results.json", "evaluation_results.json"):
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text or name != file
        (tmp_path / name).write_text(text.replace(old, new, 1) if name == file else text, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        redo(tmp_path)
    assert not (tmp_path / "evaluation_report.md").exists()
