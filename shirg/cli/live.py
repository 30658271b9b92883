"""An answer filling in, step by step, on stderr: one line that is redrawn, or one line per step."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from torch import Tensor

    from shirg.lavida import Lavida
    from shirg.lavida.diffusion.generation import OnStep

MASK, NEW, KEPT, NEW_UNSAID, UNSAID = "dim", "bold green", "", "bold cyan", "dim cyan"
"""Styles of what is still masked; what this step committed and what was there before; the same for tokens that are no text,
such as the end of the turn."""


class AnswerView:
    """Draws the tokens of one answer."""

    def __init__(self, model: Lavida, *, unicode: bool):
        self.tokenizer, self.mask_token_id = model.tokenizer, model.config.mask_token_id
        self.unsaid = set(model.tokenizer.all_special_ids) | model.stop_ids
        self.mask_sign, self.unsaid_sign, self.newline = ("\u2591", "\u00b7", "\u21b5") if unicode else ("_", ".", " ")
        self.before: list[int] = []
        self.passes = 0

    def line(self, number: int, tokens: Tensor) -> Text:
        """Step `number`, which ended with `tokens` [1, N], as one line; what it committed is highlighted."""
        ids = tokens[0].tolist()
        before = self.before or [self.mask_token_id] * len(ids)
        self.before, self.passes = ids, number
        filled = sum(token != self.mask_token_id for token in ids)
        line = Text(f"step {number:>2}  {filled:>{len(str(len(ids)))}}/{len(ids)} tokens  ", style="")
        line.stylize("dim")
        styles = [self._style(token, old) for token, old in zip(ids, before, strict=True)]
        for style, run in itertools.groupby(zip(styles, ids, strict=True), key=lambda pair: pair[0]):
            line.append(self._said([token for _, token in run], style), style=style)
        return line

    def _style(self, token: int, before: int) -> str:
        if token == self.mask_token_id:
            return MASK
        new = before == self.mask_token_id
        if token in self.unsaid:
            return NEW_UNSAID if new else UNSAID
        return NEW if new else KEPT

    def _said(self, ids: list[int], style: str) -> str:
        if style not in (NEW, KEPT):
            return (self.mask_sign if style == MASK else self.unsaid_sign) * len(ids)
        text = self.tokenizer.decode(ids)
        return "".join(self.newline if sign == "\n" else sign if sign.isprintable() else " " for sign in text)


@contextlib.contextmanager
def shown_steps(model: Lavida, *, every_step: bool) -> Iterator[OnStep | None]:
    """What to call after each step; None where nobody looks.

    Args:
        every_step: one line per step that stays, on a terminal or not. Otherwise a terminal gets a line that is redrawn,
            and anything else nothing. Nor is anything drawn without a tokenizer: there is no answer either, and that is
            for `Lavida.answer` to say.
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
        # Transient: whatever ends the run, Ctrl-C included, the line goes and the cursor comes back.
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda number, tokens: live.update(_one_line(view.line(number, tokens)), refresh=True)
        console.print(f"{view.passes} passes for {len(view.before)} tokens", style="dim")


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
