"""How the questions of pages are put into batches."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from shirg.evaluation.answering import Decoding
from shirg.evaluation.questions import Inference, PageQuestions
from shirg.evaluation.tasks import find_task
from shirg.evaluation.variants import Variant
from shirg.lavida import Lavida
from tests.evaluation.conftest import page_record
from tests.tiny import printable, tiny_model

VARIANT = Variant("lowres")
TASK = find_task("charts")
RECORD = page_record(0)


def pages_of(counts: list[int]) -> list[PageQuestions]:
    records = [[replace(RECORD, id=f"{page}:{one}") for one in range(count)] for page, count in enumerate(counts)]
    return [PageQuestions(TASK, tuple((record, record.question) for record in some)) for some in records]


def groups(counts: list[int], size: int, answered: tuple[int, ...] = ()) -> list[list[int]]:
    """Numbers of questions of the pages in each group, with the questions of pages `answered` answered."""
    pages = pages_of(counts)
    rows = {key for page in answered for key in pages[page].keys([VARIANT])}
    inference = Inference({}, [VARIANT], Decoding(4, 4, 0.5, batch_size=size))
    return [[len(page.prompts) for page in group] for group in inference.groups(pages, rows)]


def test_pages_share_a_batch_while_it_has_room():
    assert groups([3, 4, 1, 9, 2, 2], 8) == [[3, 4, 1], [9], [2, 2]]
    assert groups([3, 4, 1, 9, 2, 2], 8, answered=(1, 5)) == [[3, 1], [9], [2]]
    assert groups([3, 4], 1) == [[3], [4]]


@given(counts=st.lists(st.integers(1, 9), max_size=12), size=st.integers(1, 16))
def test_every_page_is_asked_once_and_no_group_of_pages_is_larger_than_a_batch(counts, size):
    found = groups(counts, size)
    assert [count for group in found for count in group] == counts
    assert all(len(group) == 1 or sum(group) <= size for group in found)


def test_questions_of_several_pages_are_denoised_together_and_answered_as_alone(monkeypatch):
    """In float64; the pages differ, and so do their answers."""
    model = printable(tiny_model().double())
    pages = [PageQuestions(TASK, ((record, record.question),)) for record in (page_record(n, page=n) for n in range(3))]
    sizes, generate = [], Lavida.generate
    monkeypatch.setattr(
        Lavida, "generate", lambda *given, **named: sizes.append(len(given[1])) or generate(*given, **named)
    )

    def rows(size: int) -> list:
        variants = [VARIANT, Variant("shirg", 24)]
        inference = Inference({None: model}, variants, Decoding(4, 4, 0.5, batch_size=size))
        found = [row for group in inference.groups(pages, ()) for row in inference.rows(group, ())]
        return sorted(found, key=lambda row: (row["id"], row["mode"]))

    together = rows(3)
    assert sizes == [3, 3]
    assert together == rows(1) and sizes == [3, 3] + [1] * 6
    assert len({row["prediction"] for row in together}) > 1
