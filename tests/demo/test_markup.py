"""The demo's HTML: counts, alternative texts, and escaped text of users."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import pytest
from PIL import Image

from shirg.demo.examples import RECIPES, example_pages
from shirg.demo.markup import answer_card, costs_table, escaped, figure, printed_answer
from shirg.demo.reading import Choice, Costs, Reader, Step
from shirg.lavida.progress import Span
from tests.tiny import tiny_model, tiny_page


@pytest.fixture(scope="module")
def reader() -> Reader:
    model = tiny_model()
    model.vision = replace(model.vision, resolution=280)
    return Reader(model)


def shown(reader: Reader, choice: Choice, *, groups: bool = False) -> str:
    page = reader.encode(tiny_page(), "my <page>.png")
    chosen = reader.select(page, choice)
    return figure(page, chosen, reader.draw(page, chosen.kept, groups=groups), question=choice.question, groups=groups)


def test_the_figure_counts_and_describes(reader):
    markup = shown(reader, Choice(40, question="What is the total?"))
    assert "<strong>40 of 400 patches kept (10%)</strong>" in markup and "the question changes" in markup
    alt = re.search(r'<img alt="([^"]*)"', markup)[1]
    assert alt.startswith("my &lt;page&gt;.png: 40 of 400 patches kept") and "grey: in the summary token" in alt
    encoded = re.search(r'src="data:image/jpeg;base64,([^"]+)"', markup)[1]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        assert picture.size == (960, 640)
    assert 'width="960" height="640"' in markup


def test_legend_of_merged_and_missing_groups(reader):
    assert "one colour per merged token" in shown(reader, Choice(100, "pool"))
    assert "this selector makes no groups" in shown(reader, Choice(40, "divprune"), groups=True)
    assert "one colour per cluster" in shown(reader, Choice(40), groups=True)


def test_masks_are_boxes_and_text_is_text():
    spans = (Span("kept", 2, "5<"), Span("masked", 3, ""), Span("new", 1, "{x}"), Span("special", 2, ""))
    card = answer_card("shirg", Step("shirg", 4, spans))
    assert card.count('class="mask"') == 3 and card.count('class="end"') == 2 and "step 4" in card
    assert '<span class="kept">5&lt;</span>' in card and '<span class="new">&#123;x&#125;</span>' in card
    done = answer_card("lowres", Step("lowres", 5, spans, text="51.8%"))
    assert 'role="status">51.8%</p>' in done and "5 steps" in done
    assert "(nothing)" in answer_card("lowres", Step("lowres", 5, spans, text=""))
    assert "Ask a question" in answer_card("shirg", None) and "encoding" in answer_card("shirg", None, running=True)


def test_nothing_that_a_user_writes_is_markup_or_template():
    assert escaped("<img src=x onerror=1> ${a} {{b}} `c`") == (
        "&lt;img src=x onerror=1&gt; &#36;&#123;a&#125; &#123;&#123;b&#125;&#125; &#96;c&#96;"
    )
    assert "<b>" not in printed_answer("<b>") and printed_answer(None) == ""


def test_costs_of_both_paths_are_columns():
    ours = Costs(769, 790, tower_ms=812.4, gate_ms=6.25, prefill_ms=46, denoise_ms=80, passes=9, kv_bytes=5_990_000)
    assert costs_table(None, None) == ""
    first = costs_table(ours, None)
    assert first.count("<td>...</td>") == 7 and "<td>769</td>" in first
    both = costs_table(ours, Costs(729, 750, 100, None, 52, 90, 10, 5_680_000))
    cells = re.findall(r"<td>(.*?)</td>", both)
    assert cells == [
        "769", "729", "812 ms", "100 ms", "6.2 ms", "-", "46 ms", "52 ms", "80 ms", "90 ms",
        "0.94 s", "0.24 s", "5.99 MB", "5.68 MB",
    ]  # fmt: skip


def test_examples_are_held_out_pages_with_known_answers():
    pages = example_pages()
    assert [page.name for page in pages] == list(RECIPES)
    assert all(page.image.size == (672, 672) and len(page.answers) >= 4 for page in pages)
    assert [next(iter(page.answers)) for page in pages] == [recipe[3] for recipe in RECIPES.values()]
