"""One small evaluation, looked at from many sides."""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import replace

import pytest
import torch

from shirg.data import Record
from shirg.data.records import image_id
from shirg.errors import UserError
from shirg.evaluation.answering import generated_texts, models_by_adapter
from shirg.evaluation.config import SHIRGEvaluationConfig
from shirg.evaluation.evaluator import SHIRGEvaluator
from shirg.evaluation.output import redo
from shirg.evaluation.results import to_json
from shirg.evaluation.tasks import SHORT_ANSWER
from shirg.files import read_lines
from shirg.gate import page_budget
from shirg.lavida.adapter import lora_parameters
from tests.evaluation.conftest import RECORDS, adapted_model, broken, page_record, small_config
from tests.tiny import tiny_model, tiny_page

VARIANTS = ["lowres", "hd", "highres", "shirg-24", "shirg-48"]


def details(folder) -> dict:
    """The answers, without the name of the run, which is another one for every batch size, and what was skipped."""
    found = json.loads((folder / "detailed_results.json").read_text(encoding="utf-8"))
    for row in found["predictions"]:
        del row["run"]
    return found


def test_everything_is_asked_before_and_after(run):
    folder, results, _ = run
    predictions = details(folder)["predictions"]
    asked = {(row["id"], row["variant"]) for row in predictions}
    names = [*VARIANTS, *(f"{name}+adapter" for name in VARIANTS)]
    assert asked == {(record.id, name) for record in RECORDS for name in names} and len(predictions) == len(asked)
    assert [variant.name for variant in results.variants] == names
    (dataset,) = results.datasets
    assert (dataset.questions, dataset.pages, dataset.skipped) == (4, 2, 1)


def test_predictions_are_those_of_the_public_door(run):
    folder, _, model = run
    record = RECORDS[2]
    rows = {row["variant"]: row for row in details(folder)["predictions"] if row["id"] == record.id}
    for adapter, one in models_by_adapter(model).items():
        for mode, budget, name in (("hd", 1, "hd"), ("shirg", 24, "shirg-24")):
            question = record.question + SHORT_ANSWER
            lengths = {"max_new_tokens": 4, "block_length": 4, "step_ratio": 0.5}
            answer = one.answer(record.open_image(), question, mode, budget, **lengths)
            assert rows[f"{name}+{adapter}" if adapter else name]["prediction"] == answer


def test_lines_written_as_they_came_are_the_consolidated_ones(run):
    folder, results, _ = run
    settings, *rows = read_lines(folder / "predictions.jsonl")
    assert rows == json.loads((folder / "detailed_results.json").read_text(encoding="utf-8"))["predictions"]
    assert settings["seed"] == 0 and settings["adapter_weights"]
    assert {row["run"] for row in rows} == {settings["fingerprint"], results.fingerprint}


def test_results_on_disk_are_the_returned_ones(run):
    folder, results, _ = run
    assert json.loads((folder / "evaluation_results.json").read_text(encoding="utf-8")) == to_json(results)
    for name in (
        "evaluation_report.md",
        "evaluation_report.html",
        "figures/accuracy_against_tokens.png",
        "figures/kept_patches.png",
    ):
        assert (folder / name).stat().st_size > 1000


def test_broken_page_is_skipped_and_listed(run):
    _, results, _ = run
    (entry,) = results.skipped
    assert entry.id.endswith(":broken") and entry.questions == 1 and "cannot be read" in entry.reason


def test_text_height_is_taken_at_the_models_resolution(run):
    folder, _, _ = run
    row = next(row for row in details(folder)["predictions"] if row["id"] == RECORDS[3].id)
    assert row["text_px"] == pytest.approx(RECORDS[3].text_px * 168 / 200, abs=0.01)


def test_same_seed_same_answers_and_the_tower_sees_each_page_once_per_view(run, benchmark, tmp_path):
    folder, results, _ = run
    benchmark([*RECORDS, broken(page_record(7))])
    model = adapted_model()
    seen = []
    model.tower.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    again = SHIRGEvaluator(small_config(tmp_path, sample_size=7, efficiency_repeats=0), model).evaluate()
    assert details(tmp_path) == details(folder)
    assert again.scores == results.scores and again.comparisons == results.comparisons
    shown = [example.image_id for examples in again.examples.kinds().values() for example in examples]
    drawing = len({RECORDS[0].image_id, *shown})
    assert len(seen) == 2 * 3 + drawing  # two pages, three views


def test_the_model_is_left_as_it_was_found(benchmark, tmp_path):
    benchmark(RECORDS[:1])
    model = adapted_model().train()
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    config = small_config(tmp_path, modes=["lowres"], efficiency_repeats=0)
    SHIRGEvaluator(config, model).run_evaluation()
    assert model.training
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert not any(layer.disable_adapters for layer in (model.mm_projector[0], model.mm_projector[2]))


def test_models_by_adapter_share_all_but_the_projector(tmp_path):
    record, folders = RECORDS[0], {name: tmp_path / name for name in ("weak", "strong")}
    adapted, base = adapted_model(), tiny_model()
    base.vision = replace(base.vision, resolution=168)
    for folder, weight in zip(folders.values(), (0.25, 1.0), strict=True):
        other = adapted_model()
        for name, parameter in lora_parameters(other).items():
            parameter.data.fill_(weight) if "lora_B" in name else None
        other.save_adapter(folder, settings={})
    models = models_by_adapter(adapted, folders)
    assert list(models) == [None, "adapter", "weak", "strong"] and models["adapter"] is adapted
    found = {name: one.encode_images([record.open_image()], "shirg", 24)[0] for name, one in models.items()}
    assert found[None].equal(base.encode_images([record.open_image()], "shirg", 24)[0])
    for name, folder in folders.items():
        alone = tiny_model()
        alone.vision = replace(alone.vision, resolution=168)
        alone.load_adapter(folder)
        assert found[name].equal(alone.encode_images([record.open_image()], "shirg", 24)[0])
    assert len({tuple(one[0].tolist()) for one in found.values()}) == 4
    assert all(one.language is adapted.language and one.tower is adapted.tower for one in models.values())
    assert lora_parameters(adapted)


def test_an_adapter_with_other_settings_is_refused(tmp_path):
    other = adapted_model()
    other.vision = replace(other.vision, resolution=336)
    other.save_adapter(tmp_path / "other", settings={})
    with pytest.raises(UserError, match="adapters: other was trained with resolution 336, this run has 672"):
        models_by_adapter(tiny_model(), {"other": tmp_path / "other"})


def test_several_adapters_and_the_pages_own_budget_in_one_run(benchmark, tmp_path):
    benchmark(RECORDS[:2])
    for name, weight in (("one", 0.25), ("two", 1.0)):
        other = adapted_model()
        lora_parameters(other)["mm_projector.2.lora_B.default.weight"].data.fill_(weight)
        other.save_adapter(tmp_path / name, settings={})
    model = tiny_model()
    model.vision = replace(model.vision, resolution=168)
    config = small_config(
        tmp_path / "run",
        modes=["lowres", "shirg", "divprune"],
        token_budgets=["auto", 24],
        adapters={name: tmp_path / name for name in ("one", "two")},
    )
    results = SHIRGEvaluator(config, model).evaluate()
    paths = ["lowres", "shirg-24", "shirg-auto", "divprune-24", "divprune-auto"]
    names = [path + adapter for adapter in ("", "+one", "+two") for path in paths]
    assert [variant.name for variant in results.variants] == names
    tokens = results.visual_tokens()
    own = page_budget(model.image_features(RECORDS[0].open_image(), "shirg").pixels[None], (1, 12, 12))
    assert tokens["shirg-auto"].mean == own + 1 and tokens["divprune-auto"].most <= own + 1
    assert results.costs()["shirg-auto"].tokens == own + 1 and len(results.costs()) == len(paths)
    pairs = {(entry.variant, entry.against) for entry in results.comparisons}
    assert {
        ("shirg-24+two", "shirg-24+one"),
        ("shirg-auto+two", "shirg-auto"),
        ("shirg-auto", "divprune-auto"),
    } <= pairs
    assert results.model.adapters.keys() == {"one", "two"} and results.adapters == ["one", "two"]
    report = (tmp_path / "run" / "evaluation_report.md").read_text(encoding="utf-8")
    assert "2 adapters (one, two)" in report and "| shirg-auto+two |" in report
    assert to_json(redo(tmp_path / "run")) == to_json(results)
    again = SHIRGEvaluator(dataclasses.replace(config, resume=True), model).evaluate()
    assert again.resumed_answers == 2 * len(names)
    with pytest.raises(UserError, match="resume: adapters.one is"):
        swapped = {"one": tmp_path / "two", "two": tmp_path / "one"}
        SHIRGEvaluator(dataclasses.replace(config, resume=True, adapters=swapped), model).evaluate()


def test_without_adapter_there_is_one_state(benchmark, tmp_path):
    benchmark(RECORDS[:1])
    model = tiny_model()
    model.vision = replace(model.vision, resolution=168)
    config = small_config(tmp_path, modes=["lowres", "shirg"], efficiency_repeats=0)
    results = SHIRGEvaluator(config, model).evaluate()
    assert [variant.name for variant in results.variants] == ["lowres", "shirg-24", "shirg-48"]
    assert results.efficiency is None and not (tmp_path / "figures" / "kv_cache.png").exists()


def test_ctrl_c_leaves_what_was_answered(benchmark, tmp_path, monkeypatch):
    benchmark(RECORDS)
    evaluator = SHIRGEvaluator(small_config(tmp_path, modes=["lowres"]), adapted_model())
    answers = []

    def two_answers(*_):
        answers.append("x")
        if len(answers) > 2:
            raise KeyboardInterrupt
        return ["x"]

    monkeypatch.setattr("shirg.evaluation.answering.generated_texts", two_answers)
    with pytest.raises(KeyboardInterrupt):
        evaluator.run_evaluation()
    _, *rows = read_lines(tmp_path / "predictions.jsonl")
    assert [row["prediction"] for row in rows] == ["x", "x"]


def test_nothing_readable_is_an_error(benchmark, tmp_path):
    benchmark([broken(page_record(0))])
    with pytest.raises(UserError, match="nothing to ask in documents.*cannot be read"):
        SHIRGEvaluator(small_config(tmp_path), adapted_model()).run_evaluation()


def test_empty_question_is_skipped_alone(benchmark, tmp_path):
    benchmark([page_record(0, question=" "), page_record(1, page=0)])
    config = small_config(tmp_path, modes=["lowres"], efficiency_repeats=0, prompt_suffix="none")
    results = SHIRGEvaluator(config, adapted_model()).evaluate()
    assert results.datasets[0].questions == 1
    assert "question" in results.skipped[0].reason


def test_foreign_tower_is_refused(tmp_path):
    with pytest.raises(UserError, match="vision_tower: got a SigLipVisionTower that is not the model's own"):
        SHIRGEvaluator(small_config(tmp_path), tiny_model(), tiny_model(seed=1).tower)


def test_output_folder_must_be_writable(benchmark, tmp_path):
    benchmark(RECORDS[:1])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="output_dir: .*file.* cannot be written"):
        SHIRGEvaluator(small_config(tmp_path / "file" / "below"), adapted_model()).run_evaluation()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": []}, "datasets: got"),
        ({"datasets": "ChartQA"}, "datasets: got 'ChartQA'"),
        ({"datasets": ["nothing"]}, "'nothing' is not a known benchmark"),
        ({"token_budgets": [0]}, "token_budgets: got 0"),
        ({"token_budgets": []}, "token_budgets: got"),
        ({"modes": ["lowres", "sideways"]}, "modes: got 'sideways'.*must be all, core or some of lowres"),
        ({"token_budgets": ["automatic"]}, "token_budgets: got 'automatic'"),
        ({"adapters": {"adapter": "x"}}, "adapters: got 'adapter'"),
        ({"sample_size": 0}, "sample_size: got 0"),
        ({"step_ratio": 0.0}, "step_ratio: got 0.0"),
        ({"block_length": 1}, "step_ratio: got 0.5, must be .* a block of 1 a step"),
        ({"block_length": 5}, "block_length: got 5, must be a divisor of max_new_tokens .32."),
        ({"prompt_suffix": "some"}, "prompt_suffix: got 'some'"),
        ({"efficiency_repeats": -1}, "efficiency_repeats: got -1"),
        ({"modes": "shirg"}, "modes: got 'shirg', must be at least one, in a list"),
        ({"modes": ["unifrom"]}, "did you mean uniform"),
        ({"num_shards": 0}, "num_shards: got 0"),
        ({"shard_index": 0, "num_shards": 0}, "num_shards: got 0"),
        ({"shard_index": 2, "num_shards": 2}, "shard_index: got 2, must be 0 to 1"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        SHIRGEvaluationConfig(**changes).resolved(tiny_model())


def test_answer_length_is_the_models_own_unless_given():
    model = tiny_model()
    assert SHIRGEvaluationConfig().resolved(model).max_new_tokens == model.config.answer_tokens == 32
    assert SHIRGEvaluationConfig(max_new_tokens=8).resolved(model).block_length == 8


def test_budget_above_the_grid_is_refused(tmp_path):
    model = tiny_model()
    model.vision = replace(model.vision, resolution=168)
    with pytest.raises(UserError, match="token_budgets: got 145, must be at most 144"):
        SHIRGEvaluator(small_config(tmp_path, token_budgets=[24, 145]), model)


def test_defaults_depend_on_the_model():
    config = SHIRGEvaluationConfig()
    official, nano = tiny_model(), tiny_model(shirg={"nano": True})
    settings = config.resolved(official)
    assert (settings.datasets, settings.prompt_suffix) == (["ChartQA", "DocVQA"], "official")
    settings = config.resolved(nano)
    assert (settings.datasets, settings.prompt_suffix) == (["documents", "charts"], "none")
    assert settings.token_budgets == [512, 768, 1024] and settings.block_length == 32


def test_processes_and_batches_change_no_answer(run, benchmark, tmp_path):
    """Two processes, three questions at once, and one broken page, against one process and one question at a time."""
    folder, results, model = run
    benchmark([*RECORDS, broken(page_record(7))])
    config = small_config(tmp_path, workers=2, batch_size=3, efficiency_repeats=0)
    found = SHIRGEvaluator(config, model).evaluate()
    assert details(tmp_path)["predictions"] == details(folder)["predictions"]
    assert found.skipped == results.skipped and found.scores == results.scores


TWO_CANVASES = {"image_grid_pinpoints": [[384, 384], [768, 768]]}
"""One tile for a small page, four for a large one; the base view comes on top."""


def sized(record: Record, width: int, height: int) -> Record:
    """The record with a page of that size."""
    buffer = io.BytesIO()
    tiny_page(width, height).save(buffer, "PNG")
    data = buffer.getvalue()
    return dataclasses.replace(record, image=data, image_id=image_id(data), width=width, height=height)


def test_what_cannot_be_asked_counts_as_unanswered_and_the_run_goes_on(benchmark, tmp_path):
    """Three questions of one page in one batch, of which the second is longer than the model; another page is too small for a
    budget. Asked in two processes, and gone on with in one."""
    long = page_record(1, page=0, question="long " * 400)
    large = [sized(record, 700, 700) for record in (page_record(0), long, page_record(2, page=0))]
    small = sized(page_record(3), 60, 60)
    benchmark([*large, small])
    model = tiny_model(max_sequence_length=3400, **TWO_CANVASES)
    settings = {"modes": ["multiview", "lowres"], "token_budgets": [1500], "batch_size": 3, "efficiency_repeats": 0}
    results = SHIRGEvaluator(small_config(tmp_path, **settings, workers=2), model).evaluate()
    predictions = details(tmp_path)["predictions"]
    listed = {(entry.id, entry.variant): entry.reason for entry in results.unanswered}
    assert listed.keys() == {(long.id, "multiview-1500"), (small.id, "multiview-1500")}
    assert "more than this model's 3400 positions" in listed[long.id, "multiview-1500"]
    assert "budget: got 1500, must be a whole number from 1 to " in listed[small.id, "multiview-1500"]
    assert len(predictions) == 4 * 2
    for row in predictions:
        if "unanswered" in row:
            assert (row["prediction"], row["score"], row["tokens"]) == ("", 0.0, None)
        else:
            assert row["tokens"] == (729 if row["mode"] == "lowres" else 1501)
    report = (tmp_path / "evaluation_report.md").read_text(encoding="utf-8")
    assert "2 questions could not be asked and count as empty answers." in report
    before = (tmp_path / "predictions.jsonl").read_bytes()
    again = SHIRGEvaluator(small_config(tmp_path, **settings, workers=1, resume=True), model).evaluate()
    assert again.unanswered == results.unanswered
    assert (tmp_path / "predictions.jsonl").read_bytes() == before


def test_the_timed_page_is_one_that_every_variant_can_be_asked_about(benchmark, tmp_path):
    """None of the pages serves a budget: it is not timed, and the others are."""
    benchmark([sized(page_record(0), 60, 60)])
    model = adapted_model(**TWO_CANVASES)
    config = small_config(tmp_path, modes=["multiview", "lowres"], token_budgets=[1500], efficiency_repeats=1)
    results = SHIRGEvaluator(config, model).evaluate()
    assert list(results.costs()) == ["lowres"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), TypeError("ours"), UserError("mode")])
def test_only_an_items_error_is_the_items(error, benchmark, tmp_path, monkeypatch):
    benchmark(RECORDS[:1])

    def failing(*_, **__):
        raise error

    monkeypatch.setattr("shirg.evaluation.answering.image_embeds", failing)
    with pytest.raises(type(error), match=str(error)):
        SHIRGEvaluator(small_config(tmp_path, modes=["lowres"]), adapted_model()).run_evaluation()


def test_the_nano_is_answered_by_as_many_processes_as_torch_has_threads(tmp_path):
    model, config = tiny_model(), small_config(tmp_path)
    assert config.workers_for(model) == 1 and config.decoding(model).batch_size == 1
    model.config.raw["shirg"] = {"nano": True}
    assert config.workers_for(model) == torch.get_num_threads() and config.decoding(model).batch_size == 8
    assert small_config(tmp_path, workers=3).workers_for(model) == 3


def test_a_threshold_decides_the_steps(tmp_path, monkeypatch):
    model, steps = tiny_model(), []
    generate, embeds = model.generate, torch.zeros(3, model.config.hidden_size)
    counted = {"on_step": lambda number, _: steps.append(number)}
    monkeypatch.setattr(model, "generate", lambda *given, **keywords: generate(*given, **(keywords | counted)))
    for threshold, expected in ((None, 4), (1e-6, 1)):
        decoding = small_config(tmp_path, max_new_tokens=8, block_length=8, threshold=threshold).decoding(model)
        generated_texts(model, [model.prompt_ids("What?")], [embeds], decoding)
        assert steps[-1] == expected
