"""What is asked, word for word: a change here changes scores, and must be meant."""

from __future__ import annotations

import pytest

from shirg.data.sources import BENCHMARKS, EMBEDDED
from shirg.errors import UserError
from shirg.evaluation import tasks
from shirg.evaluation.metrics import METRICS

QUESTION = "What is the GDP?"
SHORT = "\nAnswer the question using a single word or phrase."
SNAPSHOT = {
    "ChartQA": ("relaxed_accuracy", "What is the GDP?\nAnswer the question with a single word."),
    "DocVQA": ("anls", QUESTION + SHORT),
    "InfoVQA": ("anls", QUESTION + SHORT),
    "TextVQA": ("vqa_accuracy", "What is the gdp?" + SHORT),
    "TabMWP": ("numeric_match", QUESTION + SHORT),
    "AI2D": ("option_letter", QUESTION + "\nAnswer with the option's letter from the given choices directly."),
    "OCRBench": ("contains_match", QUESTION),
    "SROIE": ("anls", QUESTION + SHORT),
    "FUNSD": ("anls", QUESTION + SHORT),
    "documents": ("exact_match", QUESTION + SHORT),
    "charts": ("exact_match", QUESTION + SHORT),
}


def test_every_benchmark_that_can_be_read_has_a_task_and_the_other_way_round():
    assert set(tasks.TASKS) == {*BENCHMARKS, *EMBEDDED}


@pytest.mark.parametrize("name", SNAPSHOT)
def test_prompt_and_metric(name):
    metric, asked = SNAPSHOT[name]
    task = tasks.find_task(name.upper())
    assert (task.name, task.metric, task.metrics[0]) == (name, metric, metric)
    assert tasks.prompt(task, QUESTION, "official") == asked
    assert tasks.prompt(task, QUESTION, "none") == QUESTION
    assert tasks.find_task(f" {name[:3]}-{name[3:]}") is task


def test_every_task_is_in_the_snapshot():
    assert {task.name for task in tasks.TASKS.values()} == set(SNAPSHOT)


@pytest.mark.parametrize(
    ("kind", "part"), [("human", "human"), ("human_test", "human"), ("augmented", "augmented"), ("", None)]
)
def test_chartqas_parts_are_told_by_the_kind(kind, part):
    assert tasks.find_task("ChartQA").part_of(kind) == part
    assert tasks.find_task("DocVQA").part_of(kind) is None


def test_ocrbenchs_formulas_are_scored_in_their_own_way():
    task = tasks.find_task("OCRBench")
    assert task.scores("so  x^2+y", ["x ^ 2 + y"], tasks.FORMULAS) == {"contains_match": 1.0}
    assert task.scores("so  x^2+y", ["x ^ 2 + y"], "Doc-oriented VQA") == {"contains_match": 0.0}


def test_every_metric_has_a_title():
    assert set(tasks.METRIC_TITLES) == set(METRICS)


def test_unknown_benchmark_names_the_nearest():
    with pytest.raises(UserError, match=r"'ChartQ'.*did you mean chartqa\?.*docvqa"):
        tasks.find_task("ChartQ")
