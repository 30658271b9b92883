"""What a run watches: it must speak up when something is wrong, and only then."""

from __future__ import annotations

import logging
import os
import signal

import pytest
import torch

from shirg.errors import UserError
from shirg.training.budgets import BudgetSampler, Component
from shirg.training.guards import (
    StopRequest,
    budgets_fit,
    check_finite,
    deferred_interrupt,
    loss_falls,
    memory_advice,
    memory_in_use,
    memory_stays,
    stopped_by,
    warn,
)

CPU = torch.device("cpu")


def taken(losses, memory=lambda step: 2**30) -> list[dict]:
    """A step per loss, two components in turn."""
    return [
        {"step": step + 1, "loss": loss, "budget": (8, 16)[step % 2], "memory": memory(step), "cached": 0}
        for step, loss in enumerate(losses)
    ]


def warn_all(steps) -> None:
    """What is logged while a session takes these steps."""
    warned = set()
    for count in range(1, len(steps) + 1):
        warn(steps[:count], 0, warned)


def test_a_loss_that_falls_passes_and_one_that_does_not_is_said_while_it_runs(caplog):
    falling, flat = taken([5 - step / 40 for step in range(80)]), taken([3.0] * 120)
    assert loss_falls(falling)[0] is True
    warn_all(falling)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        warn_all(flat)
    assert loss_falls(flat) == (
        False,
        "the training loss does not fall: 3.0000 in the first quarter, 3.0000 in the last",
    )
    assert [record.message[:8] for record in caplog.records] == ["step 80:"]  # once, not at 120 again


def test_a_rise_within_the_scatter_of_single_steps_is_not_reported(caplog):
    """Quarters of ten steps a ratio, means 1.0 and 1.2: three standard errors of their difference are 0.5 (by hand)."""
    scattered = [(0.5, 0.5, 1.5, 1.5)[step % 4] + (0.2 if step >= 60 else 0) for step in range(80)]
    passed, found = loss_falls(taken(scattered))
    assert passed is None and "stays within its scatter of 0.5000" in found
    warn_all(taken(scattered))
    assert not caplog.records
    assert loss_falls(taken([loss + (2 if step >= 60 else 0) for step, loss in enumerate(scattered)]))[0] is False


def test_each_component_is_compared_with_itself():
    """The costlier one comes late: a mean over all steps would rise, though both fall."""
    early = [{"loss": 1.0 - step / 100, "budget": 8} for step in range(40)]
    late = [{"loss": 9.0 - step / 100, "budget": "auto"} for step in range(40)]
    assert loss_falls([*early, *late])[0] is True


def test_memory_that_grows_differs_from_memory_that_fills_up_once():
    def filling(step):
        return 2**30 + min(step, 10) * 2**28

    def growing(step):
        return 2**30 + step * 2**24

    assert memory_stays(taken([1.0] * 80, filling))[0] is True
    passed, found = memory_stays(taken([1.0] * 80, growing))
    assert passed is False and "grows: 1,456 MiB early, 2,176 MiB late" in found


def test_short_runs_are_not_judged():
    steps = taken([1.0] * 39)
    assert loss_falls(steps)[0] is memory_stays(steps)[0] is None


def test_a_cache_that_fills_is_not_growth():
    steps = taken([1.0] * 80, lambda step: 2**30 + step * 2**24)
    for step, entry in enumerate(steps):
        entry["cached"] = step * 2**24
    assert memory_stays(steps)[0] is True


@pytest.mark.parametrize("sampling", ["uniform", "weighted", "curriculum", "continuous"])
def test_the_samplers_own_draws_fit_and_others_do_not(sampling):
    sampler = BudgetSampler([8, 16, 32], sampling=sampling, total_steps=200, seed=4)
    drawn = dict.fromkeys(sampler.groups, 0)
    for step in range(200):
        drawn[sampler.group(sampler(step))] += 1
    assert budgets_fit(drawn, sampler)[0] is True
    off, first = 2 if sampling in ("uniform", "continuous") else 40, sampler.groups[0]
    moved = {**drawn, first: drawn[first] + off, "pooled": drawn["pooled"] - off}
    assert budgets_fit(moved, sampler)[0] is False


def test_numbers_of_a_batch_that_are_not_finite_are_written_down(tmp_path):
    batch = [{"record": name, "image": "p", "hidden": 1} for name in "ab"]
    file = tmp_path / "found.json"
    place = {"file": file, "step": 3, "component": Component("shirg", 8)}
    check_finite(torch.zeros(2, 4), batch, what="loss", **place)
    assert not file.exists()
    with pytest.raises(UserError, match="the gradient is not finite after 3 steps .budget 8. for record.s. a, b;"):
        check_finite(torch.tensor(torch.inf), batch, what="gradient", **place)
    assert file.exists()


def test_only_lack_of_memory_is_translated():
    advice = {"step": 0, "component": Component("shirg", 16), "records": 1, "checkpointing": True}
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


def test_losses_before_a_resume_count(caplog):
    """The memory of another process does not."""
    steps = taken([3.0] * 40, lambda step: 2**40) + taken([3.0] * 40)
    with caplog.at_level(logging.WARNING):
        warn(steps, 40, warned := set())
    assert warned == {"loss"} and "does not fall" in caplog.text


def test_second_ctrl_c_interrupts_at_once():
    handler = signal.getsignal(signal.SIGINT)
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupt(lines.append) as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.requested and "a second time stops at once" in lines[0]
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_signal_decides_how_a_saved_run_leaves():
    """Ctrl-C as a shell knows it; SIGTERM, and a process that stops with others, by a code to requeue on."""
    handler = signal.getsignal(signal.SIGTERM)
    for number, kind in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)):
        with deferred_interrupt() as request:
            os.kill(os.getpid(), number)
        assert request.requested and isinstance(stopped_by(request), kind)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert stopped_by(StopRequest()).code == 75
