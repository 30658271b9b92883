"""The benchmarks: metric and prompt suffix of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shirg.data.sources import benchmark_key
from shirg.evaluation.metrics import METRICS, Metric, formula_contains

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""What lmms-eval, which LaViDa is evaluated with, adds to the questions of DocVQA, InfographicVQA and TextVQA
(lmms_eval/tasks, the `default` kwargs); sets without a task in lmms-eval are asked in the same form."""

SINGLE_WORD = "\nAnswer the question with a single word."
"""What lmms-eval adds to ChartQA's (lmms_eval/tasks/chartqa/chartqa.yaml)."""

OPTION_LETTER = "\nAnswer with the option's letter from the given choices directly."
"""What lmms-eval adds to AI2D's, whose choices are a line each below the question (lmms_eval/tasks/ai2d/ai2d.yaml)."""

FORMULAS = "Handwritten Mathematical Expression Recognition"
"""Kind of OCRBench's questions that have a scorer of their own."""


@dataclass(frozen=True)
class Task:
    """One benchmark: its metrics, and what is added to its questions."""

    name: str
    metric: str
    """The primary metric, a key of `metrics.METRICS`; comparisons use it."""
    suffix: str = SHORT_ANSWER
    """Added to a question when the configuration has `prompt_suffix="official"`."""
    second_metric: str | None = None
    """A metric with partial credit, if the primary one has none."""
    parts: tuple[str, ...] = ()
    """Prefixes of kinds of questions whose scores are also reported separately."""
    capitalised: bool = False
    """Whether the official prompt writes a question with one capital, at its start."""
    by_kind: Mapping[str, Metric] = field(default_factory=dict)
    """Kind of question -> metric that scores it instead of the primary one."""
    note: str = ""
    """Printed in the report."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, the primary one first."""
        return (self.metric, *([self.second_metric] if self.second_metric else []))

    def scores(self, prediction: str, answers: Sequence[str], kind: str = "") -> dict[str, float]:
        """Scores of an answer by each of the `metrics`."""
        own = {self.metric: self.by_kind[kind]} if kind in self.by_kind else {}
        return {name: (own.get(name) or METRICS[name])(prediction, answers) for name in self.metrics}

    def part_of(self, kind: str) -> str | None:
        """Which of the `parts` a question of that kind belongs to."""
        return next((part for part in self.parts if kind.startswith(part)), None)


METRIC_TITLES = {
    "relaxed_accuracy": "relaxed accuracy",
    "anls": "ANLS",
    "vqa_accuracy": "VQA accuracy",
    "numeric_match": "exact or numeric match",
    "exact_match": "exact match",
    "contains_match": "answer contained",
    "option_letter": "exact match of the letter",
}

_OURS = "not an official question-answering task: its annotations are asked as questions by SHIRG's reader"
_RENDERED = "rendered by SHIRG, from its held-out split"

TASKS: dict[str, Task] = {
    task.name.lower(): task
    for task in (
        Task("ChartQA", "relaxed_accuracy", suffix=SINGLE_WORD, parts=("human", "augmented")),
        Task("DocVQA", "anls"),
        Task("InfoVQA", "anls"),
        Task("TextVQA", "vqa_accuracy", capitalised=True),
        Task("TabMWP", "numeric_match"),
        Task("AI2D", "option_letter", suffix=OPTION_LETTER),
        Task("OCRBench", "contains_match", suffix="", by_kind={FORMULAS: formula_contains}),
        Task("SROIE", "anls", note=_OURS),
        Task("FUNSD", "anls", note=_OURS),
        Task("documents", "exact_match", second_metric="anls", note=_RENDERED),
        Task("charts", "exact_match", second_metric="anls", note=_RENDERED),
    )
}

OFFICIAL_DEFAULT = ("ChartQA", "DocVQA")
"""What a model with official weights is evaluated on by default."""


def find_task(name: str) -> Task:
    """The task of the data set of that name, spelled as `load_benchmark` takes it.

    Raises:
        UserError: for an unknown name; the message lists the known ones.
    """
    return TASKS[benchmark_key(name)]


def prompt(task: Task, question: str, prompt_suffix: str) -> str:
    """The text that the model gets; `prompt_suffix` is "official" (the task's own) or "none" (the bare question)."""
    if prompt_suffix != "official":
        return question
    return (question.capitalize() if task.capitalised else question) + task.suffix
