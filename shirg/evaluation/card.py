"""`run_card.md`: what one evaluation was, on one page, so that it can be judged and done again."""

from __future__ import annotations

import json
from typing import Any

from shirg.evaluation.markdown import code_block, count, escape, table
from shirg.evaluation.report_details import gate_settings

FILES = {
    "predictions.jsonl": "the run's settings in the first line, then every answer as it came",
    "detailed_results.json": "every answer with its scores, and what was skipped",
    "evaluation_results.json": "scores, intervals, paired differences, times; every number of the report",
    "evaluation_report.md": "the report; `shirg report` makes it again from the two files above",
    "evaluation_report.html": "the same as one file, for a browser",
    "figures/": "its pictures",
}


def run_card(results: dict[str, Any]) -> str:
    """The card as Markdown, from the content of `evaluation_results.json`."""
    config, intervals = results["config"], results["intervals"]
    called = code_block(config["command"]) if config["command"] else "Called from Python; the settings are below."
    parts = [
        "# Card of an evaluation",
        called,
        "## Model",
        _model(results),
        "## Questions",
        _questions(results),
        "## Settings",
        f"Seed {config['seed']} decides the sample of questions, the rendered pages and the resampling: "
        f"{intervals['resamples']} resamples of whole {intervals['unit']}s, {100 * intervals['level']:.0f}% intervals. "
        "Decoding draws nothing.",
        code_block(json.dumps(results["run"], indent=2), "json"),
        "## Done again",
        "The same settings, model, questions and libraries give the same answers, byte for byte on one device; times differ. "
        "Every score is the mean of `scores` over the answers of `detailed_results.json`, every difference the mean of the "
        "differences question by question.",
        "## Files",
        "\n".join(f"- `{name}`: {what}" for name, what in FILES.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _model(results: dict[str, Any]) -> str:
    model, environment = results["model"], results["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    adapter = (
        f"with an adapter of {model['adapter_parameters']:,} parameters, fingerprint `{model['adapter_weights']}`"
        if model["adapter_parameters"]
        else "without an adapter"
    )
    return (
        f"{model['family']}, {model['parameters']:,} parameters, fingerprint of the weights `{model['weights']}`, {adapter}; "
        f"pages at {model['resolution']} pixels; the gate's settings: {gate_settings(results['gate'])}. "
        f"On {escape(environment['device'])} ({escape(environment['system'])} "
        f"{escape(environment['machine'])}), {count(environment['threads'], 'thread')}, {environment['dtype']}; shirg "
        f"{environment['shirg']}, Python {environment['python']}, {packages}."
    )


def _questions(results: dict[str, Any]) -> str:
    rows = [
        [
            escape(entry["name"]),
            ", ".join(map(escape, entry["sources"])) or "-",
            ", ".join(map(escape, entry["licences"])) or "-",
            entry["metric"],
            *(str(entry[key]) for key in ("questions", "pages", "skipped")),
        ]
        for entry in results["datasets"]
    ]
    header = ["data set", "source", "licence", "metric", "questions", "pages", "skipped"]
    asked = f"Fingerprint of questions, answers and pages: `{results['run']['questions']}`."
    return table(header, rows, text_columns=4) + "\n\n" + asked
