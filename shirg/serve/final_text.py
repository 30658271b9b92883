"""The part of an answer's text that cannot change any more, for streaming."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"
"""What a tokenizer decodes the first bytes of a character to."""


class FinalText:
    """Pieces of a text whose concatenation is the whole answer, cut before the first of `stops`.

    Denoising fills positions in any order, but a filled one never changes. So the text of the tokens before the first mask is
    final, except for a character whose last bytes are missing, blanks at its end, which the whole text may not have, and a
    beginning of a stop string.

    Args:
        text_of: ids without a mask -> their text without blanks around it; of an answer's first ids it gives the beginning
            of the answer's text, but for what is named above.
    """

    def __init__(self, text_of: Callable[[Sequence[int]], str], stops: Sequence[str] = ()):
        self.text_of, self.stops = text_of, tuple(stops)
        self.sent = ""
        self.stopped = False
        """Whether a stop string was found."""

    def update(self, ids: Sequence[int], *, complete: bool) -> str:
        """The new piece, which may be empty.

        Args:
            ids: the ids before the first mask.
            complete: whether no further ids follow.
        """
        if self.stopped:
            return ""
        text = self.text_of(ids)
        ends = [place for place in (text.find(stop) for stop in self.stops) if place >= 0]
        self.stopped = bool(ends)
        if ends:
            text = text[: min(ends)]
        elif not complete:
            text = text.rstrip(UNFINISHED)
            text = text[: len(text) - max((_overlap(text, stop) for stop in self.stops), default=0)].rstrip()
        piece = text[len(self.sent) :] if text.startswith(self.sent) else ""
        self.sent += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
