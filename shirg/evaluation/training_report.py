"""`SHIRG_TRAINING_REPORT.md`: data, training and evaluation of one run."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shirg.evaluation.checklist import Item, after_training, during_training, targets
from shirg.evaluation.environment import package_versions
from shirg.evaluation.figures import loss_figure
from shirg.evaluation.markdown import NOT_MEASURED, code_block, count, escape, table
from shirg.evaluation.report import (
    cost_section,
    dataset_lines,
    document,
    figure,
    has_drawing,
    item_table,
    join,
    opening,
    overview_table,
    score_table,
    skipped_section,
)
from shirg.evaluation.results import Results
from shirg.evaluation.takeaway import takeaway
from shirg.files import read_lines, write_text

REPORT_FILE = "SHIRG_TRAINING_REPORT.md"
IDEA = (
    "SHIRG encodes a page once at high resolution and keeps a budget of its visual tokens; the adapter trains the projector "
    "to serve every budget."
)
LOSS_FIGURE = "loss_per_step.png"
EVALUATION_FIGURES = "evaluation/figures"


def write_training_report(
    output_dir: Path,
    *,
    command: str,
    seconds: float,
    settings: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    evaluation: Results | None = None,
    before: Sequence[Item] = (),
    reload: Item | None = None,
) -> Path:
    """Write the report, and the loss figure when something was trained.

    Reads what the run left in `output_dir`: `data/manifest.json`, `logs/metrics.jsonl` and `logs/validation.jsonl`.

    Args:
        output_dir: the run's folder.
        command: the command line, as it would be typed again.
        seconds: wall time of the run so far.
        settings: the fields of `SHIRGLoRAConfig` as a dictionary; None when nothing was trained.
        training: what `SHIRGLoRATrainer.train` returned; None when nothing was trained.
        evaluation: None when nothing was evaluated.
        before: what was checked before training.
        reload: whether the saved adapter reloads.

    Returns:
        The report's path.
    """
    output_dir = Path(output_dir)
    manifest = _read_json(output_dir / "data" / "manifest.json") if training else None
    steps = read_lines(output_dir / "logs" / "metrics.jsonl") if training else []
    validations = read_lines(output_dir / "logs" / "validation.jsonl") if training else []
    if any(step["loss"] is not None for step in steps):
        loss_figure(output_dir / "figures" / LOSS_FIGURE, steps, validations)
    sections = {
        "# SHIRG training report": _front(training, evaluation, seconds),
        "## Limitations": _limits(training, evaluation) if training or evaluation else "",
        "# Appendix": "",
        "## Command": join(
            code_block(command),
            f"Python {platform.python_version()}, {', '.join(map(' '.join, package_versions().items()))}.",
        ),
        "## Data": _data(manifest),
        "## Model and adapter": _model(training, settings, evaluation),
        "## Training": _training(training, settings, validations, steps),
        **_evaluated(evaluation),
        "## Checklist before training": item_table(before) if before else f"{NOT_MEASURED.capitalize()} in this run.",
        "## Checklist during training": item_table(during_training(training)),
        "## Checklist after training": item_table(after_training(evaluation, reload)),
        "## Performance targets": item_table(targets(evaluation))
        if evaluation
        else "The evaluation was left out, so nothing is known about them.",
        "## Files": _files(training, evaluation),
    }
    path = output_dir / REPORT_FILE
    write_text(path, document(sections))
    return path


def _front(training: dict[str, Any] | None, evaluation: Results | None, seconds: float) -> str:
    """The summary."""
    if not training and not evaluation:
        return "This run measured nothing."
    done = [f"trained for {count(training['steps'], 'step')}"] if training else []
    if evaluation:
        asked = sum(dataset.questions for dataset in evaluation.datasets)
        done.append(f"asked {count(asked, 'question')} through {count(len(evaluation.variants), 'variant')}")
    chart = figure("accuracy_against_tokens.png", EVALUATION_FIGURES)
    return join(
        opening(takeaway(evaluation, training)),
        f"The run {' and '.join(done)} in {_duration(seconds)}. {IDEA}",
        *([overview_table(evaluation), chart] if evaluation else []),
    )


def _data(manifest: dict[str, Any] | None) -> str:
    if manifest is None:
        return "No training data was prepared in this run."
    rows = [[split, f"{n['records']:,}", f"{n['images']:,}"] for split, n in manifest["splits"].items()]
    sources = [[escape(name), f"{number:,}"] for name, number in manifest["sources"].items()]
    parts = [
        f"{count(manifest['total_samples'], 'record')} asked for: a record is one question about one image, and several may "
        "share an image.",
        table(["split", "records", "images"], rows),
        table(["source", "records"], sources),
    ]
    if manifest["sources"].get("rendered"):
        parts.append("`rendered` records are pages drawn by SHIRG from made-up words and numbers, not real documents.")
    if manifest["rejected"]:
        rows = [
            [escape(entry["source"]), escape(entry["item"]), escape(entry["reason"])]
            for entry in manifest["rejected"][:20]
        ]
        number = len(manifest["rejected"])
        parts.append(f"{number} {'entry was' if number == 1 else 'entries were'} skipped; the first ones:")
        parts.append(table(["source", "entry", "reason"], rows, text_columns=3))
    return join(*parts)


def _model(training: dict[str, Any] | None, settings: dict[str, Any] | None, evaluation: Results | None) -> str:
    lines = []
    if evaluation:
        model = evaluation.model
        name = "LaViDa-nano, the small model that comes with SHIRG" if model.nano else f"A {model.family} checkpoint"
        lines.append(
            f"{name}: {model.parameters:,} parameters; pages are encoded with {model.resolution} pixels a side."
        )
    if training and settings:
        targets_ = ", ".join(f"`{name}`" for name in settings["target_modules"])
        lines.append(
            f"LoRA of rank {settings['lora_rank']}, alpha {settings['lora_alpha']:g}, dropout {settings['lora_dropout']:g} on "
            f"{targets_}; everything else is frozen."
        )
        roles = dict(training["parameters"])
        roles["all"] = {key: sum(role[key] for role in roles.values()) for key in ("trainable", "total")}
        rows = [
            [name, f"{n['trainable']:,}", f"{n['total']:,}", f"{n['trainable'] / max(n['total'], 1):.3%}"]
            for name, n in roles.items()
        ]
        lines.append(table(["part", "trainable", "total", "share"], rows))
    return "\n\n".join(lines) or "Nothing was trained or evaluated in this run."


def _training(
    training: dict[str, Any] | None,
    settings: dict[str, Any] | None,
    validations: Sequence[dict[str, Any]],
    steps: Sequence[dict[str, Any]],
) -> str:
    if training is None or settings is None:
        return "Nothing was trained in this run."
    batch = settings["batch_size"] * settings["gradient_accumulation_steps"]
    parts = [
        f"{count(training['steps'], 'optimizer step')} of {count(batch, 'record')} per process, "
        f"{count(settings['num_epochs'], 'epoch')}, AdamW at {settings['learning_rate']:g} with a short warm-up and a cosine to "
        f'zero, objective "{settings["objective"]}" with padding at weight {training.get("padding_weight", 1.0):g}, precision '
        f"{training['mixed_precision']} on {training['device']}, seed {settings['seed']}. One mixture component per step "
        f"({settings['ratio_sampling']}), so that one adapter learns them all.",
        f"The steps took {_duration(training['seconds'])}"
        + (
            f", {training['tokens_per_second']:,.0f} tokens of the language model per second."
            if training["seconds"]
            else "."
        ),
    ]
    if validations:
        parts += _validations(training, validations)
    if any(step["loss"] is not None for step in steps):
        parts.append(f"![Loss of every step, coloured by mixture component](figures/{LOSS_FIGURE})")
    if training["skipped_records"]:
        rows = [[escape(name), escape(why)] for name, why in list(training["skipped_records"].items())[:20]]
        parts += [
            f"{count(len(training['skipped_records']), 'record')} left out:",
            table(["record", "reason"], rows, text_columns=2),
        ]
    if training["cut_answers"]:
        parts.append(
            f"{count(len(training['cut_answers']), 'answer')} longer than {settings['max_answer_tokens']} tokens trained in part."
        )
    return join(*parts)


def _validations(training: dict[str, Any], validations: Sequence[dict[str, Any]]) -> list[str]:
    """Table of the validations, and which adapter was kept."""
    names = list(validations[0]["losses"])
    if "relative" in validations[-1]:
        header = [*names, "relative to step 0", *(f"padding, {name}" for name in names)]
        rows = [
            [str(entry["step"]), *_numbers(entry["answers"]), _relative(entry), *_numbers(entry["padding"])]
            for entry in validations
        ]
        text = (
            f"Validation loss by mixture component on {count(validations[-1]['records'], 'question')} (mean cross-entropy of an "
            "answer's tokens, lower is better; the same masks every time); relative to step 0 with its 95% interval over the "
            "images, the mean over the components; and the loss of the padding after the answers:"
        )
        lowest = "this ratio"
    else:  # runs of earlier versions
        header = [*names, "mean"]
        rows = [[str(entry["step"]), *_numbers(entry["losses"]), f"{entry['mean']:.4f}"] for entry in validations]
        text = (
            "Validation loss by mixture component (mean cross-entropy of an answer's tokens and its padding, lower is better; "
            "the same masks every time):"
        )
        lowest = "the mean"
    parts = [text, table(["step", *header], rows, text_columns=0)]
    if training["best_step"] is not None:
        untrained = (
            " That is the adapter before any training: training did not help." if not training["best_step"] else ""
        )
        kept = f"`best_model` is the adapter of step {training['best_step']}, where {lowest} was lowest."
        parts.append(f"{kept}{untrained}")
    return parts


def _numbers(losses: dict[str, float | None]) -> list[str]:
    return ["-" if loss is None else f"{loss:.4f}" for loss in losses.values()]


def _relative(entry: dict[str, Any]) -> str:
    """ "0.931 [0.902, 0.960]"."""
    ends = "" if entry["low"] is None else f" [{entry['low']:.3f}, {entry['high']:.3f}]"
    return f"{entry['relative']:.3f}{ends}"


def _evaluated(evaluation: Results | None) -> dict[str, str]:
    """Sections of the evaluation that the summary does not have."""
    if evaluation is None:
        return {"## Evaluation": "The evaluation was left out of this run."}
    more = "Differences by data set, and to the other variants, are in `evaluation/evaluation_report.md`."
    return {
        "## Scores by data set": join(dataset_lines(evaluation), score_table(evaluation), more),
        "## One page": figure("kept_patches.png", EVALUATION_FIGURES) if has_drawing(evaluation) else "",
        "## Cost": cost_section(evaluation, EVALUATION_FIGURES),
        "## Skipped": skipped_section(evaluation),
    }


def _limits(training: dict[str, Any] | None, evaluation: Results | None) -> str:
    lines = []
    if evaluation and evaluation.model.nano:
        lines.append(
            "- LaViDa-nano is a small model of the same architecture: its scores do not show how well LaViDa with official "
            "weights would do."
        )
    if evaluation:
        lines.append(
            "- Undecided does not mean equal; and of many comparisons of equal variants, one in twenty looks better or worse by "
            "chance."
        )
    if evaluation and not any(variant.mode == "highres" for variant in evaluation.variants):
        lines.append(
            "- What a selection loses against all tokens of the large view was not asked; `shirg evaluate --variants core` "
            "asks it."
        )
    if evaluation and evaluation.efficiency:
        lines.append("- Times hold for the machine of this run, one page and a batch of one.")
    if training:
        lines.append("- The loss and the scores are those of one training: another seed gives other ones.")
    return "\n".join(lines)


def _files(training: dict[str, Any] | None, evaluation: Results | None) -> str:
    lines = []
    if training:
        lines += [
            "- `checkpoints/best_model/`: the adapter, a PEFT folder; `model.load_adapter(...)` loads it",
            "- `logs/training.log`, `logs/metrics.jsonl`, `logs/validation.jsonl`: every step and validation",
            "- `data/`: the training records and their manifest",
        ]
    if evaluation:
        lines += [
            "- `evaluation/evaluation_report.md`: the evaluation at length, by height of text and kind of question too",
            "- `evaluation/evaluation_results.json`, `evaluation/detailed_results.json`: its numbers, and every answer",
        ]
    return "\n".join(lines) or "None."


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
