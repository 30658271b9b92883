"""Parts of the report that look at single answers: where they are right, why they are wrong, and twenty of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shirg.evaluation.failures import CAUSES, EXAMPLES, RIGHT
from shirg.evaluation.markdown import count, escape, interval, percent, points, table
from shirg.evaluation.summary import text_height_groups
from shirg.evaluation.takeaway import verdict

GROUPINGS = {"text_px": "height of the answer's text", "kind": "kind"}


def gate_settings(gate: dict[str, Any]) -> str:
    """ "preset `ocr` (alpha 0.1, beta 1.0)", the brackets with what differs from the default."""
    changed = ", ".join(f"{name} {value}" for name, value in gate["changed"].items())
    name = "no preset" if gate["preset"] is None else f"preset `{gate['preset']}`"
    return f"{name} ({escape(changed, limit=500)})" if changed else name


def breakdowns(results: dict[str, Any]) -> str:
    """Scores by height of text and by kind of question, and what the large view gains and selecting loses in each."""
    parts = []
    for by, title in GROUPINGS.items():
        for dataset in results["datasets"]:
            cells = {
                (entry["variant"], entry["group"]): entry
                for entry in results["breakdown"]
                if entry["by"] == by and entry["dataset"] == dataset["name"]
            }
            groups = list(dict.fromkeys(group for _, group in cells))
            if by == "text_px":
                groups.sort(key=text_height_groups().index)
            if groups:
                parts.append(f"### {dataset['name']} by {title}")
                parts.append(_group_table(results, cells, groups))
                parts.append(_difference_table(results, dataset["name"], by, groups))
    if not parts:
        return "The data sets of this run tell neither the height of their text nor the kind of their questions."
    parts.append(
        f"Heights are in pixels of the page once it is {results['model']['resolution']} pixels high; the number of questions "
        "is in brackets. Small groups have wide intervals."
    )
    return "\n\n".join(filter(None, parts))


def _group_table(results: dict[str, Any], cells: dict[tuple[str, str], dict[str, Any]], groups: Sequence[str]) -> str:
    first = results["variants"][0]["variant"]
    header = ["vision path", *(f"{escape(group)} ({cells[first, group]['questions']})" for group in groups)]
    rows = [
        [variant["variant"], *(percent(cells[variant["variant"], group]["score"]) for group in groups)]
        for variant in results["variants"]
    ]
    return table(header, rows)


def _difference_table(results: dict[str, Any], dataset: str, by: str, groups: Sequence[str]) -> str:
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in results["group_comparisons"]:
        if (entry["dataset"], entry["by"]) == (dataset, by):
            cells.setdefault(f"{entry['variant']} against {entry['against']}", {})[entry["group"]] = entry
    if not cells:
        return ""
    rows = [[pair, *(difference_cell(of.get(group)) for group in groups)] for pair, of in cells.items()]
    return table(["difference in points", *map(escape, groups)], rows)


def difference_cell(entry: dict[str, Any] | None) -> str:
    """A paired difference with its interval and verdict; a dash for none."""
    if entry is None:
        return "-"
    return f"{points(entry['difference'])} {interval(entry, points)}<br>{verdict(entry)}"


def failure_tables(results: dict[str, Any]) -> str:
    """Wrong answers of the selections by cause."""
    parts = []
    for dataset in results["datasets"]:
        entries = [entry for entry in results["failures"] if entry["dataset"] == dataset["name"]]
        variants = list(dict.fromkeys(entry["variant"] for entry in entries))
        counted = {(entry["variant"], entry["cause"]): entry["questions"] for entry in entries}
        if not entries:
            continue
        rows = [
            [name, *(str(counted[name, cause]) for cause in CAUSES), str(sum(counted[name, cause] for cause in CAUSES))]
            for name in variants
        ]
        asked = count(entries[0]["asked"], "question")
        parts += [f"### {dataset['name']} ({asked})", table(["selection", *CAUSES, "all"], rows)]
    if not parts:
        return "No selection was run."
    causes = "; ".join(f"{cause}: {what}" for cause, what in CAUSES.items())
    parts.append(
        f"An answer is counted as wrong below a score of {RIGHT:g}. Each has the first cause that holds: {causes}. A path that "
        "was not run reads nothing; paths are taken with the adapter where the selection is."
    )
    return "\n\n".join(parts)


def example_list(results: dict[str, Any]) -> str:
    """The questions on which the selection loses and wins most against `lowres`, with page and answers."""
    shown = results["examples"]
    if shown is None:
        return "They are shown where `shirg` was run beside `lowres`."
    variant, against = shown["variant"], shown["against"]
    parts = [
        f"Up to {EXAMPLES} questions each on which {variant} scores furthest below, and above, {against}; of as large "
        "differences the first asked. Kept patches are bright."
    ]
    for kind, title in (("losses", f"{against} does better"), ("wins", f"{variant} does better")):
        parts.append(f"### {kind.capitalize()}: {title}")
        parts += [_example(shown, kind, number) for number in range(len(shown[kind]))] or ["None."]
    return "\n\n".join(parts)


def _example(shown: dict[str, Any], kind: str, number: int) -> str:
    example = shown[kind][number]
    about = filter(None, (example["kind"], f"text of {example['text_px']:.0f} px" if example["text_px"] > 0 else ""))
    lines = [
        f"#### {number + 1}. {escape(example['question'])}",
        "",
        f"![Kept patches of the page](figures/{example_picture(kind, number)})",
        "",
        f"- truth: {escape(' / '.join(dict.fromkeys(example['answers'])))}",
        f"- {shown['variant']}: {_said(example['prediction'])} ({percent(example['score'])})",
        f"- {shown['against']}: {_said(example['theirs'])} ({percent(example['their_score'])})",
        f"- {example['dataset']}, {escape(', '.join([*about, example['id']]))}",
    ]
    return "\n".join(lines)


def _said(text: str) -> str:
    return escape(text) or "(nothing)"


def example_picture(kind: str, number: int) -> str:
    """File of an example's page, below the folder of figures."""
    return f"examples/{kind}-{number + 1}.jpg"
