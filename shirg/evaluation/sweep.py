"""The gate's ablations: what each part of the formula is worth, measured on rendered pages where every word is known.

Each page goes through the tower once; every setting then chooses from the same features, without a question and with
each of the page's questions.
"""

from __future__ import annotations

import datetime
import logging
import os
import random
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shirg import identity
from shirg.data.pages import Page, Question
from shirg.data.render import KINDS, render_page
from shirg.errors import UserError
from shirg.evaluation.answering import generated_texts
from shirg.evaluation.config import SHIRGEvaluationConfig
from shirg.evaluation.environment import describe_environment, processor
from shirg.evaluation.journal import Journal
from shirg.evaluation.metrics import anls, exact_match
from shirg.evaluation.recall import PageWords, patches_of_box, word_recall
from shirg.evaluation.sweep_stop import RULE, EarlyStop
from shirg.evaluation.tasks import find_task, prompt
from shirg.gate import GateConfig, Kept, ShirgGate
from shirg.lavida import Lavida, VisionFeatures
from shirg.locks import owned
from shirg.training.budgets import check_budgets

FORMAT = "shirg-sweep-2"
"""Says how `sweep.json` and `pages.jsonl` are laid out; a change of layout changes it. Reports are also made of format 1,
which stopped no setting and knew no command; its `pages.jsonl` is not gone on with."""
PAGES_FILE = "pages.jsonl"
PAGE_SIDE = 672
"""Side of the rendered pages in pixels; their text is 6 to 28 px."""
PAGES_PER_SEED = 1_000_000
"""Pages that one seed can render before it reaches the next seed's."""

DEFAULT = "default"
ALPHAS = (0.1, 0.25, 0.3, 0.5)
BETAS = (0.0, 0.15, 0.3, 0.6)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepConfig:
    """What is measured; wrong values raise `UserError` here, before anything is loaded."""

    pages: int = 60
    """Held-out pages, all kinds in turn."""

    questions: int = 4
    """Most questions per page, drawn by the seed."""

    token_budgets: Sequence[int] = (256, 768)
    """Kept tokens per page, the summary token not counted."""

    answers: bool = False
    """Also have the model answer every question from every selection, and score the answers."""

    seed: int = 0
    """Decides pages, questions and the resampling behind the intervals."""

    early_stop: bool = True
    """Give no further pages to settings that are certainly worse than the default, as `sweep_stop.EarlyStop` decides."""

    resume: bool = False
    """Go on after the pages that `output_dir` already has."""

    output_dir: Path | str = "./shirg_sweep"
    """Gets `pages.jsonl`."""

    model: str = "nano"
    """What was loaded, for the record."""

    adapter: str | None = None
    """Which adapter was loaded, for the record."""

    command: str | None = None
    """How the sweep was called, for the record."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name in ("pages", "questions"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: got {getattr(self, name)}, must be at least 1")
        check_budgets(self.token_budgets)


def named_settings() -> dict[str, GateConfig]:
    """Setting -> gate, the sweep's default first, which is SHIRG-v2's formula; several names may stand for one gate."""
    default = GateConfig.preset("shirg-v2")
    ablations = {
        DEFAULT: default,
        "no coverage": replace(default, coverage=False),
        "no edge term": replace(default, beta=0.0),
        "edge: mean gradient": replace(default, edge="gradient"),
        "edge: density": replace(default, edge="density"),
        "edge: strokes": replace(default, edge="strokes"),
        "edge: patch variance": replace(default, edge="variance"),
        "relevance to its row": replace(default, relevance_spread=0.5),
        "no summary": replace(default, summary=False),
        "variance only": replace(default, alpha=1.0, beta=0.0),
        "similarity only": replace(default, alpha=0.0, beta=0.0),
        "ocr preset": GateConfig.preset("ocr"),
        "runs preset": GateConfig.preset("runs"),
    }
    grid = {grid_name(alpha, beta): replace(default, alpha=alpha, beta=beta) for alpha in ALPHAS for beta in BETAS}
    return ablations | grid


def grid_name(alpha: float, beta: float) -> str:
    """What a cell of the grid is called, such as "alpha 0.25, beta 0.6"."""
    return f"alpha {alpha:g}, beta {beta:g}"


# ---------------------------------------------------------------- one page


@dataclass(frozen=True)
class Choice:
    """One selection of one page."""

    kept: Kept
    bright: Tensor
    """[N] bool on the CPU, patches that were kept."""
    ms: float


@dataclass(frozen=True)
class PageView:
    """A page as the model sees it, with what is known of it: made once, asked for every setting."""

    features: VisionFeatures
    words: PageWords
    questions: Sequence[Question]
    prompts: Sequence[Tensor]
    """Ids of each question's prompt."""
    needed: Sequence[Tensor]
    """[N] bool for each question, patches that its answer is read from."""
    relevance: Sequence[Tensor]
    """[1, N] for each question; empty where the model compares tokens with no question."""

    @classmethod
    def of(cls, model: Lavida, page: Page, questions: Sequence[Question]) -> PageView:
        """Run the tower, and compare its tokens with every question."""
        features = model.image_features(page.image, "shirg")
        suffix = "none" if model.config.is_nano else "official"
        asked = [prompt(find_task("documents"), question.question, suffix) for question in questions]
        prompts = [model.prompt_ids(text) for text in asked]
        found = [model.relevance(features, model.question_ids(ids)) for ids in prompts]
        return cls(
            features,
            PageWords.of([word.box for word in page.words], page.image.size, features.grid),
            questions,
            prompts,
            [answer_patches(page, question, features.grid) for question in questions],
            [relevance for relevance in found if relevance is not None],
        )

    def choose(self, gate: ShirgGate, budget: int, relevance: Tensor | None = None) -> Choice:
        """Let a gate choose, and time it; the comparison with the question is not part of the time."""
        tokens = self.features.tokens.flatten(0, 1)[None]
        _wait(tokens)
        start = time.perf_counter()
        kept = gate(tokens, budget, self.features.grid, pixels=self.features.pixels, relevance=relevance)
        _wait(tokens)
        milliseconds = (time.perf_counter() - start) * 1000
        return Choice(kept, (kept.assignment[0] >= 0).cpu(), milliseconds)


def _wait(tokens: Tensor) -> None:
    if tokens.is_cuda:
        torch.cuda.synchronize(tokens.device)


def answer_patches(page: Page, question: Question, grid: tuple[int, int]) -> Tensor:
    """Patches that the words of the answer are read from: [rows * cols] bool."""
    boxes = [page.words[index].box for index in question.answer_words]
    return torch.stack([patches_of_box(box, page.image.size, grid) for box in boxes]).any(dim=0)


def share_kept(bright: Tensor, needed: Tensor) -> float:
    """Share of the needed patches that were kept: two [N] bool."""
    return float(bright[needed].double().mean())


def measure_selection(view: PageView, gate: ShirgGate, budget: int) -> tuple[dict[str, Any], list[Choice]]:
    """What one setting keeps of one page.

    Returns:
        A row with `words`, `small_words` (recall; None where the page has none), `precision`, `empty_tiles` and `ms` of
        the choice without a question; `answer` and `answer_asked` for each question (recall of its answer's patches,
        without and with the question). What the setting cannot do is None. A setting that ranks by the question alone
        is measured with the questions, mean over them. And the choices that answers are to be read from, one per
        question (none where the setting needs a question and the model compares with none).
    """
    needs_question = gate.config.alpha == 0 and gate.config.beta == 0
    alone = [] if needs_question else [view.choose(gate, budget)]
    asked = [view.choose(gate, budget, relevance) for relevance in view.relevance]
    seen = alone or asked
    counts = [word_recall(choice.bright, view.words) for choice in seen]
    row = {
        "words": _mean([count.recall for count in counts]),
        "small_words": _mean([count.small_recall for count in counts]),
        "precision": _mean([count.precision for count in counts]),
        "empty_tiles": _mean([count.empty_tiles for count in counts]),
        "answer": [share_kept(alone[0].bright, needed) for needed in view.needed] if alone else None,
        "answer_asked": None,
        "ms": statistics.median(choice.ms for choice in seen) if seen else None,
    }
    if asked:
        pairs = zip(asked, view.needed, strict=True)
        row["answer_asked"] = [share_kept(choice.bright, needed) for choice, needed in pairs]
    return row, asked or alone * len(view.questions)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


# ---------------------------------------------------------------- all pages


class Sweep:
    """Measures every setting on every page, or on as many as it takes to see that it is hopeless.

    Raises:
        UserError: if a budget is larger than the page's tokens.
    """

    def __init__(self, config: SweepConfig, model: Lavida):
        self.config, self.model = config, model
        self.budgets = sorted(config.token_budgets)
        most = (model.vision.resolution // model.tower.patch_size) ** 2
        if self.budgets[-1] > most:
            raise UserError(
                f"token_budgets: got {self.budgets[-1]}, must be at most {most}, the grid at {model.vision.resolution} pixels"
            )
        self.settings = named_settings()
        first_names: dict[GateConfig, str] = {}
        for name, gate in self.settings.items():
            first_names.setdefault(gate, name)
        self.gates = {name: ShirgGate(gate) for gate, name in first_names.items()}
        self.measured_as = {name: first_names[gate] for name, gate in self.settings.items()}
        """Setting -> the first setting of the same gate, which is the one that is measured."""
        self.decoding = SHIRGEvaluationConfig().decoding(model)

    @torch.no_grad()
    def run(self) -> list[dict[str, Any]]:
        """Measure what `output_dir` does not have yet; each page is written to `pages.jsonl` as soon as it is done.

        Returns:
            One entry per page: `page`, `kind`, `words`, `small_words` (how many there are), `questions`, and `rows`, as
            of `measure_selection`, with `setting` and `budget`; none of settings that were stopped before. What is
            stopped depends on the pages before alone, so that a run in parts is as one in one go.

        Raises:
            UserError: if `output_dir` has pages of a run that does not go together with this one, or cannot be written.
        """
        with owned(self.config.output_dir):
            return self._run(Path(self.config.output_dir) / PAGES_FILE)

    def _run(self, path: Path) -> list[dict[str, Any]]:
        journal = Journal(path, self._run_settings(), _page_number, resume=self.config.resume, noun="page")
        wanted = range(self.config.pages)
        early = EarlyStop(self.gates if self.config.early_stop else [DEFAULT], self.budgets[0])
        try:
            with _progress_bar(len(wanted), sum(number in journal.entries for number in wanted)) as advance:
                for number in wanted:
                    if number not in journal.entries:
                        journal.add(self.measure_page(number, early.stopped))
                        advance()
                    early.add(journal.entries[number])
        except KeyboardInterrupt:
            logger.warning(
                "%d of %d pages are measured; --resume goes on from there", len(journal.entries), len(wanted)
            )
            raise
        return [journal.entries[number] for number in wanted]

    def record(self, pages: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
        """What `sweep.json` holds: when, where and how the pages were measured, and the summary of their rows."""
        from shirg.evaluation.sweep_summary import summarise

        return {
            "format": FORMAT,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": self.config.command,
            "hardware": _hardware(),
            "environment": describe_environment(self.model),
            "run": self._run_settings() | {"pages": len(pages)},
            "counts": {
                "pages": len(pages),
                "questions": sum(len(page["questions"]) for page in pages),
                "words": sum(page["words"] for page in pages),
                "small_words": sum(page["small_words"] for page in pages),
            },
            "results": summarise(pages, self.measured_as, self.budgets, self.config.seed),
            "seconds": round(seconds, 1),
        }

    def measure_page(self, number: int, left_out: Collection[str] = ()) -> dict[str, Any]:
        """Render, look, and let every setting but those left out choose at every budget."""
        page, questions = page_and_questions(number, self.config.seed, self.config.questions)
        view = PageView.of(self.model, page, questions)
        view.choose(self.gates[DEFAULT], self.budgets[-1])  # untimed: the first call pays for memory
        rows = []
        for budget in self.budgets:
            for name, gate in self.gates.items():
                if name in left_out:
                    continue
                row, choices = measure_selection(view, gate, budget)
                if self.config.answers:
                    row |= self._answers(view, choices)
                rows.append({"setting": name, "budget": budget, **row})
        return {
            "page": number,
            "kind": page.kind,
            "words": len(view.words.heights),
            "small_words": int(view.words.small.sum()),
            "questions": [question.question for question in questions],
            "rows": rows,
        }

    def _answers(self, view: PageView, choices: Sequence[Choice]) -> dict[str, Any]:
        """Answers read from each choice, and their scores; None where nothing could be chosen."""
        if not choices:
            return {"said": None, "exact_match": None, "anls": None}
        embeds = [self.model.mm_projector(choice.kept.tokens[0]) for choice in choices]
        said = generated_texts(self.model, view.prompts, embeds, self.decoding)
        pairs = [(text, question.answers) for text, question in zip(said, view.questions, strict=True)]
        return {
            "said": said,
            "exact_match": [exact_match(*pair) for pair in pairs],
            "anls": [anls(*pair) for pair in pairs],
        }

    def _run_settings(self) -> dict[str, Any]:
        """What pages must share to stand in one table, as plain values; more pages of the same may always follow."""
        return {
            "format": FORMAT,
            "seed": self.config.seed,
            "questions": self.config.questions,
            "token_budgets": self.budgets,
            "answers": self.config.answers,
            "early_stop": self.config.early_stop,
            "stop_rule": RULE if self.config.early_stop else {},
            "model": self.config.model,
            "adapter": self.config.adapter,
            **{name: value for name, value in identity.of_base(self.model).items() if name != "gate"},
            **identity.of_adapter(self.model),
            "page_side": PAGE_SIDE,
            "settings": {name: asdict(gate) for name, gate in self.settings.items()},
        }


def page_and_questions(number: int, seed: int, most: int) -> tuple[Page, list[Question]]:
    """Page `number` of a seed, and up to `most` of its questions; neither depends on how many pages there are."""
    page = render_page(KINDS[number % len(KINDS)], PAGES_PER_SEED * seed + number, size=PAGE_SIDE, split="heldout")
    drawn = random.Random(f"{seed}:{number}").sample(page.questions, min(most, len(page.questions)))
    return page, drawn


def _page_number(entry: dict[str, Any]) -> int:
    return entry["page"]


def _hardware() -> dict[str, Any]:
    """The CPU's name where the system tells, its cores, and how busy they are."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None  # Windows has none
    return {"processor": processor(), "cores": os.cpu_count(), "load_average": load}


@contextmanager
def _progress_bar(total: int, done: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error; yields a function that advances it by one page."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("measuring pages"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("pages", total=total, completed=done)
        yield lambda: bar.update(task, advance=1)
