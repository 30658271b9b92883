"""`evaluation_report.md`: the results of one evaluation, for somebody who was not there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from shirg.evaluation.checklist import Item, targets
from shirg.evaluation.markdown import count, escape, interval, megabytes, milliseconds, percent, table
from shirg.evaluation.report_details import breakdowns, difference_cell, example_list, failure_tables, gate_settings
from shirg.evaluation.takeaway import RULE, compared, takeaway
from shirg.evaluation.tasks import METRIC_TITLES
from shirg.evaluation.variants import BUDGETED_MODES, PATHS, RIVALS, SELECTING_MODES

FIGURES = {
    "accuracy_against_tokens.png": "Score against visual tokens, with 95% intervals",
    "kept_patches.png": "One page of the run: what was kept and what was dropped",
    "kv_cache.png": "Size of the prefix cache by vision path",
    "latency.png": "Time of an answer, stage by stage",
}

MEANING = (
    "A score is the mean over questions. Differences are paired: the same questions, asked both ways. Undecided does not mean "
    "equal. With many comparisons, one in twenty of the alike ones will look different by chance."
)


def evaluation_report(results: dict[str, Any]) -> str:
    """The report as Markdown, from the content of `evaluation_results.json`."""
    parts = [
        "# SHIRG evaluation",
        "## In short",
        opening(takeaway(results)),
        "## Every variant",
        overview_table(results),
        figure("accuracy_against_tokens.png"),
        "## What was run",
        _what_was_run(results),
        MEANING,
        *_under("## Scores by data set", score_table(results)),
        *_under("## Differences in points, with their 95% intervals", difference_tables(results)),
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


def _under(heading: str, text: str) -> list[str]:
    """A section, but for an empty one."""
    return [heading, text] if text else []


def has_drawing(results: dict[str, Any]) -> bool:
    """Whether the run drew what a selection keeps."""
    return any(variant["mode"] == "shirg" for variant in results["variants"])


def item_table(items: Iterable[Item]) -> str:
    """A checklist as a table."""
    rows = [[escape(item.name), f"**{item.status}**", escape(item.number, limit=300)] for item in items]
    return table(["line", "status", "number"], rows, text_columns=3)


def opening(lines: Sequence[str]) -> str:
    """The sentences of `takeaway` as a paragraph; the rule of the verdicts is one of its own."""
    return "\n\n".join(filter(None, [" ".join(line for line in lines if line != RULE), RULE if RULE in lines else ""]))


def overview_table(results: dict[str, Any]) -> str:
    """Every variant once: tokens, score, difference to LaViDa's own paths, what the adapter changed, and what it costs; the
    questions of all data sets with one deciding metric together."""
    groups = results["together"]
    costs = {row["variant"]: row for row in results["efficiency"]["rows"]} if results["efficiency"] else {}
    adapter = any(variant["adapter"] for variant in results["variants"])
    against = [name for name in ("lowres", "hd") if any(entry["variant"] == name for entry in results["tokens"])]
    header = ["variant", "visual tokens"]
    for group in groups:
        of = f"{', '.join(group['datasets'])}: " if len(groups) > 1 else ""
        header += [f"{of}{METRIC_TITLES[group['metric']]}", *(f"{of}against {name}" for name in against)]
        header += [f"{of}changed by the adapter"] if adapter else []
    header += ["selection ms", "whole answer ms", "KV cache MB"] if costs else []
    tokens = {entry["variant"]: entry for entry in results["tokens"]}
    rows = []
    for name in (variant["variant"] for variant in results["variants"]):
        row = [name, _tokens(tokens[name])]
        for group in groups:
            score = next(entry for entry in group["scores"] if entry["variant"] == name)
            before = name.removesuffix("+adapter")
            others = [compared(group, name, other) if other != before else None for other in against]
            others += [compared(group, name, before)] if adapter else []
            row += [_score_cell(score), *map(difference_cell, others)]
        rows.append(row + (_cost_cells(costs.get(name)) if costs else []))
    note = "Brackets hold 95% intervals; differences are in points."
    note += " Costs were timed without the adapter." if adapter and costs else ""
    return "\n\n".join([table(header, rows), note, path_list(results)])


def score_table(results: dict[str, Any]) -> str:
    """Every variant's score by every metric on every data set and part of one, but for what the overview has; "" for
    nothing."""
    alone = [(group["datasets"][0], group["metric"]) for group in results["together"] if len(group["datasets"]) == 1]
    columns = [(entry["dataset"], entry["metric"]) for entry in results["scores"]]
    columns = [column for column in dict.fromkeys(columns) if column not in alone]
    parts = list(dict.fromkeys((entry["dataset"], entry["part"]) for entry in results["parts"]))
    header = ["variant", *(f"{name}, {METRIC_TITLES[metric]}" for name, metric in columns)]
    header += [f"{name}, {part} part" for name, part in parts]
    rows = []
    for variant in (entry["variant"] for entry in results["variants"]):
        scored = [_score(results, dataset, variant, metric) for dataset, metric in columns]
        scored += [_part(results, dataset, part, variant) for dataset, part in parts]
        rows.append([variant, *map(_score_cell, scored)])
    return table(header, rows) if columns or parts else ""


def difference_tables(results: dict[str, Any]) -> str:
    """Differences that the overview has not: of data sets together, to all other variants; then of each data set."""
    parts = []
    modes = {variant["variant"]: variant["mode"] for variant in results["variants"]}
    for group in results["together"]:
        others = [entry for entry in group["comparisons"] if not _in_overview(entry)]
        parts += _differences(", ".join(group["datasets"]), group["metric"], others, modes)
        for dataset in group["datasets"] if len(group["datasets"]) > 1 else ():
            entries = [entry for entry in results["comparisons"] if entry["dataset"] == dataset]
            parts += _differences(f"{dataset} alone", group["metric"], entries, modes)
    return "\n\n".join(parts)


def _in_overview(entry: dict[str, Any]) -> bool:
    return entry["against"] in ("lowres", "hd", entry["variant"].removesuffix("+adapter"))


def _differences(title: str, metric: str, entries: Sequence[dict[str, Any]], modes: dict[str, str]) -> list[str]:
    """A heading and up to two tables: `shirg` beside other rules is one of its own, since those are many."""
    rivals = [entry for entry in entries if modes[entry["variant"]] == "shirg" and modes[entry["against"]] in RIVALS]
    others = [entry for entry in entries if entry not in rivals]
    parts = [_difference_table(others)] if others else []
    parts += ["`shirg` against other rules, at the same budget:", _rival_table(modes, rivals)] if rivals else []
    return [f"### {title} ({METRIC_TITLES[metric]})", *parts] if parts else []


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
    return table(["variant", *(f"against {name}" for name in against)], rows)


def cost_section(results: dict[str, Any], figures: str = "figures") -> str:
    """Time by stage and peak memory, beside what the overview has; `figures`: folder of the pictures as seen from the report."""
    efficiency = results["efficiency"]
    if efficiency is None:
        return "The timing was left out of this run."
    header = ["vision path", "tokens", "with prompt", "tower ms", "selection, pooling and projector ms", "prefill ms"]
    header += ["ms per step", "without cache", "steps", "peak MB"]
    rows = [
        [row["variant"], str(row["tokens"]), str(row["prefix_tokens"])]
        + [milliseconds(row[key]) for key in ("tower_ms", "embedding_ms", "prefill_ms", "step_ms", "step_uncached_ms")]
        + [str(row["steps"]), megabytes(row["peak_memory_bytes"])]
        for row in efficiency["rows"]
    ]
    return "\n\n".join([table(header, rows), figure("latency.png", figures), figure("kv_cache.png", figures)])


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
    parts = [_skipped_questions(results)] + [_unanswered(results)] * bool(results.get("unanswered"))
    return "\n\n".join(parts)


def _unanswered(results: dict[str, Any]) -> str:
    """What could not be asked through a variant, and why; earlier versions ended there."""
    entries = results["unanswered"]
    shown = entries[:50]
    rows = [[entry["dataset"], escape(entry["id"], 80), entry["variant"], escape(entry["reason"])] for entry in shown]
    more = len(entries) - len(shown)
    parts = [
        f"{count(len(entries), 'question')} could not be asked and count as answered by nothing.",
        table(["data set", "record", "variant", "reason"], rows, text_columns=4),
    ]
    return "\n\n".join(parts + ([f"{more} more are listed in `evaluation_results.json`."] if more else []))


def _skipped_questions(results: dict[str, Any]) -> str:
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


def path_list(results: dict[str, Any]) -> str:
    """How each vision path shows the page, a line each."""
    modes = [f"- `{mode}`: {PATHS[mode]}" for mode in results["config"]["modes"] if mode not in RIVALS]
    rivals = [f"`{mode}`" for mode in results["config"]["modes"] if mode in RIVALS]
    if rivals:
        modes.append(f"- {', '.join(rivals)}: the same large page, tokens chosen or merged by that rule")
    return "\n".join([*modes, "- a number behind the path: the token budget; `+adapter`: the adapter is on"])


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
        f"- Intervals: {results['intervals']['resamples']:,} resamples of whole pages, since questions about one page stand or "
        "fall together.",
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


def _score(results: dict[str, Any], dataset: str, variant: str, metric: str) -> dict[str, Any]:
    key = (dataset, variant, metric)
    return next(e for e in results["scores"] if (e["dataset"], e["variant"], e["metric"]) == key)


def _part(results: dict[str, Any], dataset: str, part: str, variant: str) -> dict[str, Any]:
    key = (dataset, part, variant)
    return next(e for e in results["parts"] if (e["dataset"], e["part"], e["variant"]) == key)


def _tokens(entry: dict[str, Any]) -> str:
    if entry["fewest"] == entry["most"]:
        return str(entry["most"])
    return f"{entry['mean']:.0f} ({entry['fewest']} to {entry['most']})"


def _score_cell(entry: dict[str, Any]) -> str:
    return f"{percent(entry['score'])} {interval(entry, lambda value: f'{100 * value:.1f}')}"


def _cost_cells(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return ["-", "-", "-"]
    return [milliseconds(row["selection_ms"]), milliseconds(row["total_ms"]), megabytes(row["kv_bytes"])]
