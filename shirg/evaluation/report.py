"""`evaluation_report.md`: the results of one evaluation, for somebody who was not there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from shirg.evaluation.bootstrap import MINIMUM_DIFFERING_PAGES, RESAMPLES
from shirg.evaluation.checklist import Item, targets
from shirg.evaluation.markdown import count, escape, interval, megabytes, milliseconds, percent, points, table
from shirg.evaluation.report_details import breakdowns, difference_cell, example_list, failure_tables, gate_settings
from shirg.evaluation.tasks import METRIC_TITLES
from shirg.evaluation.variants import BUDGETED_MODES, PATHS, REFERENCE_MODES, RIVALS, SELECTING_MODES

FIGURES = {
    "accuracy_against_tokens.png": "Score against visual tokens, with 95% intervals",
    "kept_patches.png": "One page of the run: what was kept and what was dropped",
    "kv_cache.png": "Size of the prefix cache by vision path",
    "latency.png": "Time of an answer, stage by stage",
}


def evaluation_report(results: dict[str, Any]) -> str:
    """The report as Markdown, from the content of `evaluation_results.json`."""
    parts = [
        "# SHIRG evaluation",
        _what_was_run(results),
        "## In short",
        in_short(results),
        "## Scores and cost",
        score_table(results),
        figure("accuracy_against_tokens.png"),
        "## What the numbers mean",
        _explanation(results),
        "## Compared with the other vision paths",
        difference_tables(results),
        "## Cost",
        cost_section(results),
        computed_section(results),
        "## Which text can be read",
        breakdowns(results),
        "## What goes wrong",
        failure_tables(results),
        "## Worst losses and best wins",
        example_list(results),
        *(["## One page", figure("kept_patches.png")] if has_drawing(results) else []),
        "## Targets, line by line",
        item_table(targets(results)),
        "## Skipped",
        skipped_section(results),
        "## How it was measured",
        _method(results),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def has_drawing(results: dict[str, Any]) -> bool:
    """Whether the run drew what a selection keeps."""
    return any(variant["mode"] == "shirg" for variant in results["variants"])


def item_table(items: Iterable[Item]) -> str:
    """A checklist as a table."""
    rows = [[escape(item.name), f"**{item.status}**", escape(item.number, limit=300)] for item in items]
    return table(["line", "status", "number"], rows, text_columns=3)


def in_short(results: dict[str, Any]) -> str:
    """One line for each data set and selection, in its most trained state, against the paths as the model ships them."""
    lines = []
    for dataset in _scored(results):
        for variant in _headline_variants(results):
            score = _score(results, dataset["name"], variant, dataset["metric"])
            against = [
                f"{points(entry['difference'])} against {entry['against']} ({entry['verdict']})"
                for entry in results["comparisons"]
                if (entry["dataset"], entry["variant"]) == (dataset["name"], variant)
                and entry["against"] in REFERENCE_MODES
            ]
            tail = f"; in points {', '.join(against)}" if against else ""
            lines.append(f"- {dataset['name']}: {variant} scores {percent(score['score'])}{tail}.")
    return "\n".join(lines) or "No question was answered."


def score_table(results: dict[str, Any]) -> str:
    """Every variant: tokens, score on every data set with its interval, and what it costs."""
    datasets = _scored(results)
    columns = [(dataset["name"], metric) for dataset in datasets for metric in _metrics(results, dataset["name"])]
    parts = list(dict.fromkeys((entry["dataset"], entry["part"]) for entry in results["parts"]))
    costs = {row["variant"]: row for row in results["efficiency"]["rows"]} if results["efficiency"] else {}
    tokens = {entry["variant"]: entry for entry in results["tokens"]}
    header = ["vision path", "visual tokens", *(f"{name}, {METRIC_TITLES[metric]}" for name, metric in columns)]
    header += [f"{name}, {part} part" for name, part in parts]
    header += ["selection ms", "prefill ms", "ms per step", "KV cache MB"] if costs else []
    rows = []
    for variant in results["variants"]:
        name = variant["variant"]
        scored = [_score_cell(_score(results, dataset, name, metric)) for dataset, metric in columns]
        scored += [_score_cell(_part(results, dataset, part, name)) for dataset, part in parts]
        cost = costs.get(name.removesuffix("+adapter"))
        rows.append([name, _tokens(tokens[name]), *scored, *(_cost_cells(cost) if cost else [])])
    trained = any(variant["adapter"] for variant in results["variants"])
    note = "Costs were timed without the adapter, which adds two small matrices to the projector."
    return "\n\n".join(filter(None, [table(header, rows), note if costs and trained else ""]))


def difference_tables(results: dict[str, Any]) -> str:
    """For each data set: what is gained on the paths as the model ships them, then on what trained with them."""
    parts = []
    modes = {variant["variant"]: variant["mode"] for variant in results["variants"]}
    for dataset in _scored(results):
        entries = [entry for entry in results["comparisons"] if entry["dataset"] == dataset["name"]]
        shipped = [entry for entry in entries if entry["against"] in REFERENCE_MODES]
        heading = f"### {dataset['name']} ({METRIC_TITLES[dataset['metric']]}, difference in points, 95% interval)"
        if entries:
            parts += [heading, _difference_table(shipped)]
        rivals = [
            entry for entry in entries if modes[entry["variant"]] == "shirg" and modes[entry["against"]] in RIVALS
        ]
        if rivals:
            parts += ["`shirg` against other rules, at the same budget:", _rival_table(modes, rivals)]
        told = {id(entry) for entry in (*shipped, *rivals)}
        trained = [entry for entry in entries if id(entry) not in told]
        if trained:
            parts += ["With the adapter, against itself without it and against the other paths with it:"]
            parts += [_difference_table(trained)]
    return "\n\n".join(filter(None, parts)) or "Nothing was run beside a path to compare it with."


def _rival_table(modes: dict[str, str], entries: Sequence[dict[str, Any]]) -> str:
    """One row for each rule, one column for each budget and adapter of `shirg`."""
    columns = list(dict.fromkeys(entry["variant"] for entry in entries))
    cells = {(modes[entry["against"]], entry["variant"]): entry for entry in entries}
    rules = list(dict.fromkeys(rule for rule, _ in cells))
    rows = [[f"against {rule}", *(difference_cell(cells.get((rule, name))) for name in columns)] for rule in rules]
    return table(["rule", *columns], rows)


def _difference_table(entries: Sequence[dict[str, Any]]) -> str:
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in entries:
        itself = entry["variant"] == f"{entry['against']}+adapter"
        cells.setdefault(entry["variant"], {})["itself without adapter" if itself else entry["against"]] = entry
    against = list(dict.fromkeys(name for row in cells.values() for name in row))
    rows = [[variant, *(difference_cell(row.get(name)) for name in against)] for variant, row in cells.items()]
    return table(["vision path", *(f"against {name}" for name in against)], rows) if rows else ""


def cost_section(results: dict[str, Any], figures: str = "figures") -> str:
    """Time by stage, cache bytes and savings; `figures` is the folder of the pictures as seen from the report."""
    efficiency = results["efficiency"]
    if efficiency is None:
        return "The timing was left out of this run."
    header = ["vision path", "tokens", "with prompt", "tower ms", "selection ms", "selection, pooling and projector ms"]
    header += [
        "prefill ms",
        "ms per step",
        "without cache",
        "steps",
        "whole answer ms",
        "KV cache MB",
        "peak MB",
    ]
    rows = [
        [row["variant"], str(row["tokens"]), str(row["prefix_tokens"])]
        + [milliseconds(row[key]) for key in ("tower_ms", "selection_ms", "embedding_ms")]
        + [milliseconds(row[key]) for key in ("prefill_ms", "step_ms", "step_uncached_ms")]
        + [str(row["steps"]), milliseconds(row["total_ms"])]
        + [megabytes(row["kv_bytes"]), megabytes(row["peak_memory_bytes"])]
        for row in efficiency["rows"]
    ]
    savings = [
        [
            entry["variant"],
            f"{entry['against']} ({entry['reference_tokens']} tokens)",
            percent(entry["image"]),
            percent(entry["prefix"]),
        ]
        for entry in efficiency["savings"]
    ]
    parts = [table(header, rows), figure("latency.png", figures), figure("kv_cache.png", figures)]
    if savings:
        header = ["selection", "against", "KV cache saved, page", "KV cache saved, page and prompt"]
        parts += [
            table(header, savings, text_columns=2),
            "A negative saving means that the selection needs a larger cache.",
        ]
    return "\n\n".join(parts)


def computed_section(results: dict[str, Any]) -> str:
    """What the same paths cost at the size of the 8B model: arithmetic, and said to be."""
    computed = results["efficiency"]["computed"] if results["efficiency"] else None
    if computed is None or not computed["rows"]:
        return ""
    scenario = computed["scenario"]
    stages = ("tower", "prefill", "step_cached", "step_uncached", "total_cached", "total_uncached")
    rows = [
        [
            row["variant"],
            str(row["tokens"]),
            megabytes(row["kv_bytes"]),
            *(f"{row[stage] / 1e12:.2f}" for stage in stages),
        ]
        for row in computed["rows"]
    ]
    header = ["vision path", "tokens", "KV cache MB", *(f"{stage.replace('_', ', ')} TFLOP" for stage in stages)]
    return "\n\n".join(
        [
            f"### The same paths at the size of {computed['shape']}",
            f"Computed from the model's shape, not measured: a square page, {scenario['prompt_tokens']} text tokens, "
            f"{scenario['answer_tokens']} answer tokens in {scenario['steps']} steps, {scenario['dtype']}. `shirg describe "
            f"{computed['shape']}` says what is counted. Other rules than `shirg` cost the same but for their own arithmetic.",
            table(header, rows),
        ]
    )


def skipped_section(results: dict[str, Any]) -> str:
    """What was not evaluated, and why."""
    if not results["skipped"]:
        return "Nothing was skipped."
    total = sum(entry["questions"] for entry in results["skipped"])
    shown = results["skipped"][:50]
    rows = [
        [entry["dataset"], escape(entry["id"], 80), str(entry["questions"]), escape(entry["reason"])] for entry in shown
    ]
    more = len(results["skipped"]) - len(shown)
    parts = [
        f"{count(total, 'question')} skipped.",
        table(["data set", "record", "questions", "reason"], rows, text_columns=4),
    ]
    return "\n\n".join(parts + ([f"{more} more are listed in `evaluation_results.json`."] if more else []))


def _what_was_run(results: dict[str, Any]) -> str:
    model, config, environment = results["model"], results["config"], results["environment"]
    adapter = (
        f"an adapter of {model['adapter_parameters']:,} parameters" if model["adapter_parameters"] else "no adapter"
    )
    sets = "; ".join(
        f"{dataset['name']} ({count(dataset['questions'], 'question')} on {count(dataset['pages'], 'page')})"
        for dataset in results["datasets"]
    )
    ways = len({(variant["mode"], variant["budget"]) for variant in results["variants"]})
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    name = "LaViDa-nano" if model["nano"] else f"a {model['family']} model"
    gate = f" The gate's settings: {gate_settings(results['gate'])}." if _names_gate(results) else ""
    return (
        f"{name[0].upper()}{name[1:]} with {model['parameters']:,} parameters and {adapter}, asked about {sets}. "
        f"Each question was asked in {count(len(results['variants']), 'variant')}: "
        f"{count(ways, 'way')} to show the page{', without and with the adapter' if model['adapter_parameters'] else ''}. "
        f"Device {escape(environment['device'])}, {count(environment['threads'], 'thread')}, {environment['dtype']}; Python "
        f"{environment['python']}, {packages}; seed {config['seed']}; {results['seconds']:.0f} seconds in all.{gate}"
    )


def _names_gate(results: dict[str, Any]) -> bool:
    """Whether the gate took part and the results describe it; earlier ones do not, and their reports are made again as they
    were."""
    return "gate" in results and any(variant["mode"] in BUDGETED_MODES for variant in results["variants"])


def _explanation(results: dict[str, Any]) -> str:
    modes = [f"- `{mode}`: {PATHS[mode]};" for mode in results["config"]["modes"] if mode not in RIVALS]
    rivals = [f"`{mode}`" for mode in results["config"]["modes"] if mode in RIVALS]
    if rivals:
        modes.append(f"- {', '.join(rivals)}: the same large page, tokens chosen or merged by that rule;")
    return "\n".join(
        [
            "How the page is shown:",
            "",
            *modes,
            "- a number behind the path is the token budget, `+adapter` means that the trained adapter was on.",
            "",
            "A score is the mean over questions, in percent; the brackets hold its 95% interval. Differences are paired: the "
            'same questions, asked both ways. "Better" and "worse" are said only where the interval of the difference leaves out '
            f'zero and at least {MINIMUM_DIFFERING_PAGES} pages differ; "not distinguishable" means that this run is too small '
            "or the two too alike to tell, not that they are equal. With many comparisons, one in twenty of the alike ones "
            "will look different by chance.",
        ]
    )


def _selection_line(model: dict[str, Any]) -> str:
    if model["relevance"] == "none":
        return "- Selection: by the page alone (relevance none)."
    return f"- Selection: the question takes part by relevance {model['relevance']}, sign {model['relevance_sign']:+d}."


def _method(results: dict[str, Any]) -> str:
    config = results["config"]
    suffix = (
        'Questions were put with the suffix of the usual harness ("Answer the question using a single word or phrase.").'
        if config["prompt_suffix"] == "official"
        else f"Questions were put bare{', as this model was trained' if results['model']['nano'] else ''}."
    )
    lines = [
        f"- Answers: {config['max_new_tokens']} positions in blocks of {config['block_length']}, "
        f"{config['step_ratio']:g} denoising steps per position, the most certain predictions first, no sampling. {suffix}",
        f"- Intervals: {RESAMPLES} resamples of whole pages, since questions about one page stand or fall together.",
    ]
    if any(variant["mode"] in SELECTING_MODES for variant in results["variants"]):
        lines.append(_selection_line(results["model"]))
    lines.append(dataset_lines(results))
    if results["efficiency"]:
        efficiency = results["efficiency"]
        width, height = efficiency["page_size"]
        lines.append(
            f"- Times: one page of the run ({width} x {height} pixels), batch of one, median of "
            f"{count(efficiency['repeats'], 'run')} after {efficiency['warm_up']} to warm up. Selection includes comparing the "
            "page with the question where the model does that, and the tower's last layer computed once more for rules that look "
            "at its attention or keys. Stages that depend on the prefix's length alone are timed once for each length. "
            "KV bytes are counted from this page's filled cache. Peak: the most bytes that tensors held at once during one "
            f"answer, weights included, {_peak_counted(results)}."
        )
    lines.append("- Every prediction is in `detailed_results.json`, one entry for each question and variant.")
    return "\n".join(lines)


def _peak_counted(results: dict[str, Any]) -> str:
    if results["environment"]["device"] == "cpu":
        return "seen between operations, which on a CPU is less than the process takes"
    return "as the GPU's allocator counts them"


def dataset_lines(results: dict[str, Any]) -> str:
    """One line for each data set: what is special about it, its metric, its source and licence."""
    lines = []
    for dataset in results["datasets"]:
        note = f" ({escape(dataset['note'], limit=300)})" if dataset["note"] else ""
        sources = ", ".join(escape(source) for source in dataset["sources"])
        licences = ", ".join(escape(licence) for licence in dataset["licences"])
        lines.append(
            f"- {dataset['name']}{note}: {METRIC_TITLES[dataset['metric']]}; records from {sources}, licence: {licences}."
        )
    return "\n".join(lines)


def figure(name: str, folder: str = "figures") -> str:
    """A picture of the evaluation, from `folder` as seen from the report."""
    return f"![{FIGURES[name]}]({folder}/{name})"


def _scored(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [dataset for dataset in results["datasets"] if dataset["questions"]]


def _metrics(results: dict[str, Any], dataset: str) -> list[str]:
    return list(dict.fromkeys(entry["metric"] for entry in results["scores"] if entry["dataset"] == dataset))


def _score(results: dict[str, Any], dataset: str, variant: str, metric: str) -> dict[str, Any]:
    key = (dataset, variant, metric)
    return next(e for e in results["scores"] if (e["dataset"], e["variant"], e["metric"]) == key)


def _part(results: dict[str, Any], dataset: str, part: str, variant: str) -> dict[str, Any]:
    key = (dataset, part, variant)
    return next(e for e in results["parts"] if (e["dataset"], e["part"], e["variant"]) == key)


def _headline_variants(results: dict[str, Any]) -> list[str]:
    """The selections, with the adapter when there is one."""
    with_adapter = any(variant["adapter"] for variant in results["variants"])
    return [
        variant["variant"]
        for variant in results["variants"]
        if variant["mode"] in BUDGETED_MODES and variant["adapter"] == with_adapter
    ]


def _tokens(entry: dict[str, Any]) -> str:
    if entry["fewest"] == entry["most"]:
        return str(entry["most"])
    return f"{entry['mean']:.0f} ({entry['fewest']} to {entry['most']})"


def _score_cell(entry: dict[str, Any]) -> str:
    return f"{percent(entry['score'])} {interval(entry, lambda value: f'{100 * value:.1f}')}"


def _cost_cells(row: dict[str, Any]) -> list[str]:
    return [*(milliseconds(row[key]) for key in ("selection_ms", "prefill_ms", "step_ms")), megabytes(row["kv_bytes"])]
