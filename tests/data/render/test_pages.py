"""Every page, whatever its kind, size and print: what it says of itself is so."""

from __future__ import annotations

import functools
import random
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shirg.data.pages import Page
from shirg.data.render import (
    HELD_OUT_FONTS,
    KINDS,
    QUESTION_TEMPLATES,
    QUESTION_WORDS,
    SPLITS,
    contact_sheet,
    label_words,
    render_page,
    split_of,
)
from shirg.data.render.fonts import TRAINING_FONTS, Face, choose_family
from shirg.data.render.lexicon import FILLER
from shirg.data.render.values import SHARED_BELOW, allowed, heldout_alone, significant
from shirg.errors import UserError

SIZES = ((384, (14.0, 22.0)), (672, (8.0, 13.0)), (672, (6.0, 28.0)))


@functools.cache
def pages(kind: str, split: str = "train") -> tuple[Page, ...]:
    return tuple(
        render_page(kind, seed, size=size, text_px=text_px, split=split) for size, text_px in SIZES for seed in range(6)
    )


def overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("kind", KINDS)
def test_words_stand_inside_the_page_on_their_own_and_on_ink(kind):
    for page in pages(kind):
        grey = np.asarray(page.image.convert("L")).astype(int)
        for word in page.words:
            left, top, right, bottom = word.box
            assert 0 <= left < right <= page.image.width and 0 <= top < bottom <= page.image.height
            inside = grey[int(top) : int(bottom), int(left) : int(np.ceil(right))]
            # Print differs from its ground by more than the grain does.
            assert inside.max() - inside.min() > 40, (word, page.seed)
        for index, word in enumerate(page.words):
            assert not any(overlap(word.box, other.box) for other in page.words[:index]), (word, page.seed)


@pytest.mark.parametrize("kind", KINDS)
def test_character_edges_rise_from_one_end_of_the_box_to_the_other(kind):
    for page in pages(kind):
        for word in page.words:
            assert len(word.char_edges) == len(word.text) + 1
            assert word.char_edges[0] == word.box[0] and word.char_edges[-1] == pytest.approx(word.box[2])
            assert all(a < b for a, b in zip(word.char_edges, word.char_edges[1:], strict=False))
            assert " " not in word.text and word.text.isascii()


@pytest.mark.parametrize("kind", KINDS)
def test_questions_are_answered_by_the_words_they_point_at(kind):
    for page, (_, (low, high)) in zip(pages(kind), [s for s in SIZES for _ in range(6)], strict=True):
        assert 4 <= len(page.questions) <= 12
        assert len({q.question for q in page.questions}) == len(page.questions)
        for question in page.questions:
            words = [page.words[index] for index in question.answer_words]
            assert question.answers[0] == " ".join(word.text for word in words)
            assert question.kind in QUESTION_TEMPLATES
            assert low <= question.text_px <= high
            # Capitals and digits are about 0.7 em high in every face used.
            assert max(word.box[3] - word.box[1] for word in words) < 1.3 * question.text_px
            assert not set(question.answer_words) & set(question.key_words)


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_that_locate_an_answer_are_named_in_the_question(kind):
    located = ("field", "total", "check", "item_price", "item_count", "cell", "chart_value", "chart_axis", "pie_share")
    for page in pages(kind):
        for question in page.questions:
            if question.kind in located:
                assert question.key_words
                assert all(page.words[index].text.rstrip(":") in question.question for index in question.key_words)


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_that_is_asked_for_stands_on_the_page_once(kind):
    for page in pages(kind):
        printed = [word.text.rstrip(":") for word in page.words]
        for question in page.questions:
            if (
                question.kind in ("field", "total", "item_price", "chart_value", "pie_share")
                and len(question.key_words) == 1
            ):
                label = printed[question.key_words[0]]
                # "Date" also ends "Due Date", which is another label.
                assert sum(word == label for word in printed) == 1 or label == "Date", (label, page.seed)


def test_running_text_holds_no_label():
    assert not {word.capitalize() for word in FILLER} & set(label_words())


def test_the_same_call_gives_the_same_page_and_splits_differ():
    once, again = (render_page("form", 3, size=384, text_px=(14, 22)) for _ in range(2))
    assert once.image.tobytes() == again.image.tobytes()
    assert (once.words, once.questions) == (again.words, again.questions)
    other = render_page("form", 3, size=384, text_px=(14, 22), split="heldout")
    assert other.words != once.words


def test_a_known_page_has_not_moved():
    """Pages are part of the embedded benchmark: a change of their content must be seen here and be meant."""
    page = render_page("form", 3, size=384, text_px=(14, 22), split="validation")
    assert [(q.question, q.answers[0]) for q in page.questions] == [
        ("What is the title?", "Annual Overview"),
        ("Bank?", "Calagen"),
        ("What is the Phone?", "420-7992"),
        ("Departure?", "23/03/1976"),
        ("What is the Floor?", "30"),
        ("Read the Model.", "XB-3839"),
        ("What Case is given?", "ZP-5534"),
        ("What is the Owner?", "Perinmo Farilford"),
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_open_values_belong_to_their_split(split):
    shared = {significant(word) for word in label_words() + list(FILLER)}
    values = ("field", "total", "item_price", "item_count", "cell", "chart_value", "chart_series", "pie_share")
    seen = 0
    for kind in KINDS:
        for page in pages(kind, split):
            assert all(allowed(q.answers[0], split) for q in page.questions if q.kind in values)
            for text in (significant(word.text.rstrip(".")) for word in page.words):
                if len(text) >= SHARED_BELOW and text not in shared:
                    assert split_of(text) == split, text
                    seen += 1
    assert seen > 1000


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", KINDS)
def test_strange_values_belong_to_their_split_too(kind, split):
    strange, usual = (
        [render_page(kind, seed, size=384, text_px=(9, 14), split=split, strange=share) for seed in range(3)]
        for share in (1.0, 0.0)
    )
    open_kinds = ("field", "cell")
    said = [
        {q.answers[0] for page in pages for q in page.questions if q.kind in open_kinds} for pages in (strange, usual)
    ]
    assert all(allowed(text, split) for text in said[0])
    assert said[0].isdisjoint(said[1]) or not said[0]
    assert bool(said[0]) == (kind in ("document", "receipt", "form", "table"))


def test_splits_divide_strings_eight_to_one_to_one():
    counts = {split: 0 for split in SPLITS}
    for number in range(10000, 12000):
        counts[split_of(str(number))] += 1
    assert 1500 < counts["train"] < 1700
    assert 140 < counts["validation"] < 260 and 140 < counts["heldout"] < 260
    # The currency sign, the case and thousands separators do not change whose a value is.
    assert split_of("$1,234.50") == split_of("1234.50") and split_of("Karen") == split_of("KAREN")


def test_held_out_fonts_stay_held_out():
    rng = random.Random(0)
    assert {choose_family(rng, "train") for _ in range(200)} == set(TRAINING_FONTS.values())
    drawn = [choose_family(rng, "heldout") in HELD_OUT_FONTS.values() for _ in range(600)]
    assert 150 < sum(drawn) < 250


@pytest.mark.parametrize("file", sorted({f for pair in (TRAINING_FONTS | HELD_OUT_FONTS).values() for f in pair}))
def test_measures_are_the_font_s_own(file):
    """Edges are summed from cached steps of single characters; the sum is what the font says of the whole word."""
    from PIL import ImageFont

    from shirg.data.render.fonts import _folder

    font = ImageFont.truetype(_folder() / f"{file}.ttf", 13.5, layout_engine=ImageFont.Layout.BASIC)
    for word in ("AVATAR", "$1,204.50", "Tokyo", "AB-12/7%", "Wesford:"):
        edges, top, bottom = Face(file, 13.5).measure(word)
        assert edges[-1] == pytest.approx(font.getlength(word), abs=0.1)
        box = font.getbbox(word, anchor="ls")
        assert (top, bottom) == (box[1], box[3])
        assert font.getmask(word).getbbox()


def test_question_words_cover_the_templates():
    page = render_page("table", 0, size=384, text_px=(14, 22))
    known = set(QUESTION_WORDS) | set(label_words()) | {word.text for word in page.words}
    for question in page.questions:
        assert set(question.question.rstrip("?.").split()) <= known


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"kind": "poster"}, "poster"),
        ({"split": "test"}, "test"),
        ({"text_px": (2.0, 9.0)}, "text_px"),
        ({"text_px": (20.0, 9.0)}, "text_px"),
        ({"text_px": (60.0, 80.0)}, "672"),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        render_page(**{"kind": "form", "seed": 0, **arguments})


def test_contact_sheet_places_pages_row_by_row():
    shown = [render_page("pie", seed, size=224, text_px=(8, 12)) for seed in range(3)]
    sheet = contact_sheet(shown, columns=2, gap=4)
    assert sheet.size == (2 * 228 + 4, 2 * 228 + 4)
    assert sheet.crop((4, 232, 228, 456)).tobytes() == shown[2].image.tobytes()
    with pytest.raises(UserError, match="columns=0"):
        contact_sheet(shown, columns=0)


@given(st.text(string.ascii_letters + string.digits + " .-$", max_size=20))
def test_what_heldout_pages_alone_may_print_no_other_page_may(text):
    if heldout_alone(text):
        assert [split for split in SPLITS if allowed(text, split)] == ["heldout"]


def test_short_values_and_label_words_are_everybodys():
    assert not any(map(heldout_alone, ("12", "Total", "Annual Report", "")))
    assert heldout_alone("1,204.50") and not heldout_alone("$4.50")  # as their hashes fall
