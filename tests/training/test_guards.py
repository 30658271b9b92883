"""What a run watches: it must speak up when something is wrong, and only then."""

from __future__ import annotations

import logging

import pytest
import torch

from shirg.errors import UserError
from shirg.training.budgets import BudgetSampler
from shirg.training.guards import Watch, check_finite, memory_advice, memory_in_use

CPU = torch.device("cpu")


def watched(losses, memory=lambda step: 2**30) -> Watch:
    """A watch that has seen a step per loss, its ratios in turn."""
    watch = Watch(BudgetSampler([8, 16], include_pooled=False))
    for step, loss in enumerate(losses):
        entry = {"step": step + 1, "loss": loss, "budget": (8, 16)[step % 2], "memory": memory(step)}
        watch.step(entry, cache_bytes=0)
    return watch


def test_a_loss_that_falls_passes_and_one_that_does_not_is_said_while_it_runs(caplog):
    assert watched([5 - step / 40 for step in range(80)]).loss_falls()[0] is True
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        flat = watched([3.0] * 120)
    assert flat.loss_falls() == (
        False,
        "the training loss does not fall: 3.0000 in the first quarter, 3.0000 in the last",
    )
    assert [record.message[:8] for record in caplog.records] == ["step 80:"]  # once, not at 120 again


def test_a_rise_within_the_scatter_of_single_steps_is_not_reported(caplog):
    """Quarters of ten steps a ratio, means 1.0 and 1.2: three standard errors of their difference are 0.5 (by hand)."""
    scattered = [(0.5, 0.5, 1.5, 1.5)[step % 4] + (0.2 if step >= 60 else 0) for step in range(80)]
    passed, found = watched(scattered).loss_falls()
    assert passed is None and "stays within its scatter of 0.5000" in found
    assert not caplog.records
    assert watched([loss + (2 if step >= 60 else 0) for step, loss in enumerate(scattered)]).loss_falls()[0] is False


def test_each_ratio_is_compared_with_itself():
    """The costlier ratio comes late: a mean over all steps would rise, though both ratios fall."""
    watch = Watch(BudgetSampler([8, 16], include_pooled=False))
    for step in range(80):
        ratio, base = (8, 1.0) if step < 40 else (16, 9.0)
        watch.step({"step": step + 1, "loss": base - step / 100, "budget": ratio, "memory": 0}, cache_bytes=0)
    assert watch.loss_falls()[0] is True


def test_memory_that_creeps_is_told_from_one_that_fills_up_once():
    def filling(step):
        return 2**30 + min(step, 10) * 2**28

    def creeping(step):
        return 2**30 + step * 2**24

    assert watched([1.0] * 80, filling).memory_stays()[0] is True
    passed, found = watched([1.0] * 80, creeping).memory_stays()
    assert passed is False and "creeps up: 1,456 MiB early, 2,176 MiB late" in found


def test_short_runs_are_not_judged():
    watch = watched([1.0] * 39)
    assert watch.loss_falls()[0] is watch.memory_stays()[0] is None


@pytest.mark.parametrize("sampling", ["uniform", "weighted", "curriculum"])
def test_the_samplers_own_draws_fit_and_others_do_not(sampling):
    sampler = BudgetSampler([8, 16, 32], sampling=sampling, total_steps=200, seed=4)
    watch, drawn = Watch(sampler), {str(ratio): 0 for ratio in sampler.ratios}
    for step in range(200):
        drawn[str(sampler(step))] += 1
    assert watch.budgets_fit(drawn)[0] is True
    off = 2 if sampling == "uniform" else 40
    moved = {**drawn, "8": drawn["8"] + off, "pooled": drawn["pooled"] - off}
    assert watch.budgets_fit(moved)[0] is False


def test_numbers_of_a_batch_that_are_not_finite_are_written_down(tmp_path):
    batch = [{"record": name, "image": "p", "hidden": 1} for name in "ab"]
    file = tmp_path / "found.json"
    place = {"file": file, "step": 3, "ratio": 8}
    check_finite(torch.zeros(2, 4), batch, what="loss", **place)
    assert not file.exists()
    with pytest.raises(UserError, match="the gradient is not finite after 3 steps .ratio 8. for record.s. a, b;"):
        check_finite(torch.tensor(torch.inf), batch, what="gradient", **place)
    assert file.exists()


def test_only_lack_of_memory_is_translated():
    advice = {"step": 0, "ratio": 16, "records": 1, "checkpointing": True}
    with pytest.raises(RuntimeError, match="shapes"), memory_advice(**advice):
        raise RuntimeError("shapes do not fit")
    for error in (MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")):
        with (
            pytest.raises(UserError, match="steps: lower the largest token budget [^,]*; resume"),
            memory_advice(**advice),
        ):
            raise error


def test_memory_in_use_is_what_the_system_says():
    assert 2**26 < memory_in_use(CPU) < 2**37


def test_losses_before_a_resume_count():
    watch = Watch(BudgetSampler([8, 16], include_pooled=False))
    watch.recall([{"loss": 5 - step / 40, "budget": (8, 16)[step % 2]} for step in range(64)])
    assert watch.loss_falls()[0] is True and watch.memory_stays()[0] is None
