"""The Markdown of an evaluation: `evaluation_report.md` and `run_card.md`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from shirg.evaluation.checklist import Item, targets
from shirg.evaluation.markdown import (
    code_block,
    count,
    escape,
    interval,
    megabytes,
    milliseconds,
    percent,
    points,
    table,
)
from shirg.evaluation.results import Cost, Difference, Examples, GateInfo, Results, Score
from shirg.evaluation.summary import CAUSES, EXAMPLES, RIGHT, text_height_groups
from shirg.evaluation.takeaway import RULE, takeaway, verdict
from shirg.evaluation.tasks import METRIC_TITLES
from shirg.evaluation.variants import (
    BASELINES,
    BUDGETED_MODES,
    PATH_DESCRIPTIONS,
    SELECTING_MODES,
    SHIPPED_PATHS,
    Variant,
)

FIGURES = "figures"
"""Folder of the pictures."""
CAPTIONS = {
    "accuracy_against_tokens.png": "Score against visual tokens, with 95% intervals",
    "kept_patches.png": "One page of the run: what was kept and what was dropped",
    "kv_cache.png": "Size of the prefix cache by vision path",
    "latency.png": "Time of an answer, stage by stage",
}
MEANING = (
    "A score is the mean over questions. Differences are paired: the same questions, asked through both variants. Undecided does "
    "not mean equal. With many comparisons, one in twenty of equal variants will look different by chance."
)
GROUPINGS = {"text_px": "height of the answer's text", "kind": "kind"}
MOST_LISTED = 50
"""Longest table of skipped questions, in rows."""
FILES = {
    "predictions.jsonl": "the run's settings in the first line, then every answer as it came",
    "detailed_results.json": "every answer with its scores, and what was skipped",
    "evaluation_results.json": "scores, intervals, paired differences, times; every number of the report",
    "evaluation_report.md": "the report; `shirg report` makes it again from the two files above",
    "evaluation_report.html": "the same as one file, for a browser",
    "figures/": "its pictures",
}


def evaluation_report(results: Results) -> str:
    """The report as Markdown."""
    sections = {
        "# SHIRG evaluation": "",
        "## Summary": opening(takeaway(results)),
        "## All variants": join(overview_table(results), figure("accuracy_against_tokens.png")),
        "## Setup": join(_what_was_run(results), MEANING),
        "## Scores by data set": score_table(results),
        "## Differences in points, with their 95% intervals": _difference_tables(results),
        "## Cost": join(cost_section(results), _computed_section(results)),
        "## Scores by height of text and kind of question": _breakdowns(results),
        "## Wrong answers by cause": _failure_tables(results),
        "## Largest losses and wins": _example_list(results.examples),
        "## One page": figure("kept_patches.png") if has_drawing(results) else "",
        "## Targets": item_table(targets(results)),
        "## Skipped": skipped_section(results),
        "## Method": _method(results),
    }
    return document(sections)


def document(sections: dict[str, str]) -> str:
    """A document from headings and their content; second-level headings without content are left out."""
    kept = [join(heading, text) for heading, text in sections.items() if text or heading.startswith("# ")]
    return join(*kept) + "\n"


def join(*parts: str) -> str:
    """Join paragraphs; empty ones are left out."""
    return "\n\n".join(filter(None, parts))


def has_drawing(results: Results) -> bool:
    """Whether the run has drawings of kept patches."""
    return any(variant.mode == "shirg" for variant in results.variants)


def item_table(items: Iterable[Item]) -> str:
    """A checklist as a table."""
    rows = [[escape(item.name), f"**{item.status}**", escape(item.number, limit=300)] for item in items]
    return table(["check", "status", "found"], rows, text_columns=3)


def opening(lines: Sequence[str]) -> str:
    """The sentences of `takeaway` as a paragraph, and the explanation of the verdicts as a second one."""
    return join(" ".join(line for line in lines if line != RULE), RULE if RULE in lines else "")


def figure(name: str, folder: str = FIGURES) -> str:
    """A picture of the evaluation; `folder` is relative to the report."""
    return f"![{CAPTIONS[name]}]({folder}/{name})"


# ------------------------------------------------------------------ scores and differences


def overview_table(results: Results) -> str:
    """A row per variant: tokens, score, difference to LaViDa's own paths and by the adapter, cost. Data sets with the same
    primary metric are pooled."""
    costs, tokens, adapters = results.costs(), results.visual_tokens(), bool(results.adapters)
    against = [name for name in SHIPPED_PATHS if name in tokens]
    header = ["variant", "visual tokens"]
    for group in results.together:
        of = f"{', '.join(group.datasets)}: " if len(results.together) > 1 else ""
        header += [f"{of}{METRIC_TITLES[group.metric]}", *(f"{of}against {name}" for name in against)]
        header += [f"{of}changed by the adapter"] if adapters else []
    header += ["selection ms", "whole answer ms", "KV cache MB"] if costs else []
    rows = []
    for variant in results.variants:
        row = [variant.name, str(tokens[variant.name])]
        for group in results.together:
            others = [group.compared(variant.name, other) if other != variant.path else None for other in against]
            others += [group.compared(variant.name, variant.path)] if adapters else []
            row += [_score_cell(group.score(variant.name)), *map(_difference_cell, others)]
        rows.append(row + (_cost_cells(costs.get(variant.name)) if costs else []))
    note = "Brackets hold 95% intervals; differences are in points."
    note += " Costs were timed without the adapter." if adapters and costs else ""
    return join(table(header, rows), note, _path_list(results))


def _path_list(results: Results) -> str:
    """A list of the vision paths and what the model is shown by each."""
    modes = results.config.modes
    lines = [f"- `{mode}`: {PATH_DESCRIPTIONS[mode]}" for mode in modes if mode not in BASELINES]
    others = ", ".join(f"`{mode}`" for mode in modes if mode in BASELINES)
    lines += [f"- {others}: the same large page, tokens chosen or merged by that selector"] if others else []
    names = ", ".join(f"`+{name}`" for name in results.adapters or ["adapter"])
    lines.append(f"- a number after the path: the token budget; {names}: the adapter is on")
    if "auto" in results.config.token_budgets:
        lines.append(
            "- `auto` after the path: the budget is found for each page from its print, the same for every selector"
        )
    return "\n".join(lines)


def score_table(results: Results) -> str:
    """Every variant's score by every metric on every data set and part of one, except the scores in the overview; ""
    if there are no others."""
    alone = [(group.datasets[0], group.metric) for group in results.together if len(group.datasets) == 1]
    columns = [column for entry in results.scores if (column := (entry.dataset, entry.metric)) not in alone]
    cells = {(entry.variant, entry.dataset, entry.metric): entry for entry in results.scores}
    parts = {(entry.variant, entry.dataset, entry.part): entry for entry in results.parts}
    columns, of_parts = list(dict.fromkeys(columns)), list(dict.fromkeys(key[1:] for key in parts))
    header = ["variant", *(f"{name}, {METRIC_TITLES[metric]}" for name, metric in columns)]
    header += [f"{name}, {part} part" for name, part in of_parts]
    rows = [
        [
            variant.name,
            *(_score_cell(cells[variant.name, *column]) for column in columns),
            *(_score_cell(parts[variant.name, *part]) for part in of_parts),
        ]
        for variant in results.variants
    ]
    return table(header, rows) if columns or of_parts else ""


def _difference_tables(results: Results) -> str:
    """Differences that are not in the overview: of the pooled data sets, then of each data set."""
    parts = []
    for group in results.together:
        others = [entry for entry in group.comparisons if not _in_overview(results, entry)]
        parts.append(_differences(results, ", ".join(group.datasets), group.metric, others))
        for dataset in group.datasets if len(group.datasets) > 1 else ():
            entries = [entry for entry in results.comparisons if entry.dataset == dataset]
            parts.append(_differences(results, f"{dataset} alone", group.metric, entries))
    return join(*parts)


def _in_overview(results: Results, entry: Difference) -> bool:
    return entry.against in (*SHIPPED_PATHS, results.variant(entry.variant).path)


def _differences(results: Results, title: str, metric: str, entries: Sequence[Difference]) -> str:
    """A heading and up to two tables; the second compares `shirg` with the baselines, which are many."""
    of_selectors: dict[str, dict[str, Difference]] = {}
    others: dict[str, dict[str, Difference]] = {}
    for entry in entries:
        ours, theirs = results.variant(entry.variant), results.variant(entry.against)
        if ours.mode == "shirg" and theirs.mode in BASELINES:
            of_selectors.setdefault(f"against {theirs.mode}", {})[ours.name] = entry
        else:
            itself = theirs == Variant(ours.mode, ours.budget) and ours.adapter
            others.setdefault(ours.name, {})["itself without adapter" if itself else f"against {theirs.name}"] = entry
    if not entries:
        return ""
    note = "`shirg` against other selectors, at the same budget:" if of_selectors else ""
    return join(
        f"### {title} ({METRIC_TITLES[metric]})",
        _cell_table("variant", others),
        note,
        _cell_table("selector", of_selectors),
    )


def _cell_table(title: str, rows: dict[str, dict[str, Difference]]) -> str:
    """A row for each key, a column for each of the inner keys; "" for none."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    cells = [[name, *(_difference_cell(row.get(column)) for column in columns)] for name, row in rows.items()]
    return table([title, *columns], cells) if rows else ""


def _difference_cell(entry: Difference | None) -> str:
    """A paired difference with its interval and verdict; a dash for none."""
    return "-" if entry is None else f"{points(entry.difference)} {interval(entry, points)}<br>{verdict(entry)}"


def _score_cell(entry: Score) -> str:
    return f"{percent(entry.score)} {interval(entry, lambda value: f'{100 * value:.1f}')}"


def _cost_cells(row: Cost | None) -> list[str]:
    if row is None:
        return ["-", "-", "-"]
    return [milliseconds(row.selection_ms), milliseconds(row.total_ms), megabytes(row.kv_bytes)]


# ------------------------------------------------------------------ cost


def cost_section(results: Results, figures: str = FIGURES) -> str:
    """Time by stage and peak memory, except what the overview has. `figures`: the pictures' folder, relative to the report."""
    if results.efficiency is None:
        return "The timing was left out of this run."
    measured = any(row.peak_memory_bytes is not None for row in results.efficiency.rows)
    header = ["vision path", "tokens", "with prompt", "tower ms", "selection, pooling and projector ms", "prefill ms"]
    header += ["ms per step", "without cache", "steps", *(["peak MB"] if measured else [])]
    rows = []
    for row in results.efficiency.rows:
        times = (row.tower_ms, row.embedding_ms, row.prefill_ms, row.step_ms, row.step_uncached_ms)
        cells = [row.variant.name, str(row.tokens), str(row.prefix_tokens), *map(milliseconds, times), str(row.steps)]
        peak = "-" if row.peak_memory_bytes is None else megabytes(row.peak_memory_bytes)
        rows.append(cells + ([peak] if measured else []))
    return join(table(header, rows), figure("latency.png", figures), figure("kv_cache.png", figures))


def _computed_section(results: Results) -> str:
    """Computed costs of the same paths at the size of the 8B model."""
    computed = results.efficiency.computed if results.efficiency else None
    if computed is None or not computed.rows:
        return ""
    scenario = computed.scenario
    stages = ("tower", "prefill", "step_cached", "step_uncached", "total_cached", "total_uncached")
    rows = [
        [row.variant, str(row.tokens), megabytes(row.kv_bytes), *(f"{getattr(row, one) / 1e12:.2f}" for one in stages)]
        for row in computed.rows
    ]
    header = ["vision path", "tokens", "KV cache MB", *(f"{stage.replace('_', ', ')} TFLOP" for stage in stages)]
    return join(
        f"### The same paths at the size of {computed.shape}",
        f"Computed from the model's shape, not measured: a square page, {scenario['prompt_tokens']} text tokens, "
        f"{scenario['answer_tokens']} answer tokens in {scenario['steps']} steps, {scenario['dtype']}. `shirg describe "
        f"{computed.shape}` lists what is counted. Other selectors cost the same, except for their own arithmetic.",
        table(header, rows),
    )


# ------------------------------------------------------------------ which text, which causes, which pages


def _breakdowns(results: Results) -> str:
    """Scores by height of text and by kind of question, with the gain of the large view and the loss by selection in each."""
    parts = []
    for by, title in GROUPINGS.items():
        for dataset in results.datasets:
            own = [entry for entry in results.breakdown if (entry.by, entry.dataset) == (by, dataset.name)]
            cells = {(entry.variant, entry.group): entry for entry in own}
            groups = list(dict.fromkeys(entry.group for entry in own))
            if by == "text_px":
                groups.sort(key=text_height_groups().index)
            if not groups:
                continue
            first = results.variants[0].name
            header = ["vision path", *(f"{escape(group)} ({cells[first, group].questions})" for group in groups)]
            rows = [
                [variant.name, *(percent(cells[variant.name, group].score) for group in groups)]
                for variant in results.variants
            ]
            pairs: dict[str, dict[str, Difference]] = {}
            for entry in results.group_comparisons:
                if (entry.by, entry.dataset) == (by, dataset.name):
                    pairs.setdefault(f"{entry.variant} against {entry.against}", {})[entry.group] = entry
            lines = [[pair, *(_difference_cell(of.get(group)) for group in groups)] for pair, of in pairs.items()]
            differences = table(["difference in points", *map(escape, groups)], lines) if pairs else ""
            parts.append(join(f"### {dataset.name} by {title}", table(header, rows), differences))
    if not parts:
        return "The data sets of this run have neither the height of their text nor the kind of their questions."
    return join(
        *parts,
        f"Heights are in pixels of the page once it is {results.model.resolution} pixels high; the number of questions "
        "is in brackets. Small groups have wide intervals.",
    )


def _failure_tables(results: Results) -> str:
    """Wrong answers of the selections by cause."""
    parts, causes = [], _causes(results)
    for dataset in results.datasets:
        entries = [entry for entry in results.failures if entry.dataset == dataset.name]
        counted: dict[str, list[int]] = {}
        for entry in entries:
            counted.setdefault(entry.variant, []).append(entry.questions)
        if entries:
            shown = [number for number, cause in enumerate(CAUSES) if cause in causes]
            rows = [
                [name, *(str(numbers[number]) for number in shown), str(sum(numbers))]
                for name, numbers in counted.items()
            ]
            asked = count(entries[0].asked, "question")
            header = ["selection", *(causes[cause][0] for cause in CAUSES if cause in causes), "all"]
            parts += [f"### {dataset.name} ({asked})", table(header, rows)]
    if not parts:
        return "No selection was run."
    explained = "; ".join(f"{name}: {meaning}" for name, meaning in causes.values())
    adapter = " Paths are taken with the adapter if the selection has it." if results.adapters else ""
    return join(
        *parts,
        f"An answer is counted as wrong below a score of {RIGHT:g}. Its cause is the first that applies: {explained}.{adapter}",
    )


def _causes(results: Results) -> dict[str, tuple[str, str]]:
    """Cause of `CAUSES` -> its column and condition, of those that this run can tell apart. Without `highres` a loss by the
    view and one by selecting cannot be told apart."""
    adapter = next(iter(results.adapters), None)  # as of the selections, see `summary.failures`
    run = {variant.mode for variant in results.variants if variant.adapter == adapter}
    small = " or ".join(f"`{mode}`" for mode in ("lowres", "hd") if mode in run)
    found = {cause: (cause, condition) for cause, condition in CAUSES.items()}
    if "highres" not in run:
        del found["lost by selecting"]
        found["lost by the view"] = f"read by {small}", f"{small} reads it"
    if not small:
        del found["lost by the view"]
    return found


def _example_list(shown: Examples | None) -> str:
    """The questions on which the selection loses and wins most against `lowres`, with page and answers."""
    if shown is None:
        return "Examples need both `shirg` and `lowres` in the run."
    parts = [
        f"Up to {EXAMPLES} questions each on which {shown.variant} scores furthest below, and above, {shown.against}; of equal "
        "differences, the questions asked first. Kept patches are bright."
    ]
    better = {"losses": shown.against, "wins": shown.variant}
    for kind in shown.kinds():
        parts.append(f"### {kind.capitalize()}: {better[kind]} does better")
        parts += [_example(shown, kind, number) for number in range(len(shown.kinds()[kind]))] or ["None."]
    return join(*parts)


def _example(shown: Examples, kind: str, number: int) -> str:
    example = shown.kinds()[kind][number]
    about = [example.kind, f"text of {example.text_px:.0f} px" if example.text_px > 0 else "", example.id]
    ours, theirs = (escape(text) or "(nothing)" for text in (example.prediction, example.theirs))
    lines = [
        f"- truth: {escape(' / '.join(dict.fromkeys(example.answers)))}",
        f"- {shown.variant}: {ours} ({percent(example.score)})",
        f"- {shown.against}: {theirs} ({percent(example.their_score)})",
        f"- {example.dataset}, {escape(', '.join(filter(None, about)))}",
    ]
    picture = f"![Kept patches of the page]({FIGURES}/{example_picture(kind, number)})"
    return join(f"#### {number + 1}. {escape(example.question)}", picture, "\n".join(lines))


def example_picture(kind: str, number: int) -> str:
    """File of an example's page, in the folder of figures."""
    return f"examples/{kind}-{number + 1}.jpg"


def skipped_section(results: Results) -> str:
    """What was not evaluated, and why."""
    skipped, unanswered = results.skipped, results.unanswered
    parts = ["Nothing was skipped."]
    if skipped:
        rows = [[one.dataset, escape(one.id, 80), str(one.questions), escape(one.reason)] for one in skipped]
        total = count(sum(one.questions for one in skipped), "question")
        parts = [f"{total} skipped.", *_listed(["data set", "record", "questions", "reason"], rows)]
    if unanswered:
        rows = [[one.dataset, escape(one.id, 80), one.variant, escape(one.reason)] for one in unanswered]
        parts.append(f"{count(len(rows), 'question')} could not be asked and count as empty answers.")
        parts += _listed(["data set", "record", "variant", "reason"], rows)
    return join(*parts)


def _listed(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    more = len(rows) - MOST_LISTED
    rest = [f"{more} more are listed in `evaluation_results.json`."] if more > 0 else []
    return [table(header, rows[:MOST_LISTED], text_columns=4), *rest]


# ------------------------------------------------------------------ what was run, and how


def _what_was_run(results: Results) -> str:
    model, environment = results.model, results.environment
    sets = "; ".join(
        f"{dataset.name} ({count(dataset.questions, 'question')} on {count(dataset.pages, 'page')})"
        for dataset in results.datasets
    )
    paths = count(len({variant.path for variant in results.variants}), "combination")
    adapters = "it" if len(results.adapters) == 1 else "each"
    under = f", without an adapter and with {adapters}" if results.adapters else ""
    name = "LaViDa-nano" if model.nano else f"A {model.family} model"
    used = results.gate and any(variant.mode in BUDGETED_MODES for variant in results.variants)
    gate = f" The gate's settings: {_gate_settings(results.gate)}." if results.gate and used else ""
    return (
        f"{name} with {model.parameters:,} parameters and {_adapters(results)}, asked about {sets}. "
        f"Each question was asked in {count(len(results.variants), 'variant')}: {paths} of vision path and budget{under}. "
        f"Device {escape(environment.device)}, {count(environment.threads, 'thread')}, {environment.dtype}; Python "
        f"{environment.python}, {_packages(results)}; seed {results.config.seed}; {results.seconds:.0f} seconds in all.{gate}"
    )


def _adapters(results: Results) -> str:
    if not results.adapters:
        return "no adapter"
    number = len(results.adapters)
    adapters = "an adapter" if number == 1 else f"{number} adapters ({', '.join(map(escape, results.adapters))})"
    return f"{adapters} of {'' if number == 1 else 'up to '}{results.model.adapter_parameters:,} parameters"


def _packages(results: Results) -> str:
    return ", ".join(f"{name} {version}" for name, version in results.environment.packages.items())


def _gate_settings(gate: GateInfo) -> str:
    """ "preset `ocr` (alpha 0.1, beta 1.0)", the brackets with what differs from the default."""
    changed = ", ".join(f"{name} {value}" for name, value in gate.changed.items())
    name = "no preset" if gate.preset is None else f"preset `{gate.preset}`"
    return f"{name} ({escape(changed, limit=500)})" if changed else name


def _method(results: Results) -> str:
    config, model = results.config, results.model
    suffix = (
        'Questions were asked with the suffix of the usual harness ("Answer the question using a single word or phrase.").'
        if config.prompt_suffix == "official"
        else f"Questions were asked without a suffix{', as this model was trained' if model.nano else ''}."
    )
    steps = (
        f"{config.step_ratio:g} denoising steps per position, the most certain predictions first"
        if config.threshold is None
        else f"every step commits the predictions of at least {config.threshold:g} probability, and the most certain one"
    )
    lines = [
        f"- Answers: {config.max_new_tokens} positions in blocks of {config.block_length}, {steps}, no sampling. {suffix}",
        f"- Intervals: {results.intervals.resamples:,} resamples of whole pages, since answers about one page depend on one "
        "another. Where no page differs, the interval is the difference that so many pages cannot exclude.",
    ]
    if any(variant.mode in SELECTING_MODES for variant in results.variants):
        by_question = f"the question takes part by relevance {model.relevance}, sign {model.relevance_sign:+d}."
        by_page = "by the page alone (relevance none)."
        lines.append(f"- Selection: {by_page if model.relevance == 'none' else by_question}")
    lines.append(dataset_lines(results))
    if results.efficiency:
        efficiency = results.efficiency
        width, height = efficiency.page_size
        peak = " Peak: the most bytes that the GPU's allocator held at once during one answer, weights included."
        lines.append(
            f"- Times: one page of the run ({width} x {height} pixels), batch of one, median of "
            f"{count(efficiency.repeats, 'run')} after {efficiency.warm_up} to warm up. Selection includes comparing the "
            "page with the question if the model does that, and the tower's last layer computed once more for selectors "
            "that need its attention or keys. Stages that depend on the prefix's length alone are timed once for each length. "
            "KV bytes are counted from this page's filled cache."
            + (peak if any(row.peak_memory_bytes is not None for row in efficiency.rows) else "")
        )
    lines.append("- Every prediction is in `detailed_results.json`, one entry for each question and variant.")
    return "\n".join(lines)


def dataset_lines(results: Results) -> str:
    """One line for each data set: note, metric, source and licence."""
    lines = []
    for dataset in results.datasets:
        note = f" ({escape(dataset.note, limit=300)})" if dataset.note else ""
        sources, licences = (", ".join(map(escape, names)) for names in (dataset.sources, dataset.licences))
        metric = METRIC_TITLES[dataset.metric]
        lines.append(f"- {dataset.name}{note}: {metric}; records from {sources}, licence: {licences}.")
    return "\n".join(lines)


# ------------------------------------------------------------------ the card


def run_card(results: Results) -> str:
    """Command, model, questions, settings and files of an evaluation, on one page."""
    config, intervals = results.config, results.intervals
    sections = {
        "# Card of an evaluation": code_block(config.command)
        if config.command
        else "Called from Python; the settings are below.",
        "## Model": _card_model(results),
        "## Questions": _card_questions(results),
        "## Settings": join(
            f"Seed {config.seed} decides the sample of questions, the rendered pages and the resampling: "
            f"{intervals.resamples} resamples of whole {intervals.unit}s, {100 * intervals.level:.0f}% intervals. "
            "Decoding draws nothing.",
            code_block(json.dumps(results.run, indent=2), "json"),
        ),
        "## Repeating it": "The same settings, model, questions and libraries give the same answers, byte for byte on one "
        "device; times differ. Every score is the mean of `scores` over the answers of `detailed_results.json`, every difference "
        "the mean of the differences question by question.",
        "## Files": "\n".join(f"- `{name}`: {what}" for name, what in FILES.items()),
    }
    return document(sections)


def _card_model(results: Results) -> str:
    model, environment = results.model, results.environment
    own = [f"`{model.adapter_weights}`"] * bool(model.adapter_weights)
    weights = ", ".join([*own, *(f"{name} `{one}`" for name, one in model.adapters.items())])
    return join(
        _what_was_run(results),
        f"Fingerprint of the weights `{model.weights}`{f', of the adapter {weights}' if weights else ''}; pages at "
        f"{model.resolution} pixels; shirg {environment.shirg} on {escape(environment.system)} {escape(environment.machine)}.",
    )


def _card_questions(results: Results) -> str:
    rows = [
        [
            escape(entry.name),
            ", ".join(map(escape, entry.sources)) or "-",
            ", ".join(map(escape, entry.licences)) or "-",
            entry.metric,
            *map(str, (entry.questions, entry.pages, entry.skipped)),
        ]
        for entry in results.datasets
    ]
    header = ["data set", "source", "licence", "metric", "questions", "pages", "skipped"]
    asked = f"Fingerprint of questions, answers and pages: `{results.run['questions']}`."
    return join(table(header, rows, text_columns=4), asked)
