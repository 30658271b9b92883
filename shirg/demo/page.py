"""The page: what stands where, and what happens when something is touched."""

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
from shirg.demo.markup import answer_card, costs_table, figure, said, truth
from shirg.demo.reading import Choice, LookedAt, Reader, Step
from shirg.errors import UserError
from shirg.gate import SELECTORS
from shirg.images import open_image

LEAST_BUDGET, BUDGET_STEP, FIRST_BUDGET = 64, 16, 768
SHOWN_S = 0.12
"""Least time for which a step can be seen; the model does not wait for it."""
PUT_AWAY_S = 1800
"""After so long without a new page a user's page is forgotten."""
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
}
"""Selector -> what it is called here; any other by its own name."""

INTRO = """
<header class="shirg-intro"><h1>Read small print at a cost you choose</h1>
<p>SHIRG looks at a page once at {side} x {side} pixels, keeps the patches that matter and hands only those to the model.
Turn the budget and watch what stays; then ask.</p></header>
"""
GONE = "choose a page first; pages are put away after half an hour"


class Handlers:
    """What happens, for one reader and its examples; a user's page lives in the session's state alone."""

    def __init__(self, reader: Reader, examples: Sequence[Example]):
        self.reader, self.examples = reader, examples
        self._looked: dict[int, LookedAt] = {}
        """Example pages are everybody's: the tower sees each of them once."""

    def pick(self, place: int, *dials: Any) -> tuple[Any, ...]:
        """An example instead of whatever was there, and its first question."""
        example = self.examples[place]
        if place not in self._looked:
            self._looked[place] = self.reader.look(example.image, example.name)
        questions = list(example.answers)
        asked = gr.Dataset(samples=[[question] for question in questions], visible=True)
        shown = self.draw(self._looked[place], questions[0], *dials)
        return self._looked[place], shown, "", questions[0], asked, *self.no_answers()

    def picked(self, event: gr.SelectData, *dials: Any) -> tuple[Any, ...]:
        """The example that was clicked."""
        return self.pick(int(event.index), *dials)

    def upload(self, path: str | None, before: LookedAt | None, question: str, *dials: Any) -> tuple[Any, ...]:
        """A page of the user's; the file is deleted once it is read. What cannot be read changes nothing but the notice."""
        if path is None:
            return (gr.skip(),) * 9
        file = Path(path)
        try:
            page = self.reader.look(open_image(read_bytes(file), file.name[:NAME_LENGTH]), file.name[:NAME_LENGTH])
        except UserError as error:
            reason = str(error).replace(str(file.parent), "").replace("image /", "")
            notice = f'<p class="notice" role="alert">{said(reason)}</p>'
            return before, gr.skip(), notice, gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip(), None
        finally:
            file.unlink(missing_ok=True)
        nothing_known = gr.Dataset(samples=[], visible=False)
        return page, self.draw(page, question, *dials), "", question, nothing_known, *self.no_answers(), None

    def draw(
        self, page: LookedAt | None, question: str, budget: int, selector: str, preset: str, mindful: bool, view: str
    ) -> str:
        """The picture of the choice that the dials say."""
        with readable():
            if page is None:
                raise UserError(GONE)
            choice = self.choice(question, budget, selector, preset, mindful)
            chosen, groups = self.reader.choose(page, choice), view != WHOLE
            drawn = self.reader.draw(page, chosen.kept, groups=groups)
            return figure(page, chosen, drawn, question=choice.question, groups=groups)

    def ask(
        self,
        page: LookedAt | None,
        question: str,
        budget: int,
        selector: str,
        preset: str,
        mindful: bool,
        _view: str,
    ) -> Iterator[tuple[str, str, str]]:
        """Both answers, one after the other, as they fill in, and what they cost."""
        with readable():
            if page is None:
                raise UserError(GONE)
            if not question.strip():
                raise UserError("the question is empty: write one, or take one of those below it")
            choice = self.choice(question, budget, selector, preset, mindful)
            known = truth(self._known(page, question))
            last: dict[str, Step | None] = {"shirg": None, "lowres": None}
            yield *self._cards(last), known
            for path, way in (("shirg", choice), ("lowres", None)):
                for step in paced(self.reader.answer(page, question, way)):
                    last[path] = step
                    yield *self._cards(last), known + _costs(last)

    @staticmethod
    def _cards(last: dict[str, Step | None]) -> tuple[str, str]:
        return answer_card("shirg", last["shirg"], running=True), answer_card("lowres", last["lowres"], running=True)

    @staticmethod
    def no_answers() -> tuple[str, str, str]:
        """The cards before a question."""
        return answer_card("shirg", None), answer_card("lowres", None), ""

    def _known(self, page: LookedAt, question: str) -> str | None:
        for place, looked in self._looked.items():
            if looked is page:
                return self.examples[place].answers.get(question.strip())
        return None

    def choice(self, question: str, budget: int, selector: str, preset: str, mindful: bool) -> Choice:
        """What the dials say."""
        asked = question.strip() if mindful and self.reader.asks else ""
        return Choice(int(budget), selector, None if preset == OWN else preset, asked)


def _costs(last: dict[str, Step | None]) -> str:
    return costs_table(*(None if step is None else step.costs for step in (last["shirg"], last["lowres"])))


def paced(steps: Iterator[Step]) -> Iterator[Step]:
    """The same steps, none sooner than `SHOWN_S` after the one before."""
    due = 0.0
    for step in steps:
        time.sleep(max(0.0, due - time.monotonic()))
        due = time.monotonic() + SHOWN_S
        yield step


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """What the user can mend is said on the page, in the error's own words."""
    try:
        yield
    except UserError as error:
        raise gr.Error(said(str(error)), duration=12, title="Not yet", print_exception=False) from error


def build(reader: Reader, examples: Sequence[Example]) -> gr.Blocks:
    """The page for one reader; nothing is served yet. All that touches the model stands in one queue, whoever asks."""
    handlers = Handlers(reader, examples)
    queued = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private", "show_progress": "hidden"}
    latest = {**queued, "trigger_mode": "always_last"}
    with gr.Blocks(title="SHIRG", analytics_enabled=False, delete_cache=(PUT_AWAY_S, PUT_AWAY_S)) as page:
        gr.HTML(INTRO.format(side=reader.model.vision.resolution))
        looked = gr.State(None, time_to_live=PUT_AWAY_S)
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                shelf, drop, notice, (budget, selector, preset, view) = _controls(reader, examples)
            with gr.Column(scale=6, min_width=300):
                picture = gr.HTML()
        question, mindful, ask, asked, answers = _questions(reader)
        dials = [budget, selector, preset, mindful, view]
        seen, fresh = [looked, question, *dials], [looked, picture, notice, question, asked, *answers]
        page.load(partial(handlers.pick, 0), dials, fresh, **latest)
        shelf.select(handlers.picked, dials, fresh, **latest)
        drop.upload(handlers.upload, [drop, *seen], [*fresh, drop], **queued)
        gr.on([*(dial.input for dial in dials), question.blur], handlers.draw, seen, picture, **latest)
        suggested = asked.click(lambda sample: sample[0], asked, question, **latest)
        suggested.then(handlers.draw, seen, picture, **latest)
        gr.on([ask.click, question.submit], handlers.ask, seen, answers, **queued)
    return page


def _controls(reader: Reader, examples: Sequence[Example]) -> tuple[Any, Any, Any, list[Any]]:
    """The shelf of examples, the place to drop a file, the notice about it, and the dials without the question's."""
    shelf = gr.Gallery(
        [(example.image, example.name) for example in examples], label="Pick a page", show_label=False, columns=4, rows=1,
        height=128, allow_preview=False, interactive=False, object_fit="cover", buttons=[], elem_classes="shirg-shelf",
    )  # fmt: skip
    drop = gr.File(label="Your own: PNG, JPEG, WebP, TIFF, ...", height=128, elem_classes="shirg-drop")
    notice = gr.HTML(elem_classes="shirg-notice")
    with gr.Row():
        names = sorted(SELECTORS, key=lambda name: (list(NAMES).index(name) if name in NAMES else len(NAMES), name))
        selector = gr.Dropdown(
            [(NAMES.get(name, name), name) for name in names], value=reader.model.vision.gate.selector,
            label="Rule that chooses", info="or others to compare", min_width=130,
        )  # fmt: skip
        preset = gr.Dropdown(
            [(OWN, OWN), ("words kept whole", "runs"), ("SHIRG-v2's formula", "shirg-v2"), ("strokes first", "ocr")], value=OWN,
            label="SHIRG's settings", info="others have none", min_width=130,
        )  # fmt: skip
    most = reader.patches
    budget = gr.Slider(
        min(LEAST_BUDGET, most), most, min(FIRST_BUDGET, most), step=BUDGET_STEP, buttons=[],
        label="Budget", info=f"patches to keep, of {most:,}; one more token sums up the others",
    )  # fmt: skip
    view = gr.Radio(VIEWS, value=WHOLE, label="Show", info="groups: clusters, or patches merged into one token")
    return shelf, drop, notice, [budget, selector, preset, view]


def _questions(reader: Reader) -> tuple[Any, Any, Any, Any, list[Any]]:
    """Where to ask, whether to choose by it, the button, suggestions, and what is answered."""
    with gr.Row(elem_classes="shirg-ask"):
        question = gr.Textbox(
            label="Question", placeholder="What is the total?", scale=6, max_length=500, min_width=200
        )
        ask = gr.Button("Ask", variant="primary", scale=1, min_width=100)
    asked = gr.Dataset(
        components=[question], samples=[], type="values", samples_per_page=12, label="Questions about this page",
        visible=False,
    )  # fmt: skip
    mindful = gr.Checkbox(
        reader.asks, label="Choose patches with the question in mind", interactive=reader.asks, container=False,
        info=None if reader.asks else "this model chooses by the page alone",
    )  # fmt: skip
    cards = Handlers.no_answers()
    with gr.Row(elem_classes="shirg-answers"):
        ours, lowres = (gr.HTML(card, min_width=150) for card in cards[:2])
    costs = gr.HTML(cards[2])
    return question, mindful, ask, asked, [ours, lowres, costs]
