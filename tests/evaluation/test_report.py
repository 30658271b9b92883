"""Reports: every number comes from the results, and text from data stays text."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from shirg.evaluation.checklist import judged
from shirg.evaluation.environment import describe_gate
from shirg.evaluation.report import evaluation_report, overview_table, run_card
from shirg.evaluation.results import GateInfo, Results, Skipped, to_json
from shirg.evaluation.takeaway import RULE
from shirg.evaluation.training_report import write_training_report
from shirg.gate import GateConfig
from shirg.gate.config import PRESETS

SETTINGS = {
    "lora_rank": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": ["mm_projector.0", "mm_projector.2"],
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_epochs": 1,
    "learning_rate": 1e-4,
    "objective": "packed",
    "ratio_sampling": "uniform",
    "max_answer_tokens": 32,
    "seed": 0,
}
TRAINING = {
    "steps": 3,
    "updates": 3,
    "steps_per_ratio": {"512": 1, "768": 1, "pooled": 1},
    "seconds": 12.5,
    "tokens_per_second": 4321.0,
    "train_loss_first": 2.0,
    "train_loss_last": 1.5,
    "validation_before": {"step": 0, "mean": 2.25},
    "validation_after": {"step": 3, "mean": 1.25},
    "best_step": 3,
    "best_validation_loss": 1.25,
    "parameters": {
        "vision": {"trainable": 0, "total": 1000},
        "projector": {"trainable": 30, "total": 530},
        "language": {"trainable": 0, "total": 4000},
    },
    "skipped_records": {"a|b": "image <broken>"},
    "cut_answers": ["x"],
    "mixed_precision": "bf16",
    "device": "cpu",
    "peak_memory_bytes": None,
    "watched": [{"name": "training loss falls", "passed": False, "found": "3.0000 in the first quarter, 3.1000 later"}],
}
MANIFEST = {
    "total_samples": 1200,
    "splits": {"train": {"records": 1140, "images": 380}, "validation": {"records": 60, "images": 20}},
    "sources": {"rendered": 1200},
    "rejected": [],
}


def of_modes(results: Results, *modes: str) -> Results:
    """The results of the same run with these modes alone, without timing and comparisons."""
    return replace(
        results,
        efficiency=None,
        comparisons=[],
        group_comparisons=[],
        variants=[variant for variant in results.variants if variant.mode in modes],
        config=replace(results.config, modes=list(modes)),
        together=[replace(group, comparisons=[]) for group in results.together],
    )


def lowres_alone(results: Results) -> Results:
    """The results of the same run with `lowres` without an adapter alone."""
    found = of_modes(results, "lowres")
    return replace(found, variants=[variant for variant in found.variants if variant.adapter is None])


def with_charts(results: Results) -> Results:
    """The results with the same numbers for a second data set; together they have twice the questions."""

    def doubled(entries: list) -> list:
        return [replace(entry, questions=2 * entry.questions, pages=2 * entry.pages) for entry in entries]

    names = ("scores", "comparisons", "breakdown", "group_comparisons", "failures")
    further = {name: [replace(entry, dataset="charts") for entry in getattr(results, name)] for name in names}
    (group,) = results.together
    both = replace(
        group,
        datasets=["documents", "charts"],
        scores=doubled(group.scores),
        comparisons=doubled(group.comparisons),
    )
    return replace(
        results,
        datasets=[*results.datasets, *(replace(dataset, name="charts") for dataset in results.datasets)],
        together=[both],
        **{name: [*getattr(results, name), *entries] for name, entries in further.items()},
    )


def table_rows(report: str) -> list[str]:
    """Rows of all tables, without those that rule columns off."""
    return [line for line in report.splitlines() if line.startswith("| ") and not line.startswith("| ---")]


def test_the_report_holds_every_score_and_cost(run):
    folder, results, _ = run
    report = (folder / "evaluation_report.md").read_text(encoding="utf-8")
    assert report == evaluation_report(results)
    for entry in results.scores:
        assert f"{100 * entry.score:.1f}%" in report
    for path, row in results.costs().items():
        assert re.search(rf"\| {path} \| {row.tokens} \| {row.prefix_tokens} \|", report)
    for heading in ("Summary", "All variants", "Scores by height", "Targets", "Skipped", "Method"):
        assert f"## {heading}" in report
    assert "made \\| up" in report and "cannot be read" in report


def test_every_table_is_rectangular(run):
    _, results, _ = run
    for report in (evaluation_report(results), evaluation_report(with_charts(results))):
        for block in re.findall(r"(?:^\|.*\|\n?)+", report, re.MULTILINE):
            widths = {len(re.split(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
            assert len(widths) == 1


def test_the_report_of_one_data_set_shows_a_score_once(run):
    _, results, _ = run
    report = evaluation_report(results)
    (scores,) = re.findall(r"## Scores by data set\n\n(.*)\n", report)
    assert "ANLS" in scores and "exact match" not in scores
    (both,) = re.findall(r"## Scores by data set\n\n(.*)\n", evaluation_report(with_charts(results)))
    assert "documents, exact match" in both and "charts, exact match" in both
    assert "### documents alone" in evaluation_report(with_charts(results)) and "### documents alone" not in report


def test_every_variant_stands_once_in_the_overview(run):
    _, results, _ = run
    for found in (results, with_charts(results)):
        rows = [line.split(" | ") for line in overview_table(found).splitlines() if line.startswith("| ")][2:]
        assert [row[0].removeprefix("| ") for row in rows] == [variant.name for variant in found.variants]


def test_causes_are_shown_where_they_can_be_told_apart(run):
    _, results, _ = run
    assert "| selection | nothing answered | lost by selecting | lost by the view |" in evaluation_report(results)
    report = evaluation_report(of_modes(results, "lowres", "hd", "shirg"))
    assert "| selection | nothing answered | read by `lowres` or `hd` | nearly right |" in report
    assert "lost by" not in report
    report = evaluation_report(of_modes(results, "shirg"))
    assert "| selection | nothing answered | nearly right |" in report and "lost by" not in report


def test_every_picture_exists(run):
    folder, results, _ = run
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", evaluation_report(results))
    assert pictures and all((folder / picture).is_file() for picture in pictures)


def test_text_from_data_is_escaped(run):
    _, results, _ = run
    skipped = [Skipped(dataset="documents", id="<b>|x", questions=1, reason="![y](z)\n# no")]
    report = evaluation_report(replace(results, skipped=skipped))
    assert "<b>" not in report and "![y]" not in report and "\n# no" not in report
    assert "&lt;b&gt;\\|x" in report


def test_the_gates_preset_is_named_or_what_differs_from_the_default(run):
    _, results, _ = run
    assert results.gate == GateInfo(preset="runs", changed={})
    first = "seconds in all. The gate's settings: "
    report = evaluation_report(results)
    assert f"{first}preset `runs`.\n" in report and "preset `runs`." in run_card(results)
    tuned = describe_gate(GateConfig.preset("ocr"))
    shared = {"beta", "relevance_spread"}  # what the preset and the default have in common
    changed = {name: value for name, value in PRESETS["ocr"].items() if name not in shared}
    assert tuned == GateInfo(preset="ocr", changed=changed)
    ocr = "preset `ocr` (alpha 0.1, clusters\\_per\\_budget 0.3, edge strokes, edge\\_spread 0.3, "
    assert first + ocr in evaluation_report(replace(results, gate=tuned)) and ocr in run_card(
        replace(results, gate=tuned)
    )
    own = describe_gate(GateConfig(beta=0.5, coverage=False))
    assert own == GateInfo(preset=None, changed={"beta": 0.5, "coverage": False})
    said = evaluation_report(replace(results, gate=own))
    assert f"{first}no preset (beta 0.5, coverage False).\n" in said and json.loads(
        json.dumps(to_json(own))
    ) == to_json(own)


def test_results_that_do_not_name_the_gate_and_runs_without_one_keep_their_report(run):
    _, results, _ = run
    report = evaluation_report(results)
    assert evaluation_report(replace(results, gate=None)) == report.replace(" The gate's settings: preset `runs`.", "")
    assert "The gate's settings" not in evaluation_report(lowres_alone(results))


def test_the_kind_of_relevance_is_named(run):
    _, results, _ = run
    turned = replace(results, model=replace(results.model, relevance="siglip", relevance_sign=-1))
    assert "relevance siglip, sign -1" in evaluation_report(turned)
    turned = replace(turned, model=replace(turned.model, relevance="none"))
    assert "by the page alone" in evaluation_report(turned)
    assert "Selection: by" not in evaluation_report(lowres_alone(turned))


def test_a_run_without_timing_and_selection_claims_neither(run):
    _, results, _ = run
    report = evaluation_report(lowres_alone(results))
    assert "The timing was left out of this run." in report and "kv_cache.png" not in report
    assert "kept_patches.png" not in report and "prefill ms" not in report and "whole answer ms" not in report


@pytest.fixture
def output(tmp_path):
    """An output folder with what data preparation and training leave."""
    (tmp_path / "data").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(MANIFEST))
    steps = [
        {"step": number + 1, "loss": 2.0 - number / 4, "budget": ratio}
        for number, ratio in enumerate([512, 768, "pooled"])
    ]
    lines = "".join(json.dumps(step) + "\n" for step in steps)
    (tmp_path / "logs" / "metrics.jsonl").write_text(lines + '{"step": 4, "lo')  # cut by a crash
    validations = [
        {"step": step, "losses": {"512": mean + 0.1, "pooled": mean - 0.1}, "mean": mean}
        for step, mean in ((0, 2.25), (3, 1.25))
    ]
    (tmp_path / "logs" / "validation.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in validations))
    return tmp_path


def test_training_report_tells_the_whole_run(run, output):
    _, results, _ = run
    path = write_training_report(
        output,
        command="python shirg/run_shirg_lora_training.py --epochs 1",
        seconds=305.0,
        settings=SETTINGS,
        training=TRAINING,
        evaluation=results,
        before=[judged("Training data readable", True, "1,200 records")],
        reload=judged("Adapter saved and reloads with equal outputs", True, "largest difference 0"),
    )
    report = path.read_text(encoding="utf-8")
    assert path.name == "SHIRG_TRAINING_REPORT.md"
    for text in (
        "--epochs 1",
        "5.1 minutes",
        "1,200 records",
        "| train | 1,140 | 380 |",
        "| projector | 30 | 530 | 5.660% |",
        "| all | 30 | 5,530 | 0.542% |",
        "4,321 tokens",
        "| 3 | 1.3500 | 1.1500 | 1.2500 |",
        "image &lt;broken&gt;",
        "a\\|b",
        "largest difference 0",
        "| Training loss falls | **not met** | 3.0000 in the first quarter, 3.1000 later |",
        "8 x A100",
        "- documents (rendered by SHIRG, from its held-out split): exact match; records from made \\| up, licence: CC0.",
        "figures/loss_per_step.png",
        "evaluation/figures/kv_cache.png",
    ):
        assert text in report, text
    assert (output / "figures" / "loss_per_step.png").stat().st_size > 5000
    assert "](figures/kv" not in report


def test_an_untrained_winner_is_the_first_line_and_answers_and_padding_are_told_apart(output):
    entries = [
        {"step": step, "records": 500, "losses": {"512": 1.0, "pooled": 2.0}, "mean": 1.5}
        | {"answers": {"512": 1.25, "pooled": 2.5 * ratio}, "padding": {"512": 0.5, "pooled": None}}
        | {"relative": (1 + ratio) / 2, "low": step and 0.99, "high": step and 1.25}
        for step, ratio in ((0, 1.0), (3, 1.2))
    ]
    entries[0] |= {"low": None, "high": None}
    (output / "logs" / "validation.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    training = TRAINING | {"best_step": 0, "best_validation": entries[0], "validation_after": entries[1]}
    keywords = {"command": "shirg run", "seconds": 1.0, "settings": SETTINGS, "training": training}
    report = write_training_report(output, **keywords).read_text(encoding="utf-8")
    first = report.removeprefix("# SHIRG training report").strip().splitlines()[0]
    assert first.startswith("No trained adapter was kept: none of 3 steps lowered the validation loss")
    assert "| step | 512 | pooled | relative to step 0 | padding, 512 | padding, pooled |" in report
    assert "| 3 | 1.2500 | 3.0000 | 1.100 [0.990, 1.250] | 0.5000 | - |" in report
    assert "where this ratio was lowest. That is the adapter before any training" in report


@pytest.mark.parametrize("found", [lambda results: results, with_charts])
def test_the_first_two_screens_and_nothing_twice(run, output, found):
    _, results, _ = run
    reload = judged("Adapter saved and reloads with equal outputs", True, "largest difference 0")
    path = write_training_report(
        output,
        command="x",
        seconds=305.0,
        settings=SETTINGS,
        training=TRAINING,
        evaluation=found(results),
        before=[judged("Training data readable", True, "1,200 records")],
        reload=reload,
    )
    report = path.read_text(encoding="utf-8")
    front, appendix = report.split("\n# Appendix\n")
    assert len(front.splitlines()) <= 60
    assert front.startswith("# SHIRG training report\n\nOn ") and f"\n\n{RULE}\n" in front
    assert "## Limitations" in front and "accuracy_against_tokens.png" in front
    assert "8 x A100" in appendix and "loss_per_step.png" in appendix
    header = "| check | status | found |"
    rows = [row for row in table_rows(report) if row != header]
    assert len(rows) == len(set(rows))
    assert len(re.findall(r"^!\[", report, re.MULTILINE)) == len(set(re.findall(r"^!\[.*", report, re.MULTILINE)))
    once = evaluation_report(found(results))
    assert once.startswith("# SHIRG evaluation\n\n## Summary\n\nOn ") and f"\n\n{RULE}\n" in once


def test_training_report_of_nothing(tmp_path):
    front = write_training_report(tmp_path, command="x", seconds=1).read_text(encoding="utf-8").split("# Appendix")[0]
    assert front == "# SHIRG training report\n\nThis run measured nothing.\n\n"


def test_training_report_of_a_training_alone(output):
    path = write_training_report(output, command="x", seconds=60, settings=SETTINGS, training=TRAINING)
    report = path.read_text(encoding="utf-8")
    assert "The evaluation was left out of this run." in report and "kept_patches" not in report


def test_training_report_of_an_evaluation_alone(run, output):
    _, results, _ = run
    report = write_training_report(output, command="a ```b", seconds=60, evaluation=results).read_text(encoding="utf-8")
    assert "Nothing was trained in this run." in report and "1,200" not in report
    assert "loss_per_step" not in report and not (output / "figures").exists()
