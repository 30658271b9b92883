"""The page: its layout and event handlers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from shirg.data.images import read_bytes
from shirg.demo.examples import Example
from shirg.demo.markup import answer_card, costs_table, escaped, figure, plain_figure, printed_answer
from shirg.demo.reading import Choice, Reader, Step
from shirg.demo.remote import RemoteReader
from shirg.errors import UserError
from shirg.gate import SELECTORS
from shirg.images import open_image

LEAST_BUDGET, BUDGET_STEP, FIRST_BUDGET = 64, 16, 768
SHOWN_S = 0.12
"""Shortest time for which a step is shown; the model does not wait for it."""
Page = Any
"""What the reader's `encode` returns; gradio keeps it in the session's state."""
FORGET_AFTER_S = 1800
"""Time without a new page after which a user's page is deleted."""
NAME_LENGTH = 60

OWN, WHOLE = "as started", "Kept patches"
VIEWS = (WHOLE, "Groups")
NAMES = {
    "shirg": "SHIRG",
    "random": "random patches",
    "uniform": "an even grid",
    "pool": "pooled blocks (merges)",
    "downsample": "a smaller picture (merges)",
    "tome": "ToMe (merges)",
    "divprune": "DivPrune",
    "cdpruner": "CDPruner",
    "vispruner": "VisPruner",
    "holov": "HoloV",
    "dart": "DART",
    "tops": "TOPS, stage I",
    "visionzip": "VisionZip",
    "prumerge": "PruMerge",
    "distinct": "patches that are no copies",
}
"""Selector -> its label; others have their own name as label."""

INTRO = """
<header class="shirg-intro"><h1>Read small print at a cost you choose</h1>
<p>SHIRG encodes a page once at {side} x {side} pixels, selects patches and gives only those to the language model.
Change the budget and see which patches are kept; then ask.</p></header>
"""
NO_PAGE = "choose a page first; pages are deleted after half an hour"


class Handlers:
    """Event handlers of one reader and its examples; a user's page is in the session's state only."""

    def __init__(self, reader: Reader | RemoteReader, examples: Sequence[Example]):
        self.reader, self.examples = reader, examples
        self._encoded: dict[int, Page] = {}
        """Example pages, encoded once for all users."""

    def pick(self, place: int, *dials: Any) -> tuple[Any, ...]:
        """Show an example and its first question."""
        example = self.examples[place]
        if place not in self._encoded:
            self._encoded[place] = self.reader.encode(example.image, example.name)
        questions = list(example.answers)
        asked = gr.Dataset(samples=[[question] for question in questions], visible=True)
        shown = self.draw(self._encoded[place], questions[0], *dials)
        return self._encoded[place], shown, "", questions[0], asked, *self.no_answers()

    def picked(self, event: gr.SelectData, *dials: Any) -> tuple[Any, ...]:
        """The example that was clicked."""
        return self.pick(int(event.index), *dials)

    def upload(self, path: str | None, before: Page | None, question: str, *dials: Any) -> tuple[Any, ...]:
        """Show the user's page; the file is deleted once it is read. An unreadable file changes the notice only."""
        if path is None:
            return (gr.skip(),) * 9
        file = Path(path)
        try:
            page = self.reader.encode(open_image(read_bytes(file), file.name[:NAME_LENGTH]), file.name[:NAME_LENGTH])
        except UserError as error:
            reason = str(error).replace(str(file.parent), "").replace("image /", "")
            notice = f'<p class="notice" role="alert">{escaped(reason)}</p>'
            return before, gr.skip(), notice, gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip(), None
        finally:
            file.unlink(missing_ok=True)
        no_suggestions = gr.Dataset(samples=[], visible=False)
        return page, self.draw(page, question, *dials), "", question, no_suggestions, *self.no_answers(), None

    def draw(
        self,
        page: Page | None,
        question: str,
        budget: int,
        selector: str,
        preset: str,
        use_question: bool,
        view: str,
        early: bool,
    ) -> str:
        """The picture of the tokens that the controls select."""
        with errors_shown():
            if page is None:
                raise UserError(NO_PAGE)
            choice = self.choice(question, budget, selector, preset, use_question, early)
            if isinstance(self.reader, RemoteReader):
                return plain_figure(page.name, page.canvas, choice.budget)
            selected, groups = self.reader.select(page, choice), view != WHOLE
            drawn = self.reader.draw(page, selected.kept, groups=groups)
            return figure(page, selected, drawn, question=choice.question, groups=groups)

    def ask(
        self,
        page: Page | None,
        question: str,
        budget: int,
        selector: str,
        preset: str,
        use_question: bool,
        _view: str,
        early: bool,
    ) -> Iterator[tuple[str, str, str]]:
        """Both answers, one after the other, step by step, with their costs."""
        with errors_shown():
            if page is None:
                raise UserError(NO_PAGE)
            if not question.strip():
                raise UserError("the question is empty: write one, or choose one below")
            choice = self.choice(question, budget, selector, preset, use_question, early)
            known = printed_answer(self._known(page, question))
            last: dict[str, Step | None] = {"shirg": None, "lowres": None}
            yield *self._cards(last), known
            for path, selection in (("shirg", choice), ("lowres", None)):
                for step in paced(self.reader.answer(page, question, selection)):
                    last[path] = step
                    yield *self._cards(last), known + _costs(last)

    @staticmethod
    def _cards(last: dict[str, Step | None]) -> tuple[str, str]:
        return answer_card("shirg", last["shirg"], running=True), answer_card("lowres", last["lowres"], running=True)

    @staticmethod
    def no_answers() -> tuple[str, str, str]:
        """The cards before a question."""
        return answer_card("shirg", None), answer_card("lowres", None), ""

    def _known(self, page: Page, question: str) -> str | None:
        for place, encoded in self._encoded.items():
            if encoded is page:
                return self.examples[place].answers.get(question.strip())
        return None

    def choice(self, question: str, budget: int, selector: str, preset: str, use_question: bool, early: bool) -> Choice:
        """The settings of the controls."""
        asked = question.strip() if use_question and self.reader.uses_question and not early else ""
        return Choice(int(budget), selector, None if preset == OWN else preset, asked, early)


def _costs(last: dict[str, Step | None]) -> str:
    return costs_table(*(None if step is None else step.costs for step in (last["shirg"], last["lowres"])))


def paced(steps: Iterator[Step]) -> Iterator[Step]:
    """The steps, at least `SHOWN_S` apart."""
    due = 0.0
    for step in steps:
        time.sleep(max(0.0, due - time.monotonic()))
        due = time.monotonic() + SHOWN_S
        yield step


@contextlib.contextmanager
def errors_shown() -> Iterator[None]:
    """Show the message of a `UserError` on the page."""
    try:
        yield
    except UserError as error:
        raise gr.Error(escaped(str(error)), duration=12, title="Not possible", print_exception=False) from error


def build(reader: Reader | RemoteReader, examples: Sequence[Example]) -> gr.Blocks:
    """The page for one reader, not served yet. All calls of the model share one queue."""
    handlers = Handlers(reader, examples)
    queued = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private", "show_progress": "hidden"}
    latest = {**queued, "trigger_mode": "always_last"}
    with gr.Blocks(title="SHIRG", analytics_enabled=False, delete_cache=(FORGET_AFTER_S, FORGET_AFTER_S)) as page:
        gr.HTML(INTRO.format(side=reader.side))
        current = gr.State(None, time_to_live=FORGET_AFTER_S)
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                shelf, drop, notice, (budget, selector, preset, view, early) = _controls(reader, examples)
            with gr.Column(scale=6, min_width=300):
                picture = gr.HTML()
        question, use_question, ask, asked, answers = _questions(reader)
        dials = [budget, selector, preset, use_question, view, early]
        inputs, outputs = [current, question, *dials], [current, picture, notice, question, asked, *answers]
        page.load(partial(handlers.pick, 0), dials, outputs, **latest)
        shelf.select(handlers.picked, dials, outputs, **latest)
        drop.upload(handlers.upload, [drop, *inputs], [*outputs, drop], **queued)
        gr.on([*(dial.input for dial in dials), question.blur], handlers.draw, inputs, picture, **latest)
        suggested = asked.click(lambda sample: sample[0], asked, question, **latest)
        suggested.then(handlers.draw, inputs, picture, **latest)
        gr.on([ask.click, question.submit], handlers.ask, inputs, answers, **queued)
    return page


def _controls(reader: Reader | RemoteReader, examples: Sequence[Example]) -> tuple[Any, Any, Any, list[Any]]:
    """The gallery of examples, the upload field, its notice, and the controls but for the question."""
    shelf = gr.Gallery(
        [(example.image, example.name) for example in examples], label="Pick a page", show_label=False, columns=4, rows=1,
        height=128, allow_preview=False, interactive=False, object_fit="cover", buttons=[], elem_classes="shirg-shelf",
    )  # fmt: skip
    drop = gr.File(label="Your own: PNG, JPEG, WebP, TIFF, ...", height=128, elem_classes="shirg-drop")
    notice = gr.HTML(elem_classes="shirg-notice")
    with gr.Row():
        names = sorted(SELECTORS, key=lambda name: (list(NAMES).index(name) if name in NAMES else len(NAMES), name))
        selector = gr.Dropdown(
            [(NAMES.get(name, name), name) for name in names], value=reader.selector,
            label="Selector", info="or others to compare", min_width=130,
        )  # fmt: skip
        preset = gr.Dropdown(
            [(OWN, OWN), ("words kept whole", "runs"), ("SHIRG-v2's formula", "shirg-v2"), ("strokes first", "ocr")], value=OWN,
            label="SHIRG's settings", info="others have none", min_width=130,
        )  # fmt: skip
    most = reader.patches
    budget = gr.Slider(
        min(LEAST_BUDGET, most), most, min(FIRST_BUDGET, most), step=BUDGET_STEP, buttons=[],
        label="Budget", info=f"patches to keep, of {most:,}; one more token is the mean of the others",
    )  # fmt: skip
    view = gr.Radio(VIEWS, value=WHOLE, label="Show", info="groups: clusters, or patches merged into one token")
    early = gr.Checkbox(
        False, label="Choose before encoding", info="only kept patches are encoded; the question is not used", container=False,
    )  # fmt: skip
    return shelf, drop, notice, [budget, selector, preset, view, early]


def _questions(reader: Reader | RemoteReader) -> tuple[Any, Any, Any, Any, list[Any]]:
    """The question, whether to select by it, the button, suggestions, and the answers."""
    with gr.Row(elem_classes="shirg-ask"):
        question = gr.Textbox(
            label="Question", placeholder="What is the total?", scale=6, max_length=500, min_width=200
        )
        ask = gr.Button("Ask", variant="primary", scale=1, min_width=100)
    asked = gr.Dataset(
        components=[question], samples=[], type="values", samples_per_page=12, label="Questions about this page",
        visible=False,
    )  # fmt: skip
    use_question = gr.Checkbox(
        reader.uses_question, label="Select patches by the question too", interactive=reader.uses_question, container=False,
        info=None if reader.uses_question else "this model selects by the page alone",
    )  # fmt: skip
    cards = Handlers.no_answers()
    with gr.Row(elem_classes="shirg-answers"):
        ours, lowres = (gr.HTML(card, min_width=150) for card in cards[:2])
    costs = gr.HTML(cards[2])
    return question, use_question, ask, asked, [ours, lowres, costs]
