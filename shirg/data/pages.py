"""A rendered page: an image, its words with boxes, and questions with exact answers."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the page image; right and bottom are exclusive."""

PixelBox = tuple[int, int, int, int]
"""A `Box` with whole-numbered edges, for layouts."""


@dataclass(frozen=True)
class Word:
    """One printed word (no spaces inside)."""

    text: str
    box: Box
    """Horizontally the advance width of the word, vertically its ink."""
    char_edges: tuple[float, ...]
    """x of every character boundary in page pixels, `len(text) + 1` numbers, rising from `box[0]` to `box[2]`."""


@dataclass(frozen=True)
class Question:
    """A question about a page and the words of its answer."""

    question: str
    answers: tuple[str, ...]
    """Accepted answers; the first one is the text of `answer_words` joined by spaces."""
    kind: str
    """What is asked, for example "field" or "cell": a key of `shirg.data.render.QUESTION_TEMPLATES`."""
    text_px: float
    """Font size of the answer in pixels of the page image."""
    answer_words: tuple[int, ...]
    """Indices into `Page.words` of the words that make up the answer, in reading order."""
    key_words: tuple[int, ...]
    """Indices of the words that locate the answer: its label, row header, column header; may be empty."""


@dataclass
class Page:
    """A rendered page. `image` is RGB; `words` are in the order they were printed, and no two boxes overlap."""

    image: Image.Image
    words: list[Word]
    questions: list[Question]
    kind: str
    seed: int
