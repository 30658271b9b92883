"""What each benchmark asks of a model and how its answers are scored."""

from __future__ import annotations

from dataclasses import dataclass

from shirg.data.sources import benchmark_key
from shirg.evaluation.metrics import METRICS, Metric

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""What lmms-eval, which LaViDa is evaluated with, adds to the questions of DocVQA, InfographicVQA and TextVQA
(lmms_eval/tasks, the `default` kwargs); sets that lmms-eval has no task for are asked alike."""

SINGLE_WORD = "\nAnswer the question with a single word."
"""What lmms-eval adds to ChartQA's (lmms_eval/tasks/chartqa/chartqa.yaml)."""


@dataclass(frozen=True)
class Task:
    """One benchmark: which metric decides, which is shown beside it, and what is added to its questions."""

    name: str
    metric: str
    """Key of `metrics.METRICS`; the score that comparisons and verdicts are about."""
    suffix: str = SHORT_ANSWER
    """Added to a question when the configuration says `prompt_suffix="official"`."""
    second_metric: str | None = None
    """A metric that gives part marks, for sets whose own is all or nothing."""
    parts: tuple[str, ...] = ()
    """Parts whose scores are shown apart as well, named as kinds of questions begin."""
    capitalised: bool = False
    """Whether the official prompt writes a question with one capital, at its start."""
    note: str = ""
    """Said in the report beside the score."""

    @property
    def metrics(self) -> dict[str, Metric]:
        """The functions to score with, by name, the deciding one first."""
        names = [self.metric, *([self.second_metric] if self.second_metric else [])]
        return {name: METRICS[name] for name in names}

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
        Task("SROIE", "anls", note=_OURS),
        Task("FUNSD", "anls", note=_OURS),
        Task("documents", "exact_match", second_metric="anls", note=_RENDERED),
        Task("charts", "exact_match", second_metric="anls", note=_RENDERED),
    )
}

OFFICIAL_DEFAULT = ("ChartQA", "DocVQA")
"""What a model with official weights is evaluated on unless told otherwise."""


def find_task(name: str) -> Task:
    """The task of the data set of that name, spelled as `load_benchmark` takes it.

    Raises:
        UserError: for an unknown name; the message lists the known ones.
    """
    return TASKS[benchmark_key(name)]


def prompt(task: Task, question: str, prompt_suffix: str) -> str:
    """The text put to the model; `prompt_suffix` is "official" (the task's own) or "none" (the bare question)."""
    if prompt_suffix != "official":
        return question
    return (question.capitalize() if task.capitalised else question) + task.suffix
