"""Lessons: what is asked, and where on page and tiles it stands."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import torch
from PIL import Image

from shirg.data.pages import Page, Question, Word
from shirg.data.render import render_page
from shirg.lavida.pooling import pool_views
from shirg.nano.recipe.lessons import (
    CENTRE_OF,
    PATCHES,
    POOLED,
    POSITIONS,
    QUESTIONS,
    TOKEN_OF,
    TOUCHED,
    _some,
    collate,
    lesson,
    sorted_batches,
    tiles,
    whole_page,
)
from shirg.nano.recipe.tokenizer import END, build_tokenizer, id_of

TOKENIZER = build_tokenizer()


def word(text: str, left: float, top: float, step: float) -> Word:
    edges = tuple(left + step * number for number in range(len(text) + 1))
    return Word(text, (left, top, edges[-1], top + 10), edges)


PAGE = Page(
    image=render_page("form", 0, size=384).image,
    words=[word("Total:", 14, 14, 7), word("42", 70, 14, 14)],
    questions=[Question("What is the Total?", ("42",), "field", 14.0, (1,), (0,))],
    kind="form",
    seed=0,
)


def test_answer_characters_and_label_are_found_on_the_grid():
    one = lesson(whole_page(PAGE), PAGE.questions * QUESTIONS, TOKENIZER)
    # "Total:" has its centres at x = 17.5 ... 52.5, columns 1 to 3; y middle 19, row 1. "4" is at x = 77, "2" at 91.
    assert np.flatnonzero(one.keys[0, 0]).tolist() == [POSITIONS + col for col in (1, 2, 3)]
    assert np.flatnonzero(one.places[0, 0]).tolist() == [POSITIONS + 5]
    assert np.flatnonzero(one.places[0, 1]).tolist() == [POSITIONS + 6]
    assert not one.places[0, 2:].any()
    prompt = TOKENIZER.convert_ids_to_tokens(one.prompts[0][: one.prompt_lengths[0]].tolist())
    assert [piece for piece, named in zip(prompt, one.named[0], strict=False) if named] == ["Total"]


def test_answer_characters_are_found_in_the_tile_that_shows_them():
    """A page of 672 px on a canvas of 768: x = 400 is at 457.1, 73.1 in a tile on the right; y = 405 (the middle) at 462.9, 78.9
    in a tile below. Patches are 14 px: column 5, row 5, of which the third pooled row and column show most."""
    page = Page(
        image=Image.new("RGB", (672, 672), "white"),
        words=[word("4", 396, 400, 8)],
        questions=[Question("What is the Total?", ("4",), "field", 14.0, (0,), ())],
        kind="form",
        seed=0,
    )
    small, large = (lesson(tiles(page, px), page.questions * QUESTIONS, TOKENIZER) for px in (8.0, 20.0))
    last = 4 * POOLED**2 + 2 * POOLED + 2
    assert np.flatnonzero(small.places[0, 0]).tolist() == [last]
    # In the base view the middle is at (228.6, 231.4): patch 16, 16, the eighth pooled row and column; read if print is large.
    assert np.flatnonzero(large.places[0, 0]).tolist() == [8 * POOLED + 8, last]
    assert small.readable.reshape(5, -1).all(1).tolist() == [False, True, True, True, True] and large.readable.all()
    characters = small.characters.reshape(5, POSITIONS, POSITIONS, -1)
    assert [characters[view].any() for view in range(5)] == [True, False, False, False, True]
    assert characters[4, 5, 5, 0] > 0 and characters[0, 16, 16, 0] > 0
    written = small.written.reshape(5, POOLED, POOLED)
    assert written[4, 2, 2] and written[0, 8, 8] and written.sum() < 14


def test_pooled_rows_are_those_of_the_model():
    for patch in (0, 5, 13, 26):
        grid = torch.zeros(1, PATCHES, 1)
        grid[0, patch * POSITIONS + patch] = 1.0
        pooled = pool_views(grid, (POSITIONS, POSITIONS)).view(POOLED, POOLED)
        assert pooled.argmax() == TOKEN_OF[patch] * (POOLED + 1)
        assert set(np.flatnonzero(TOUCHED[:, patch])) == set((pooled.diagonal() > 0.03**2).nonzero()[:, 0].tolist())
    assert [TOKEN_OF[centre] for centre in CENTRE_OF] == list(range(POOLED))


def test_edges_of_bars_count_as_ink():
    page = render_page("bar", 1, size=672, text_px=(12, 14))
    (view,) = whole_page(page)
    words = view.inked & whole_page(Page(page.image, page.words, page.questions, "form", 1))[0].inked
    assert view.inked.sum() > 1.3 * words.sum() and view.inked.mean() < 0.8


def test_a_page_with_many_questions_gives_two_lessons_that_share_none():
    questions = [Question(str(number), ("1",), "field", 9.0, (), ()) for number in range(10)]
    first, second = _some(questions, random.Random(0))
    assert len(first) == len(second) == QUESTIONS
    assert {one.question for one in first} | {one.question for one in second} == {str(number) for number in range(10)}
    assert not {one.question for one in first} & {one.question for one in second}
    assert len(list(_some(questions[:9], random.Random(0)))) == 1


def test_hard_questions_are_asked_more_often():
    questions = [
        Question("?", ("1",), kind, 9.0, (), ()) for kind in ("chart_series", *["chart_value"] * 5, "title", "title")
    ]
    asked = Counter(one.kind for seed in range(200) for one in next(_some(questions, random.Random(seed))))
    assert asked["chart_series"] > 190 and asked["title"] < 0.6 * 400


def test_batches_are_of_equal_length_and_ink():
    pages = [render_page(kind, seed, size=384, text_px=(12, 16)) for kind in ("table", "form") for seed in range(6)]
    lessons = [lesson(whole_page(page), next(_some(page.questions, random.Random(0))), TOKENIZER) for page in pages]
    batches = sorted_batches(lessons, 3, id_of(TOKENIZER, END))
    assert sorted(id(one) for batch in batches for one in batch) == sorted(map(id, lessons))

    def longest(some: list) -> int:
        return max((one.answers != id_of(TOKENIZER, END)).sum(1).max() for one in some)

    assert max(map(longest, batches[:2])) <= min(longest([one]) for batch in batches[2:] for one in batch)
    ink = [one.inked.sum() for batch in batches[:2] for one in batch]
    assert ink == sorted(ink)


def test_collate_stacks_all_fields():
    one = lesson(whole_page(PAGE), PAGE.questions * QUESTIONS, TOKENIZER)
    batch = collate([one, one])
    assert batch["inked"].shape == (2, PATCHES) and batch["pixels"].shape == (2, 1, 384, 384, 3)
