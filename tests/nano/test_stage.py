"""A stage's schedule, averages, and what a stopped one resumes with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shirg.errors import UserError
from shirg.nano.recipe import stage as module
from shirg.nano.recipe.stage import Average, Stage, batches, learning_rate, optimizer_step, optimizers


class Small(torch.nn.Module):
    """A matrix for Muon, a bias for AdamW."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Linear(3, 2)

    def loss(self) -> torch.Tensor:
        return self.layers(torch.tensor([1.0, 2.0, 3.0])).square().sum()


def trained(small: Small, stage: Stage, steps: int) -> Average:
    """That many steps, then stopped as by a signal after a save."""
    steppers = optimizers(small, 0.01, torch.float32)
    running = stage.run(small, steppers)
    for _ in range(steps):
        next(running)
        optimizer_step(small, steppers, small.loss)
    average = running.gi_frame.f_locals["average"]
    average.update(small, steps)
    stage.save(small, steppers, average)
    running.close()
    return average


def test_the_rate_warms_up_stays_and_falls():
    rates = [learning_rate(progress / 1000) for progress in range(1001)]
    assert rates[:21] == sorted(rates[:21]) and rates[10] == pytest.approx(0.5)
    assert rates[20:701] == [1.0] * 681
    assert rates[700:] == sorted(rates[700:], reverse=True) and rates[-1] == pytest.approx(0.02)
    assert [batches(progress) for progress in (0.0, 0.69, 0.71, 1.0)] == [1, 1, 2, 2]


def test_two_batches_make_one_step_down_their_mean():
    weight = torch.nn.Parameter(torch.zeros(()))
    modules, losses = torch.nn.ParameterList([weight]), iter([0.2 * weight, 0.4 * weight])
    optimizer_step(modules, [torch.optim.SGD([weight], lr=1.0)], lambda: next(losses), 2)
    assert weight.item() == pytest.approx(-0.3)


def test_averages_begin_as_a_mean_and_go_on_exponentially(monkeypatch):
    monkeypatch.setattr(module, "AVERAGED", 0.75)
    layer = torch.nn.Linear(1, 1)
    layer.bias.requires_grad_(False)
    average, seen = Average(layer), []
    for step, value in enumerate((1.0, 3.0, 5.0, 7.0, 9.0), 1):
        torch.nn.init.constant_(layer.weight, value)
        average.update(layer, step)
        seen.append(average.values["weight"].item())
    assert seen == pytest.approx([1.0, 2.0, 3.0, 4.0, 0.75 * 4 + 0.25 * 9])
    assert "bias" not in average.values
    average.copy_to(layer)
    assert layer.weight.item() == pytest.approx(5.25)


def test_a_stopped_stage_goes_on_with_its_weights_momenta_averages_and_clock(tmp_path):
    torch.manual_seed(0)
    small = Small()
    stage = Stage(tmp_path, 1000.0)
    average = trained(small, stage, 3)
    again, fresh = Stage(tmp_path, 2 * stage.spent), Small()  # half of it is done, and the rate another one
    steppers = optimizers(fresh, 0.01, torch.float32)
    assert (again.spent, again.steps, again.sessions) == (stage.spent, stage.steps, 1)
    running = again.run(fresh, steppers)
    assert next(running) == 0.5
    assert torch.equal(fresh.layers.weight, small.layers.weight)
    kept = load_file(again.weights)["layers.weight"]
    assert torch.equal(kept, average.values["layers.weight"]) and not torch.equal(kept, small.layers.weight)
    assert torch.equal(running.gi_frame.f_locals["average"].values["layers.weight"], kept)
    (momentum,) = steppers[0].state.values()
    assert momentum["momentum_buffer"].abs().sum() > 0
    assert [stepper.param_groups[0]["lr"] for stepper in steppers] == pytest.approx([0.01, 0.002])
    assert again.common_seed(5) != Stage(tmp_path / "new", 1000.0).common_seed(
        5
    )  # other pages than in the first session


def test_a_stage_ends_with_its_averages(tmp_path):
    small, stage = Small(), Stage(tmp_path, 0.05)
    steppers = optimizers(small, 0.01, torch.float32)
    for _ in stage.run(small, steppers):
        optimizer_step(small, steppers, small.loss)
    assert stage.finished and torch.equal(load_file(stage.weights)["layers.weight"], small.layers.weight)
    fresh = Small()
    assert list(Stage(tmp_path, 0.01).run(fresh, optimizers(fresh, 0.01, torch.float32))) == []
    assert torch.equal(fresh.layers.weight, small.layers.weight)


def test_a_folder_of_another_recipe_is_refused(tmp_path: Path):
    trained(Small(), Stage(tmp_path, 1000.0), 1)
    wider = torch.nn.ModuleDict({"layers": torch.nn.Linear(4, 2)})
    with pytest.raises(
        UserError, match=r"weights\.safetensors was trained by a recipe with other shapes; give a new folder"
    ):
        next(Stage(tmp_path, 1000.0).run(wider, []))
