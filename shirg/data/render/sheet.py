"""The sheet a page is composed on: it prints words, keeps their positions, and collects questions."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from shirg.data.pages import Box, Question, Word
from shirg.data.render.fonts import Face
from shirg.data.render.lexicon import QUESTION_TEMPLATES
from shirg.data.render.looks import Colour, Look
from shirg.data.render.values import Values

Printed = tuple[int, ...]
"""Indices of the words of a printed phrase; empty if it did not fit."""


class Sheet:
    """A square page while it is composed.

    Words are printed only where the page is free, so no two boxes overlap. A layout that needs a phrase checks what `put`
    returns.

    Args:
        size: side of the page in pixels.
        rng: the page's random numbers.
        look: faces and colours.
        values: source of open values.
    """

    def __init__(self, size: int, rng: random.Random, look: Look, values: Values) -> None:
        self.size = size
        self.rng = rng
        self.look = look
        self.values = values
        self.image = Image.new("RGB", (size, size), look.paper)
        self.draw = ImageDraw.Draw(self.image)
        self.words: list[Word] = []
        self.sizes: list[float] = []
        self.questions: list[Question] = []
        self._taken = np.zeros((size, size), dtype=bool)

    def free(self, box: Box) -> bool:
        """Whether `box` lies inside the page and touches nothing printed or reserved."""
        left, top, right, bottom = (int(edge) for edge in box)
        if left < 1 or top < 1 or right > self.size - 1 or bottom > self.size - 1:
            return False
        return not self._taken[top:bottom, left:right].any()

    def reserve(self, box: Box) -> None:
        """Keep words out of `box`."""
        left, top, right, bottom = (max(0, int(edge)) for edge in box)
        self._taken[top:bottom, left:right] = True

    def put(
        self, text: str, x: float, y: float, face: Face, colour: Colour | None = None, align: str = "left"
    ) -> Printed:
        """Print `text` on one line, or nothing if any of its words has no free space.

        Args:
            text: one or more words; the gap between them is the face's.
            x: the line's left end, middle or right end, depending on `align`, in pixels.
            y: top of the capitals, in pixels.
            face: font and size.
            colour: the look's ink if absent.
            align: "left", "middle" or "right".
        """
        start = int(x - {"left": 0.0, "middle": 0.5, "right": 1.0}[align] * face.width(text))
        baseline = int(y) + face.cap
        placed: list[Word] = []
        for word in text.split():
            edges, top, bottom = face.measure(word)
            box = (start, baseline + top, start + edges[-1], baseline + bottom)
            if not self.free((box[0] - 1, box[1], box[2] + 2, box[3])):
                return ()
            placed.append(Word(word, box, tuple(start + edge for edge in edges)))
            start += math.ceil(edges[-1]) + face.space
        for one in placed:
            self.reserve((one.box[0], one.box[1], one.box[2] + 1, one.box[3]))
            mask, left, top = face.mask(one.text)
            self.draw.bitmap((int(one.box[0]) + left, baseline + top), mask, fill=colour or self.look.ink)
        self.words += placed
        self.sizes += [face.size] * len(placed)
        return tuple(range(len(self.words) - len(placed), len(self.words)))

    def put_label(self, label: str, x: float, y: float, face: Face, colour: Colour | None = None) -> Printed:
        """Print the name of a field, with a colon where the look has one."""
        return self.put(label + ":" if self.look.colon else label, x, y, face, colour)

    def label_width(self, label: str, face: Face) -> int:
        """Width of what `put_label` prints."""
        return face.width(label + ":" if self.look.colon else label)

    def ask(self, kind: str, answer: Printed, *keys: Printed, **slots: str) -> None:
        """Add a question answered by the printed words `answer`, unless one of its parts was not printed.

        Args:
            kind: a key of `QUESTION_TEMPLATES`; one of its wordings is drawn.
            answer: the answer's words.
            keys: the words that locate it, one group per label.
            slots: what fills the template.
        """
        if not answer or not all(keys):
            return
        text = self.rng.choice(QUESTION_TEMPLATES[kind]).format(**slots)
        answers = (" ".join(self.words[index].text for index in answer),)
        key_words = tuple(index for group in keys for index in group)
        self.questions.append(Question(text, answers, kind, self.sizes[answer[0]], answer, key_words))

    def flow(
        self, phrases: Sequence[str], box: Box, face: Face, colour: Colour | None = None
    ) -> tuple[list[Printed], int]:
        """Set `phrases` as running text inside `box`; a phrase is never broken over two lines.

        Returns:
            What each phrase became (empty for those that found no room), and the y below the last line.
        """
        left, top, right, bottom = box
        x, y = left, int(top)
        printed: list[Printed] = []
        for phrase in phrases:
            width = face.width(phrase)
            if x + width > right and x > left:
                x, y = left, y + face.line
            if y + face.cap > bottom or x + width > right:
                printed.append(())
                continue
            printed.append(self.put(phrase, x, y, face, colour))
            x += width + face.space
        return printed, y + face.line
