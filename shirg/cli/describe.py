"""`shirg describe MODEL`: what a model of a given shape costs, computed from its config.json."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
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

TARGET = 0.3
"""Least share of the cache that SHIRG promises to save; 50% is the other end of its range."""

TRAINED_SHARE = 0.01
"""Of all parameters, more than which SHIRG promises not to train."""

MAX_WIDTH = 120
"""Columns that no table needs more of."""

SOURCE = {
    True: "computed from the published model's sizes as generally known; a checkpoint is described by its own config.json",
    False: "computed from its config.json",
}

BATCHES = (1, 4, 8)
"""Records per process, of which training memory is told."""

TRAINING_NOTES = """\
Computed, GB (10^9 bytes) of one process: weights, adapter with AdamW's moments, what the backward pass needs, logits of the \
answers; head and working are never there at once, so that the larger counts. On top come the feature cache (feature_cache_mb, \
1 GiB) and the allocator's own, commonly 1 to 2 GB. Fewer records \
and more accumulation steps give the same optimizer step."""

STAGES = ("tower", "gate", "projector", "prefill", "step_cached", "step_uncached", "total_cached", "total_uncached")
NOTES = """\
Powers of ten: K, M, B, KB, MB, GB, GFLOP, TFLOP; KiB is 1024 bytes. A product of \\[m, k] and \\[k, n] is 2mkn FLOPs, \
attention 4 x queries x keys x width. Counted: patch convolution, linear layers, attention; for the gate what its \
relevance term needs (llm: every encoded token through the base projector) and, roughly, its own arithmetic. Not counted: \
embeddings, biases, norms, activations, softmax, pooling, the LoRA's own products. Nothing here is measured, and FLOPs \
are not time: a step with few rows waits for memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(CommonFlags):
    """What a model costs: parameters, cache and FLOPs of every vision path, computed from its config.json alone.

    No weights are read and nothing is run, so an 8B model can be described on a laptop.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """`llada-8b` or `dream-7b` (shapes of the published models), `nano`, a folder in LaViDa's official layout, or an id on
    the Hugging Face hub. Only config.json is read, and a folder's tokenizer for special ids that it does not name."""

    revision: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the main branch)")] = None
    """Branch, tag or commit of a model on the hub."""

    image_size: Annotated[str, arg(metavar="WxH")] = "1000x1000"
    """Width and height of the image in pixels. The tiles of `hd` and `multiview` follow its shape, the other paths square
    it."""

    image_resolution: Annotated[
        int | None, ranges.RESOLUTION, arg(metavar="INT", help_behavior_hint="(default: the model's own)")
    ] = None
    """Pixels per side at which SHIRG sees a page, a multiple of 14, as in the command whose costs are asked for."""

    token_budgets: Annotated[tuple[int, ...], ranges.BUDGET] = (512, 768, 1024)
    """Visual tokens kept by `shirg` and `multiview`, one or more numbers; one more token sums up what was dropped."""

    prompt_tokens: Annotated[int, ranges.PROMPT_TOKENS] = 64
    """Text tokens around the image: system turn, question, marks of turns. An assumption; ask your tokenizer."""

    answer_tokens: Annotated[int, ranges.TOKENS] = 32
    """Length of the answer, all of it denoised together."""

    steps: Annotated[int, ranges.TOKENS] = 16
    """Denoising steps, at most one per answer token."""

    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        arg(help_behavior_hint="(default: float32 for the nano, bfloat16 for other models)"),
    ] = None
    """Precision of weights and cache."""

    train: bool = False
    """Also the peak memory of a training step, for every budget and several batch sizes."""

    objective: Literal["packed", "prefix", "bidirectional"] = "packed"
    """With --train: how the answer's two noisy copies are laid out."""

    json: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Also write every number, unrounded, to this file."""


def command(flags: Flags) -> None:
    """Compute, print, and write the numbers if asked to."""
    from rich.console import Console

    from shirg.cli.models import usual_dtype
    from shirg.files import write_json
    from shirg.lavida.costs import Scenario, check_sizes, describe, vision_shape
    from shirg.lavida.shapes import PUBLISHED
    from shirg.training.budgets import check_budgets

    budgets = check_budgets(flags.token_budgets)
    config = load_config(flags.model, flags.revision)
    if flags.image_resolution is not None:
        own = dataclasses.replace(config.vision, resolution=flags.image_resolution)
        config = dataclasses.replace(config, vision=own)
    check_sizes(config)
    most = vision_shape(config, "highres").tokens
    if max(budgets) > most:
        raise UserError(
            f"--token-budgets: got {max(budgets)}, must be at most {most}, the grid at "
            f"{config.vision.resolution} pixels; a larger --image-resolution has more"
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
    tables = Console(highlight=False, width=max(console.width, MAX_WIDTH))
    show(found, console, tables)
    if flags.train:
        console.print()
        tables.print(training_table(found["training_memory"]))
        console.print(TRAINING_NOTES, style="dim")


def training_rows(
    config: LavidaConfig, budgets: Sequence[int], scenario: Scenario, objective: str
) -> list[dict[str, Any]]:
    """Peak bytes of a training step for every ratio and for `BATCHES`; see `shirg.training.memory`."""
    from shirg.training.budgets import POOLED
    from shirg.training.memory import memory_table

    return memory_table(
        config,
        [*budgets, POOLED],
        list(BATCHES),
        prompt_tokens=scenario.prompt_tokens,
        answer_tokens=scenario.answer_tokens,
        objective=objective,
        dtype=scenario.dtype,
    )


def parse_size(text: str) -> tuple[int, int]:
    """ "1000x800" as (width, height).

    Raises:
        UserError: for anything else.
    """
    parts = re.fullmatch(r"(\d+)x(\d+)", text)
    if parts is None:
        raise UserError(f"--image-size: got {text!r}, must be width x height in pixels, such as 1000x1000")
    return int(parts[1]), int(parts[2])


def load_config(model: str, revision: str | None = None) -> LavidaConfig:
    """The configuration that `model` names; of a hub id only `config.json` is downloaded.

    Raises:
        UserError: if there is no such model or revision; the message lists what there is.
    """
    from shirg.lavida import checkpoint
    from shirg.lavida.config import LavidaConfig, read_config
    from shirg.lavida.shapes import PUBLISHED, published_config

    if model in PUBLISHED:
        if revision is not None:
            raise UserError(f"--revision: got {revision}, but {model} is a shape known here, no model on the hub")
        return published_config(model)
    try:
        folder = checkpoint.config_file(model, revision).parent
    except UserError as error:
        near = difflib.get_close_matches(model.lower(), (*PUBLISHED, "nano"), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"shapes known by name: {', '.join(PUBLISHED)}"
        raise UserError(f"{error}; {hint}") from error
    return LavidaConfig.from_dict(read_config(folder), checkpoint.load_tokenizer(folder))


# -------------------- printing


def show(found: dict[str, Any], text: Console, tables: Console) -> None:
    """Print what `command` found: sentences on `text`, tables on `tables`, which never cuts a number."""
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
    tables.print(token_table(found))
    tables.print()
    tables.print(work_table(found))
    text.print(
        f"total = tower + gate + projector + prefill + {scenario['steps']} steps; without the cache there is no prefill, "
        "and every step runs the prefix again\n",
        style="dim",
    )
    tables.print(saving_table(found))
    text.print(saving_note(found), style="dim")
    text.print("\n[bold]Promised[/]: 30 to 50% less KV cache, under 1% of the parameters trained")
    for line in verdicts(found):
        text.print(f"  {line}")
    text.print(f"\n{NOTES}", style="dim")


def parameter_table(found: dict[str, Any]) -> Table:
    """Parameters and bytes by part, the adapter last."""
    table = _table("part", "parameters", "exactly", "bytes", "trained", left=1)
    for part, count in found["parameters"].items():
        if part == "total":
            table.add_section()
        table.add_row(part, scaled(count), f"{count:,}", size(found["weight_bytes"][part]), "-")
    adapter = found["adapter"]
    count = adapter["parameters"]
    table.add_row(
        f"LoRA, rank {adapter['rank']}",
        scaled(count),
        f"{count:,}",
        size(adapter["bytes"]),
        f"{adapter['share']:.2%} of all" if adapter["share"] > 1e-3 else f"{adapter['share']:.4%} of all",
    )
    return table


def token_table(found: dict[str, Any]) -> Table:
    """Where each path's visual tokens come from, and what their cache takes."""
    table = _table("vision path", "encoded", "kept", "visual\ntokens", "prefix\ntokens", "KV cache\nMB", left=3)
    for row in _sectioned(table, found["paths"]):
        views = f"{row['views']} x {row['grid'][0]}x{row['grid'][1]}"
        cache = quantity(row["kv_bytes"], "MB")
        table.add_row(row["path"], views, row["layout"], f"{row['tokens']:,}", f"{row['prefix_tokens']:,}", cache)
    return table


def work_table(found: dict[str, Any]) -> Table:
    """FLOPs by stage, in one unit for the whole table."""
    rows = [{**row, "gate": row["gate_projection"] + row["gate_arithmetic"]} for row in found["paths"]]
    unit = "TFLOP" if max(row["total_cached"] for row in rows) >= 1e12 else "GFLOP"
    titles = ("tower", "gate", "pro-\njector", "pre-\nfill", "step", "step,\nno\ncache", "total", "total,\nno\ncache")
    table = _table(unit, *titles, "cache\nsaves", left=1)
    for row in _sectioned(table, rows):
        saved = 1 - row["total_cached"] / row["total_uncached"]
        table.add_row(row["path"], *(quantity(row[stage], unit) for stage in STAGES), f"{saved:.0%}")
    return table


def saving_table(found: dict[str, Any]) -> Table:
    """Share of the cache that a budget saves: the image's part, and the whole prefix; and which budget saves 30%."""
    from shirg.lavida.costs import largest_budget

    entries, prompt = found["savings"], found["scenario"]["prompt_tokens"]
    against = {entry["against"]: entry["reference_tokens"] for entry in entries}
    table = _table("KV cache saved", *(f"against {name}\n{count:,} tokens" for name, count in against.items()), left=1)
    for budget in dict.fromkeys(entry["budget"] for entry in entries):
        cells = [f"{e['visual']:.1%} ({e['prefix']:.1%})" for e in entries if e["budget"] == budget]
        table.add_row(f"shirg-{budget}", *cells)
    table.add_section()
    limits = [(largest_budget(count, 30), largest_budget(count, 30, prompt)) for count in against.values()]
    table.add_row("30% needs", *(f"K <= {visual:,} ({prefix:,})" for visual, prefix in limits))
    return table


def training_table(rows: list[dict[str, Any]]) -> Table:
    """Peak memory of a training step: a row per ratio and batch size, with the parts of the plain one."""
    parts = ("weights", "blocks", "head", "working")
    table = _table("training", "batch", *parts, "peak", "peak with\ncheckpointing", left=1)
    for place, row in enumerate(rows):
        if place and row["ratio"] != rows[place - 1]["ratio"]:
            table.add_section()
        cells = [quantity(row["plain"][part], "GB") for part in (*parts, "total")]
        ratio = f"shirg-{row['ratio']}" if isinstance(row["ratio"], int) else row["ratio"]
        table.add_row(ratio, str(row["batch_size"]), *cells, quantity(row["checkpointed"]["total"], "GB"))
    return table


def saving_note(found: dict[str, Any]) -> str:
    """How to read `saving_table`."""
    flat = any(entry["against"] == "hd flat" for entry in found["savings"])
    more = "; hd flat: the same tiles without un-padding and newlines" if flat else ""
    return f"of the visual tokens (of the whole prefix); negative where the selection is the larger one{more}"


def verdicts(found: dict[str, Any]) -> list[str]:
    """Whether SHIRG's promises about sizes are kept at this shape, one line each."""
    lines = []
    for name in dict.fromkeys(entry["against"] for entry in found["savings"]):
        entries = [entry for entry in found["savings"] if entry["against"] == name]
        kept = ", ".join(str(entry["budget"]) for entry in entries if entry["visual"] >= TARGET)
        broken = ", ".join(str(entry["budget"]) for entry in entries if entry["visual"] < TARGET)
        words = [f"[green]kept[/] at K = {kept}"] if kept else []
        words += [f"[red]not kept[/] at K = {broken}"] if broken else []
        lines.append(f"30% less for the visual tokens than {name}: {', '.join(words)}")
    share = found["adapter"]["share"]
    word = "[green]kept[/]" if share < TRAINED_SHARE else "[red]not kept[/]"
    return [*lines, f"under 1% trained: {word}, {found['adapter']['parameters']:,} in the adapter"]


def quantity(value: float, unit: str) -> str:
    """A number in MB, GB, GFLOP or TFLOP (powers of ten) with three figures that matter; "-" for none."""
    if not value:
        return "-"
    value /= {"M": 1e6, "G": 1e9, "T": 1e12}[unit[0]]
    return "<0.001" if value < 0.0005 else figures(value)


def scaled(count: int) -> str:
    """A count with three figures that matter: "215 K", "8.43 B"."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{figures(count / size)} {letter}"
    return str(count)


def size(count: int) -> str:
    """Bytes likewise: "8.43 GB"."""
    number, _, letter = scaled(count).partition(" ")
    return f"{number} {letter.replace('B', 'G')}B"


def figures(value: float) -> str:
    """Three figures that matter, no fewer than the whole number, at most three behind the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.{2 if value >= 1 else 3}f}"


def _sectioned(table: Table, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of paths, with a gap wherever a path with budgets begins or ends."""
    modes = [row["mode"] for row in rows]
    for place, row in enumerate(rows):
        if place and row["mode"] != modes[place - 1] and {"shirg", "multiview"} & {row["mode"], modes[place - 1]}:
            table.add_section()
        yield row


def _table(*titles: str, left: int) -> Table:
    """A table without a frame; the first `left` columns are text, the others numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place < left else "right", no_wrap=True, vertical="bottom")
    return table


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)
