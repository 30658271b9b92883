"""What is asked, word for word: a change here changes scores, and must be meant."""

from __future__ import annotations

import pytest

from shirg.data.sources import BENCHMARKS, EMBEDDED
from shirg.errors import UserError
from shirg.evaluation import tasks
from shirg.evaluation.metrics import METRICS

SUFFIX = "\nAnswer the question using a single word or phrase."
DECIDING = {
    "ChartQA": "relaxed_accuracy",
    "DocVQA": "anls",
    "InfoVQA": "anls",
    "TextVQA": "vqa_accuracy",
    "TabMWP": "numeric_match",
    "SROIE": "anls",
    "FUNSD": "anls",
    "documents": "exact_match",
    "charts": "exact_match",
}


def test_every_benchmark_that_can_be_read_has_a_task_and_the_other_way_round():
    assert set(tasks.TASKS) == {*BENCHMARKS, *EMBEDDED}


@pytest.mark.parametrize(("name", "metric"), DECIDING.items())
def test_prompt_and_metric(name, metric):
    task = tasks.find_task(name.upper())
    assert (task.name, task.metric, next(iter(task.metrics))) == (name, metric, metric)
    assert tasks.prompt(task, "What?", "official") == "What?" + SUFFIX
    assert tasks.prompt(task, "What?", "none") == "What?"
    assert tasks.find_task(f" {name[:3]}-{name[3:]}") is task


def test_every_metric_has_a_title():
    assert set(tasks.METRIC_TITLES) == set(METRICS)


def test_unknown_benchmark_names_the_nearest():
    with pytest.raises(UserError, match=r"'ChartQ'.*did you mean chartqa\?.*docvqa"):
        tasks.find_task("ChartQ")
