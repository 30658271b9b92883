"""`shirg sweep`: ablation of the gate, one setting changed at a time.

Pages are rendered and held out from training; the boxes of all words and answers are known. Each page is encoded once; every
setting selects from the same features, without a question and with each question of the page.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shirg import identity, ranges
from shirg.bootstrap import UNDECIDED, Interval, compare, mean_interval
from shirg.data.pages import Page, Question
from shirg.data.render import KINDS, render_page
from shirg.evaluation.answering import generated_texts
from shirg.evaluation.config import SHIRGEvaluationConfig
from shirg.evaluation.environment import describe_environment, processor
from shirg.evaluation.journal import Journal
from shirg.evaluation.markdown import code_block, count, interval, percent, points, table
from shirg.evaluation.metrics import anls, exact_match
from shirg.evaluation.recall import PageWords, patches_of_box, word_recall
from shirg.evaluation.tasks import find_task, prompt
from shirg.files import atomic_path, write_json, write_text
from shirg.gate import GateConfig, ShirgGate
from shirg.lavida import Lavida, VisionFeatures
from shirg.locks import folder_lock

FORMAT = "shirg-sweep-3"
"""Version of the layout of `sweep.json` and `pages.jsonl`."""
PAGES_FILE, RESULTS_FILE, REPORT_FILE, FIGURE_FILE = "pages.jsonl", "sweep.json", "sweep.md", "sweep.png"
PAGE_SIDE = 672
"""Side of the rendered pages in pixels; their text is 6 to 28 px."""
PAGES_PER_SEED = 1_000_000
"""Pages per seed, so that two seeds share none."""

VARIED: tuple[dict[str, Any], ...] = (
    *({"edge": edge} for edge in ("print", "strokes", "density", "gradient", "variance")),
    *({"edge_spread": share} for share in (0, 0.4)),
    {"coverage": False},
    *({"max_cell": side} for side in (4, 16)),
    {"clusters_per_budget": 0.25},
    *({"relevance_spread": share} for share in (0, 0.5)),
    *({"beta": beta} for beta in (0, 0.3, 3)),
    *({"alpha": alpha} for alpha in (0.25, 0.5)),
    {"alpha": 1, "beta": 0},
    {"summary": False},
)
"""Fields of `GateConfig` in which a compared setting differs from the default gate."""

MEASURES = {
    "words": "words",
    "small_words": "words under 12 px",
    "answer_asked": "answer, asked",
    "answer": "answer, unasked",
    "tiles": "tiles",
    "exact_match": "exact match",
    "anls": "ANLS",
}
"""Measure -> its heading. All are shares from 0 to 1; the last two are there if answers are asked for."""
SHOWN = ("words", "answer_asked", "tiles", "exact_match")
"""Measures of the short table; the figure shows the first two."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
"""Of the budgets in the figure (Okabe and Ito)."""

LEGEND = """\
In brackets the paired difference to the first row in points with its 95% bootstrap interval, pages resampled; bold where the
interval excludes zero and at least six pages differ; "=" where no page differs; "-" where a setting cannot select: without a
question, `beta=0` leaves it nothing to rank by.

* words: words of which every patch is kept that their box covers by a third or more
* answer, asked and unasked: patches of the answer that are kept with and without the question
* tiles: 4 x 4 tiles of patches, blank ones too, of which at least one patch is kept
* exact match, ANLS: of the model's answers from the tokens kept with the question given; the summary token shows only there"""


def ablations() -> dict[str, GateConfig]:
    """Name -> gate: preset `runs` (the default), it with one setting changed, and the other presets."""
    settings = {"runs": GateConfig()}
    for fields in VARIED:
        settings[", ".join(f"{name}={value}" for name, value in fields.items())] = replace(GateConfig(), **fields)
    return settings | {name: GateConfig.preset(name) for name in ("ocr", "shirg-v2")}


@dataclass(frozen=True)
class PageView:
    """Features and annotations of one page."""

    features: VisionFeatures
    words: PageWords
    prompts: Sequence[Tensor]
    """[L] ids of each question's prompt."""
    needed: Sequence[Tensor]
    """[N] bool for each question, patches of its answer."""
    relevance: Sequence[Tensor]
    """[1, N] for each question; empty if the model computes no relevance."""

    @classmethod
    def of(cls, model: Lavida, page: Page, questions: Sequence[Question], prompt_suffix: str) -> PageView:
        """Run the tower, and compute the relevance of every question."""
        features = model.image_features(page.image, "shirg")
        texts = [prompt(find_task("documents"), question.question, prompt_suffix) for question in questions]
        prompts = [model.prompt_ids(text) for text in texts]
        found = [model.relevance(features, model.question_ids(ids)) for ids in prompts]
        words = PageWords.of([word.box for word in page.words], page.image.size, features.grid)
        patches = [patches_of_box(word.box, page.image.size, features.grid) for word in page.words]
        needed = [torch.stack([patches[place] for place in question.answer_words]).any(dim=0) for question in questions]
        return cls(features, words, prompts, needed, [one for one in found if one is not None])


def measure(view: PageView, gate: ShirgGate, budget: int) -> tuple[dict[str, Any], list[Tensor]]:
    """What one setting keeps of one page.

    Returns:
        Measure -> its cases, one per word (`words`, `small_words`), question (`answer`, `answer_asked`) or page (`tiles`), none
        if the setting cannot select; and for each question the selected tokens [K + 1, D].
    """
    features = view.features

    def select(relevance: Tensor | None = None) -> tuple[Tensor, Tensor]:
        tokens = features.tokens.flatten(0, 1)[None]
        kept = gate(tokens, budget, features.grid, pixels=features.pixels, relevance=relevance)
        assert kept.indices is not None, "settings keep tokens and do not merge them"
        mask = torch.zeros(features.num_tokens, dtype=torch.bool)
        return mask.index_fill_(0, kept.indices[0].cpu(), True), kept.tokens[0]

    def answers_kept(masks: Sequence[Tensor]) -> list[float]:
        return [float(mask[needed].double().mean()) for mask, needed in zip(masks, view.needed, strict=bool(masks))]

    alone = [] if gate.config.alpha == gate.config.beta == 0 else [select()]
    asked = [select(relevance) for relevance in view.relevance]
    row: dict[str, Any] = {"words": [], "small_words": [], "tiles": []}
    for mask, _ in alone:
        recall = word_recall(mask, view.words)
        found = recall.found.astype(int)
        row = {"words": found.tolist(), "small_words": found[recall.small].tolist(), "tiles": [1 - recall.empty_tiles]}
    unasked = alone * len(view.needed)
    row["answer"], row["answer_asked"] = (answers_kept([mask for mask, _ in chosen]) for chosen in (unasked, asked))
    return row, [tokens for _, tokens in asked or unasked]


def measure_page(model: Lavida, run: dict[str, Any], number: int) -> dict[str, Any]:
    """One page, as a line of `pages.jsonl`. The page and its questions depend on seed and number alone.

    Args:
        run: the run's settings, as `run_sweep` stores them.

    Returns:
        `page`, `words` and `questions` (how many), and `rows`, budget -> setting -> its row, as of `measure`; with answers also
        their texts, `said`, and scores.
    """
    seed = PAGES_PER_SEED * run["seed"] + number
    page = render_page(KINDS[number % len(KINDS)], seed, size=PAGE_SIDE, split="heldout")
    most = min(run["questions"], len(page.questions))
    questions = random.Random(f"{run['seed']}:{number}").sample(page.questions, most)
    view = PageView.of(model, page, questions, run["prompt_suffix"])
    decoding = SHIRGEvaluationConfig().decoding(model)
    rows: dict[str, dict[str, Any]] = {}
    for budget in run["token_budgets"]:
        rows[str(budget)] = {}
        for name, fields in run["settings"].items():
            row, kept = measure(view, ShirgGate(GateConfig(**fields)), budget)
            if run["answers"]:
                embeds = [model.mm_projector(tokens) for tokens in kept]
                row["said"] = generated_texts(model, view.prompts, embeds, decoding) if embeds else []
                pairs = [(text, question.answers) for text, question in zip(row["said"], questions, strict=False)]
                row |= {"exact_match": [exact_match(*pair) for pair in pairs], "anls": [anls(*pair) for pair in pairs]}
            rows[str(budget)][name] = row
    return {"page": number, "words": len(view.words.heights), "questions": len(questions), "rows": rows}


@torch.no_grad()
def run_sweep(
    model: Lavida,
    output_dir: Path | str,
    *,
    pages: int = 60,
    questions: int = 4,
    token_budgets: Sequence[int] = (256, 512),
    answers: bool = False,
    seed: int = 0,
    settings: Mapping[str, GateConfig] | None = None,
    resume: bool = False,
    command: str | None = None,
) -> dict[str, Any]:
    """Measure every setting on every page, and write `sweep.json`, `sweep.md` and `sweep.png`.

    Args:
        output_dir: also gets `pages.jsonl`, a line as soon as its page is measured.
        pages: held-out pages, all kinds in turn.
        questions: most questions per page, drawn by the seed.
        token_budgets: kept tokens per page, the summary token not counted.
        answers: let the model answer every question from every selection, and score the answers.
        seed: decides pages, questions and the resampling of the intervals.
        settings: what to compare with the first of them; None takes `ablations()`. Selectors must keep tokens, not merge them,
            and read neither attention nor keys.
        resume: keep the pages that `output_dir` has of a run with the same settings, model and seed.
        command: how the sweep was called, for the record.

    Returns:
        The content of `sweep.json`.

    Raises:
        UserError: for no page, question or budget, or a budget above the page's tokens; if `output_dir` cannot be written or has
            pages of another run.
    """
    from rich.console import Console
    from rich.progress import track

    ranges.COUNT.check("pages", pages)
    ranges.COUNT.check("questions", questions)
    shared = SHIRGEvaluationConfig(token_budgets=token_budgets, modes=("shirg",)).resolved(model)
    run = {
        "format": FORMAT,
        "seed": seed,
        "questions": questions,
        "answers": answers,
        "token_budgets": shared.token_budgets,
        "prompt_suffix": shared.prompt_suffix,
        **{name: value for name, value in identity.of_base(model).items() if name != "gate"},
        **identity.of_adapter(model),
        "settings": {name: asdict(gate) for name, gate in (settings or ablations()).items()},
    }
    folder = Path(output_dir)
    with folder_lock(folder):
        journal = Journal(folder / PAGES_FILE, run, lambda entry: int(entry["page"]), resume=resume, noun="page")
        left = [number for number in range(pages) if number not in journal.entries]
        for number in track(left, "measuring pages", console=Console(stderr=True), transient=True):
            journal.add(measure_page(model, run, number))
        measured = [journal.entries[number] for number in range(pages)]
        record = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": command,
            "environment": {"processor": processor(), **describe_environment(model)},
            "run": run,
            "counts": {"pages": pages} | {key: sum(page[key] for page in measured) for key in ("questions", "words")},
            "results": summarise(measured, seed),
        }
        write_json(folder / RESULTS_FILE, record)
        write_text(folder / REPORT_FILE, sweep_report(record))
        draw_differences(folder / FIGURE_FILE, record)
    return record


def summarise(pages: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """One entry for each budget and setting: `setting`, `budget` and, for each measure, None or its `mean`, `low`, `high` and the
    paired `difference` to the first setting: `mean`, `low`, `high`, `differing_pages`, `verdict`.

    Means are over cases: a page with many words weighs more. Intervals resample pages.
    """
    entries = []
    for budget, settings in pages[0]["rows"].items():
        base = next(iter(settings))
        for name, measured in settings.items():
            entry: dict[str, Any] = {"setting": name, "budget": int(budget)}
            for key in (key for key in MEASURES if key in measured):
                cases = [
                    (*pair, str(page["page"]))
                    for page in pages
                    for pair in zip(*(page["rows"][budget][one][key] for one in (name, base)), strict=False)
                ]  # none where one of the two cannot select
                entry[key] = _measured(*zip(*cases, strict=True), seed=seed) if cases else None
            entries.append(entry)
    return entries


def _measured(ours: Sequence[float], theirs: Sequence[float], pages: Sequence[str], *, seed: int) -> dict[str, Any]:
    level, against = mean_interval(ours, pages, seed=seed), compare(ours, theirs, pages, seed=seed)
    difference = {"differing_pages": against.differing_pages, "verdict": against.verdict}
    return {**_rounded(level), "difference": _rounded(against.interval) | difference}


def _rounded(found: Interval) -> dict[str, Any]:
    """Mean and interval, rounded to a thousandth of a point."""
    ends = {"mean": found.mean, "low": found.low, "high": found.high}
    return {name: None if end is None else round(end, 5) + 0.0 for name, end in ends.items()}


def sweep_report(record: dict[str, Any]) -> str:
    """`sweep.md`, from what `sweep.json` holds."""
    run, environment = record["run"], record["environment"]
    counted = ", ".join(count(number, noun.removesuffix("s")) for noun, number in record["counts"].items())
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    parts = [
        "# What each part of the gate is worth",
        f"{counted}; seed {run['seed']}, {run['resolution']} px, relevance {run['relevance']}.",
        f"![Differences to the first row, with their intervals]({FIGURE_FILE})",
        LEGEND,
        *(f"## K = {budget}\n\n{sweep_table(record, budget)}" for budget in run["token_budgets"]),
        *([code_block(record["command"])] if record["command"] else []),
        f"{record['date']}, {environment['processor']}, {environment['device']}, {environment['dtype']}; {versions}.",
    ]
    return "\n\n".join(parts) + "\n"


def sweep_table(record: dict[str, Any], budget: int, measures: Sequence[str] = tuple(MEASURES)) -> str:
    """The table of one budget, its first heading "K = 256", with those of `measures` that were taken."""
    entries = [entry for entry in record["results"] if entry["budget"] == budget]
    taken = [key for key in measures if entries[0].get(key)]
    rows = ([f"`{entry['setting']}`", *(_cell(entry[key]) for key in taken)] for entry in entries)
    return table([f"K = {budget}", *(MEASURES[key] for key in taken)], rows)


def _cell(value: dict[str, Any] | None) -> str:
    """ "41.2% (**-3.0 [-4.1, -1.9]**)"."""
    if value is None:
        return "-"
    difference = value["difference"]
    if not difference["differing_pages"]:
        return f"{percent(value['mean'])} (=)"
    bold = "" if difference["verdict"] == UNDECIDED else "**"
    return f"{percent(value['mean'])} ({bold}{points(difference['mean'])} {interval(difference, points)}{bold})"


def draw_differences(path: Path, record: dict[str, Any]) -> None:
    """Paired differences to the first setting with their intervals: two measures side by side, a colour for each budget."""
    from matplotlib.figure import Figure

    results, (base, *names) = record["results"], record["run"]["settings"]
    panels = [key for key in SHOWN[:2] if results[0][key]]
    figure = Figure(figsize=(2.6 + 3.6 * len(panels), 1.8 + 0.3 * len(names)), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        for number, budget in enumerate(record["run"]["token_budgets"]):
            found = {entry["setting"]: entry[key] for entry in results if entry["budget"] == budget}
            for place, name in enumerate(names):
                if found[name]:
                    one, height = found[name]["difference"], place + 0.15 * number
                    axes.plot(100 * one["mean"], height, "o", markersize=4, color=COLOURS[number % len(COLOURS)])
                    if one["differing_pages"] and one["low"] is not None:
                        axes.hlines(height, 100 * one["low"], 100 * one["high"], color=COLOURS[number % len(COLOURS)])
            axes.plot([], [], "o-", color=COLOURS[number % len(COLOURS)], label=f"K = {budget}")
        axes.axvline(0, color="0.4", linewidth=1)
        axes.set_yticks(range(len(names)), names)
        axes.set(title=MEASURES[key], xlabel=f"difference to {base}, points", ylim=(len(names) - 0.5, -0.5))
        axes.grid(True, color="0.92")
    figure.axes[0].legend(loc="lower left")
    with atomic_path(path) as fresh:
        figure.savefig(fresh, format="png", dpi=110, metadata={"Software": None})
