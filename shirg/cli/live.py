"""The tokens of an answer after each denoising step, on stderr: one line that is redrawn, or one line per step."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from shirg.lavida.progress import AnswerProgress, Span, State

if TYPE_CHECKING:
    from torch import Tensor

    from shirg.lavida import Lavida
    from shirg.lavida.diffusion.generation import OnStep

STYLES: dict[State, str] = {
    "masked": "dim",
    "new": "bold green",
    "kept": "",
    "new-special": "bold cyan",
    "special": "dim cyan",
}


class AnswerView:
    """Draws the tokens of one answer."""

    def __init__(self, model: Lavida, *, unicode: bool):
        self.progress = AnswerProgress(model)
        self.mask_sign, self.special_sign, self.newline = ("\u2591", "\u00b7", "\u21b5") if unicode else ("_", ".", " ")
        self.passes = 0

    def line(self, number: int, tokens: Tensor) -> Text:
        """Step `number`, which ended with `tokens` [1, N], as one line; what it committed is highlighted."""
        spans = self.progress.spans(tokens)
        self.passes, total = number, tokens.shape[1]
        filled = sum(span.tokens for span in spans if span.state != "masked")
        line = Text(f"step {number:>2}  {filled:>{len(str(total))}}/{total} tokens  ", style="")
        line.stylize("dim")
        for span in spans:
            line.append(self._span_text(span), style=STYLES[span.state])
        return line

    def _span_text(self, span: Span) -> str:
        if span.state not in ("new", "kept"):
            return (self.mask_sign if span.state == "masked" else self.special_sign) * span.tokens
        return "".join(self.newline if sign == "\n" else sign if sign.isprintable() else " " for sign in span.text)


@contextlib.contextmanager
def shown_steps(model: Lavida, *, every_step: bool) -> Iterator[OnStep | None]:
    """The callback for each step; None if nothing is drawn.

    Args:
        every_step: one line per step that stays, on a terminal or not. Otherwise a terminal gets a line that is redrawn,
            and anything else nothing. Without a tokenizer nothing is drawn; `Lavida.answer` then raises.
    """
    console = Console(stderr=True, highlight=False)
    redrawn = sys.stderr.isatty() and not console.is_dumb_terminal
    if model.tokenizer is None or not (every_step or redrawn):
        yield None
        return
    view = AnswerView(model, unicode=console.encoding.startswith("utf"))
    if every_step:
        yield lambda number, tokens: console.print(view.line(number, tokens), soft_wrap=True)
    else:
        # Transient: the line is removed and the cursor restored, after Ctrl-C too.
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda number, tokens: live.update(_one_line(view.line(number, tokens)), refresh=True)
        console.print(f"{view.passes} passes for {len(view.progress.ids)} tokens", style="dim")


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
