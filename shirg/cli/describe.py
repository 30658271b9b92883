"""`shirg describe MODEL`: costs of a model, computed from its config.json."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from tyro.conf import Positional, arg

from shirg import ranges
from shirg.cli.flags import CommonFlags
from shirg.cli.runner import run_command
from shirg.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from shirg.lavida import LavidaConfig
    from shirg.lavida.costs import Scenario

Rows = list[list[str] | None]
"""Cells of a table; None is a separator."""

TARGET = 0.3
"""Least share of the cache that SHIRG shall save; the target is 30 to 50%."""

TRAINED_SHARE = 0.01
"""Target for the largest share of parameters that are trained."""

MAX_WIDTH = 120
"""Width of the widest table, in columns."""

SOURCE = {
    True: "computed from the published sizes of this model; for a checkpoint from its own config.json",
    False: "computed from its config.json",
}

BATCHES = (1, 4, 8)
"""Records per process in the table of training memory."""

TRAINING_NOTES = """\
Computed peak of a training step, GB (10^9 bytes) of one process: weights, adapter with AdamW's moments, what the backward \
pass needs, logits of the answers; head and working never exist at the same time, so the larger one counts. Keep 3 GB more free \
for the feature cache (feature_cache_mb, 1 GiB) and the allocator. Fewer records and more accumulation steps give the same \
optimizer step."""

STAGES = ("tower", "gate", "projector", "prefill", "step_cached", "step_uncached", "total_cached", "total_uncached")
NOTES = """\
Powers of ten: K, M, B, KB, MB, GB, GFLOP, TFLOP; KiB is 1024 bytes. A product of \\[m, k] and \\[k, n] is 2mkn FLOPs, \
attention 4 x queries x keys x width. Counted: patch convolution, linear layers, attention; for the gate what its \
relevance term needs (llm: every encoded token through the base projector; nothing for early, which does not use the question) \
and, roughly, its own arithmetic. Not counted: embeddings, biases, norms, activations, softmax, pooling, the products of LoRA. \
Nothing here is measured, and FLOPs are not time: a step with few rows is limited by memory bandwidth."""


@dataclasses.dataclass(kw_only=True)
class Flags(CommonFlags):
    """Compute a model's parameters, KV cache and FLOPs for every vision path, from its config.json alone.

    No weights are read and nothing is run, so an 8B model can be described on a laptop.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """`llada-8b` or `dream-7b` (shapes of the published models), `nano`, a folder in LaViDa's official layout, or an id on
    the Hugging Face hub. Only config.json is read, and a folder's tokenizer for special ids that it does not name."""

    revision: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the main branch)")] = None
    """Branch, tag or commit of a model on the hub."""

    image_size: Annotated[str, arg(metavar="WxH")] = "1000x1000"
    """Width and height of the image in pixels. The tiles of `hd` and `multiview` follow its aspect ratio, the other paths
    resize it to a square."""

    image_resolution: Annotated[
        int | None, ranges.RESOLUTION, arg(metavar="INT", help_behavior_hint="(default: the model's own)")
    ] = None
    """Pixels per side of SHIRG's view, a multiple of 14."""

    token_budgets: Annotated[tuple[int, ...], ranges.BUDGET] = (512, 768, 1024)
    """Visual tokens kept by `shirg`, `early` and `multiview`, one or more numbers; one more token is the mean of the others."""

    prompt_tokens: Annotated[int, ranges.PROMPT_TOKENS] = 64
    """Text tokens of the prompt: system prompt, question, special tokens. An assumption; your tokenizer has the number."""

    answer_tokens: Annotated[int, ranges.TOKENS] = 32
    """Length of the answer, denoised as one block."""

    steps: Annotated[int, ranges.TOKENS] = 16
    """Denoising steps, at most one per answer token."""

    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        arg(help_behavior_hint="(default: float32 for the nano, bfloat16 for other models)"),
    ] = None
    """Precision of weights and cache."""

    train: bool = False
    """Also print the peak memory of a training step, for every budget and several batch sizes."""

    objective: Literal["packed", "prefix", "bidirectional"] = "packed"
    """With --train: layout of the answer's two noisy copies."""

    json: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Also write every number, unrounded, to this file."""


def command(flags: Flags) -> None:
    """Compute and print the numbers, and write them with --json."""
    from rich.console import Console

    from shirg.files import write_json
    from shirg.lavida.costs import Scenario, describe, vision_shape
    from shirg.lavida.loading import usual_dtype
    from shirg.lavida.shapes import PUBLISHED
    from shirg.training.budgets import check_budgets

    budgets = check_budgets(flags.token_budgets)
    config = load_config(flags.model, flags.revision)
    if flags.image_resolution is not None:
        run = dataclasses.replace(config.vision, resolution=flags.image_resolution)
        config = dataclasses.replace(config, vision=run)
    large = vision_shape(config, "highres")
    if max(budgets) > large.tokens:
        raise UserError(
            f"--token-budgets: got {max(budgets)}, must be at most {large.tokens}, the grid at {large.side} pixels; a larger "
            "--image-resolution has more"
        )
    if flags.steps > flags.answer_tokens:
        raise UserError(
            f"--steps: got {flags.steps} for {flags.answer_tokens} answer tokens; every step fills in at least one, so at most "
            f"{flags.answer_tokens}"
        )
    scenario = Scenario(
        image_size=parse_size(flags.image_size),
        prompt_tokens=flags.prompt_tokens,
        answer_tokens=flags.answer_tokens,
        steps=flags.steps,
        dtype=flags.dtype or usual_dtype(config.raw),
    )
    known = {"model": flags.model, "published": flags.model in PUBLISHED}
    found = {**known, **describe(config, budgets, scenario)}
    if flags.train:
        found["training_memory"] = training_rows(config, budgets, scenario, flags.objective)
    if flags.json is not None:
        write_json(flags.json, found)
    console = Console(highlight=False)
    show(found, console, Console(highlight=False, width=max(console.width, MAX_WIDTH)))


def training_rows(
    config: LavidaConfig, budgets: Sequence[int], scenario: Scenario, objective: str
) -> list[dict[str, Any]]:
    """The computed peak of a training step for every component and `BATCHES`, plain and checkpointed (`shirg.training.memory`);
    of a large model on a GPU, of a small one on a CPU."""
    from shirg.training.budgets import components_of
    from shirg.training.effort import needs_gpu
    from shirg.training.memory import Step, training_memory

    rows = []
    for component, batch in itertools.product(components_of(budgets), BATCHES):
        row: dict[str, Any] = {"ratio": component.name, "batch_size": batch}
        for name in ("plain", "checkpointed"):
            step = Step(
                *(batch, scenario.prompt_tokens, scenario.answer_tokens, objective),
                checkpointing=name == "checkpointed",
                dtype=scenario.dtype,
                dense_mask=not needs_gpu(config),
            )
            memory = training_memory(config, component, step)
            row[name] = {**dataclasses.asdict(memory), "total": memory.total}
        rows.append(row)
    return rows


def parse_size(text: str) -> tuple[int, int]:
    """ "1000x800" as (width, height).

    Raises:
        UserError: for anything else, no pixels, or too many.
    """
    from shirg.images import MAX_PIXELS

    parts = re.fullmatch(r"(\d+)x(\d+)", text)
    if parts is None or not 0 < int(parts[1]) * int(parts[2]) <= MAX_PIXELS:
        raise UserError(
            f"--image-size: got {text!r}, must be width x height, such as 1000x1000, of at most {MAX_PIXELS:,} pixels"
        )
    return int(parts[1]), int(parts[2])


def load_config(model: str, revision: str | None = None) -> LavidaConfig:
    """The configuration that `model` names; of a hub id only `config.json` is downloaded.

    Raises:
        UserError: if there is no such model or revision; the message lists known names.
    """
    from shirg.lavida import checkpoint
    from shirg.lavida.config import LavidaConfig, read_config
    from shirg.lavida.shapes import PUBLISHED, published_config

    if model in PUBLISHED:
        if revision is not None:
            raise UserError(f"--revision: got {revision}, but {model} is a built-in shape and no model on the hub")
        return published_config(model)
    try:
        folder = checkpoint.config_file(model, revision).parent
    except UserError as error:
        near = difflib.get_close_matches(model.lower(), (*PUBLISHED, "nano"), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"built-in shapes: {', '.join(PUBLISHED)}"
        raise UserError(f"{error}; {hint}") from error
    return LavidaConfig.from_dict(read_config(folder), checkpoint.load_tokenizer(folder))


# -------------------- printing


def show(found: dict[str, Any], text: Console, tables: Console) -> None:
    """Print what `command` found: sentences on `text`, tables on `tables`, which is wide enough for them."""
    from rich.markup import escape

    scenario = found["scenario"]
    width, height = scenario["image_size"]
    text.print(
        f"[bold]{escape(found['model'])}[/]: {scaled(found['parameters']['total'])} parameters, "
        f"{size(found['weight_bytes']['total'])} of weights in {scenario['dtype']}, {found['family']} language model"
    )
    text.print(f"{SOURCE[found['published']]}\n", style="dim")
    tables.print(parameter_table(found))
    text.print(
        f"\nOne answer: an image of {width}x{height} pixels, {scenario['prompt_tokens']} prompt tokens (an assumption: "
        f"--prompt-tokens), {scenario['answer_tokens']} answer tokens in {scenario['steps']} steps. "
        f"The cache takes {found['kv_bytes_per_token'] / 1024:,.4g} KiB per token of the prefix.\n"
    )
    tables.print(token_table(found["paths"]))
    tables.print()
    tables.print(work_table(found["paths"]))
    text.print(
        f"total = tower + gate + projector + prefill + {scenario['steps']} steps; without the cache there is no prefill, "
        "and every step encodes the prefix again\n",
        style="dim",
    )
    tables.print(saving_table(found["savings"], scenario["prompt_tokens"]))
    flat = any(entry["against"] == "hd flat" for entry in found["savings"])
    more = "; hd flat: the same tiles without un-padding and newlines" if flat else ""
    text.print(
        f"of the visual tokens (of the whole prefix); negative if the selection has more tokens{more}", style="dim"
    )
    text.print("\n[bold]Targets[/]: 30 to 50% less KV cache, under 1% of the parameters trained")
    for line in verdicts(found):
        text.print(f"  {line}")
    text.print(f"\n{NOTES}", style="dim")
    if "training_memory" in found:
        text.print()
        tables.print(training_table(found["training_memory"]))
        text.print(TRAINING_NOTES, style="dim")


def parameter_table(found: dict[str, Any]) -> Table:
    """Parameters and bytes by part, the adapter last."""
    rows: Rows = [
        [part, scaled(count), f"{count:,}", size(found["weight_bytes"][part]), "-"]
        for part, count in found["parameters"].items()
    ]
    adapter, count = found["adapter"], found["adapter"]["parameters"]
    share = f"{adapter['share']:.{2 if adapter['share'] > 1e-3 else 4}%} of all"
    last = [f"LoRA, rank {adapter['rank']}", scaled(count), f"{count:,}", size(adapter["bytes"]), share]
    return _table(["part", "parameters", "exactly", "bytes", "trained"], [*rows[:-1], None, rows[-1], last])


def token_table(paths: list[dict[str, Any]]) -> Table:
    """Views, visual tokens and KV cache of each path."""
    rows = [
        [row["path"], _encoded(row), row["layout"]]
        + [f"{row['tokens']:,}", f"{row['prefix_tokens']:,}", quantity(row["kv_bytes"], "MB")]
        for row in paths
    ]
    titles = ["vision path", "encoded", "kept", "visual\ntokens", "prefix\ntokens", "KV cache\nMB"]
    return _table(titles, _sectioned(rows, [row["mode"] for row in paths]), left=3)


def _encoded(row: dict[str, Any]) -> str:
    """What the tower encodes on a path: "5 x 27x27", or "769 of 48x48" if it is given the kept patches alone."""
    from shirg.lavida.vision import PATHS

    rows, columns = row["grid"]
    return (
        f"{row['tokens']:,} of {rows}x{columns}" if PATHS[row["mode"]].early else f"{row['views']} x {rows}x{columns}"
    )


def work_table(paths: list[dict[str, Any]]) -> Table:
    """FLOPs by stage, in one unit for the whole table."""
    unit = "TFLOP" if max(row["total_cached"] for row in paths) >= 1e12 else "GFLOP"
    titles = ["tower", "gate", "pro-\njector", "pre-\nfill", "step", "step,\nno\ncache", "total", "total,\nno\ncache"]
    rows = []
    for path in paths:
        stages = {**path, "gate": path["gate_projection"] + path["gate_arithmetic"]}
        saved = 1 - path["total_cached"] / path["total_uncached"]
        rows.append([path["path"], *(quantity(stages[stage], unit) for stage in STAGES), f"{saved:.0%}"])
    return _table([unit, *titles, "cache\nsaves"], _sectioned(rows, [row["mode"] for row in paths]))


def saving_table(entries: list[dict[str, Any]], prompt: int) -> Table:
    """Share of the cache that a budget saves: the image's part, and the whole prefix; and which budget saves 30%."""
    from shirg.lavida.costs import largest_budget

    against = {entry["against"]: entry["reference_tokens"] for entry in entries}
    rows: Rows = [
        [f"shirg-{budget}", *(f"{e['visual']:.1%} ({e['prefix']:.1%})" for e in entries if e["budget"] == budget)]
        for budget in dict.fromkeys(entry["budget"] for entry in entries)
    ]
    limits = [(largest_budget(count, 30), largest_budget(count, 30, prompt)) for count in against.values()]
    last = ["30% needs", *(f"K <= {visual:,} ({prefix:,})" for visual, prefix in limits)]
    titles = ["KV cache saved", *(f"against {name}\n{count:,} tokens" for name, count in against.items())]
    return _table(titles, [*rows, None, last])


def training_table(found: list[dict[str, Any]]) -> Table:
    """Peak memory of a training step: a row per component and batch size, with the parts of the plain one."""
    parts = ["weights", "blocks", "head", "working"]
    rows: Rows = []
    for row in found:
        name = f"shirg-{row['ratio']}" if isinstance(row["ratio"], int) else row["ratio"]
        if rows and row["batch_size"] == BATCHES[0]:
            rows.append(None)
        shown = [*(row["plain"][part] for part in (*parts, "total")), row["checkpointed"]["total"]]
        rows.append([name, str(row["batch_size"]), *(quantity(count, "GB") for count in shown)])
    return _table(["training", "batch", *parts, "peak", "peak with\ncheckpointing"], rows)


def verdicts(found: dict[str, Any]) -> list[str]:
    """Whether SHIRG's targets for sizes are met by this model, one line each."""
    lines = []
    for name in dict.fromkeys(entry["against"] for entry in found["savings"]):
        saved = {str(entry["budget"]): entry["visual"] for entry in found["savings"] if entry["against"] == name}
        met = ", ".join(budget for budget, share in saved.items() if share >= TARGET)
        missed = ", ".join(budget for budget, share in saved.items() if share < TARGET)
        verdict = [f"[green]met[/] at K = {met}"] * bool(met) + [f"[red]not met[/] at K = {missed}"] * bool(missed)
        lines.append(f"30% less for the visual tokens than {name}: {', '.join(verdict)}")
    trained = "[green]met[/]" if found["adapter"]["share"] < TRAINED_SHARE else "[red]not met[/]"
    return [*lines, f"under 1% trained: {trained}, {found['adapter']['parameters']:,} in the adapter"]


def quantity(value: float, unit: str) -> str:
    """A number in MB, GB, GFLOP or TFLOP (powers of ten) with three significant digits; "-" for none."""
    if not value:
        return "-"
    value /= {"M": 1e6, "G": 1e9, "T": 1e12}[unit[0]]
    return "<0.001" if value < 0.0005 else figures(value)


def scaled(count: int) -> str:
    """A count with three significant digits: "215 K", "8.43 B"."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{figures(count / size)} {letter}"
    return str(count)


def size(count: int) -> str:
    """The same for bytes: "8.43 GB"."""
    number, _, letter = scaled(count).partition(" ")
    return f"{number} {letter.replace('B', 'G')}B"


def figures(value: float) -> str:
    """Three significant digits, never fewer than the whole number's, at most three after the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.{2 if value >= 1 else 3}f}"


def _sectioned(rows: list[list[str]], modes: list[str]) -> Rows:
    """The rows of paths, with a separator before and after every path with budgets."""
    from shirg.lavida.vision import SELECTING

    found: Rows = []
    for place, row in enumerate(rows):
        if place and modes[place] != modes[place - 1] and {*SELECTING} & {modes[place], modes[place - 1]}:
            found.append(None)
        found.append(row)
    return found


def _table(titles: list[str], rows: Rows, left: int = 1) -> Table:
    """A table without a frame, with a separator for every None; the first `left` columns are text, the others numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place < left else "right", no_wrap=True, vertical="bottom")
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*row)
    return table


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
