"""Fill the tables of README and docs from the stored results: python scripts/tables.py [--check]

A table is identified by its file and its first heading. Its headings are not changed; its rows are made from a
file of `benchmarks/results`, or computed by the package from a model's configuration. The output of the quick start's commands
is filled in, too. --check changes nothing, names what differs, and ends with 1 if there is anything.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Rows = Iterator[list[str]]
CARDS = (16, 24, 32, 48, 80)
"""Memory of common GPUs, GB."""


def small_print(run: dict) -> Rows:
    """Every vision path: tokens, scores with intervals, costs."""
    scores = {(one["dataset"], one["variant"], one["metric"]): one for one in run["scores"]}
    costs = {row["variant"]: row for row in run["efficiency"]["rows"]}
    columns = [(dataset, metric) for dataset in ("documents", "charts") for metric in ("exact_match", "anls")]
    for variant in dict.fromkeys(variant for _, variant, _ in scores):
        measured = [scores[dataset, variant, metric] for dataset, metric in columns]
        tokens, *rest = _costs(costs[variant.removesuffix("+adapter")])
        shown = (f"{100 * one['score']:.1f}% [{100 * one['low']:.1f}, {100 * one['high']:.1f}]" for one in measured)
        yield [variant, tokens, *shown, *rest]


def path_costs(run: dict) -> Rows:
    """Every vision path: tokens, and what selection, prefill and cache cost."""
    return ([cost["variant"], *_costs(cost)] for cost in run["efficiency"]["rows"])


def _costs(cost: dict) -> list[str]:
    selection = "-" if cost["selection_ms"] is None else f"{cost['selection_ms']:.1f}"
    return [str(cost["tokens"]), selection, f"{cost['prefill_ms']:.0f}", f"{cost['kv_bytes'] / 1e6:.2f}"]


def claim_scores(run: dict) -> Rows:
    """The nano on small print by every path and adapter, as `nano_claim.py` prints it."""
    from benchmarks.nano_claim_tables import SMALL, scores_table

    return _rows(scores_table(SMALL, run["sets"][SMALL]["rows"]))


def claim_in_short(run: dict) -> Rows:
    """The five rows of the README: LaViDa's paths, and SHIRG's with the adapter."""
    names = ("lowres", "hd", "highres", "shirg-512+adapter", "shirg-768+adapter")
    rows = {row[0]: row for row in claim_scores(run)}
    return (rows[name] for name in names)


def claim_kinds(run: dict) -> Rows:
    """The same by kind of page."""
    from benchmarks.nano_claim_tables import SMALL, kinds_table

    return _rows(kinds_table(SMALL, run["sets"][SMALL]["rows"]))


def claim_targets(run: dict) -> Rows:
    """What was to be reached, and what was."""
    from benchmarks.nano_claim_tables import targets_table

    return _rows(targets_table(run["bars"]))


def claim_adapters(run: dict) -> Rows:
    """The adapters' trainings."""
    from benchmarks.nano_claim_tables import trainings_table

    return _rows(trainings_table(run["trainings"]))


def _rows(printed: str) -> Rows:
    """The rows of a printed table, without its heading."""
    return (line.removeprefix("| ").removesuffix(" |").split(" | ") for line in printed.splitlines()[2:])


BUDGETS = (256, 512, 768, 1024)
OURS = {"SHIRG, `runs`": "shirg (runs)", "SHIRG, `ocr`": "shirg (ocr)", "SHIRG, `shirg-v2`": "shirg (shirg-v2)"}
PIXELS = {"strokes alone": "strokes alone", "patch contrast": "patch contrast"}
PUBLISHED = {"DivPrune": "divprune", "CDPruner": "cdpruner", "TOPS, stage I": "tops", "VisPruner-like": "vispruner"}
"""Selectors by the names that tables give them, ours, of pixels alone, and of papers."""


def _recalls(run: dict, names: dict[str, str]) -> Rows:
    """Word recall at every budget, over all words and as the mean over the sets, of the variants with these names."""
    found = {(one["set"], one["variant"], one["budget"]): one["recall"]["mean"] for one in run["results"]}
    for name, variant in names.items():
        recalls = [found[pages, variant, budget] for pages in ("all", "mean of sets") for budget in BUDGETS]
        yield [name, *(f"{100 * recall:.1f}" for recall in recalls)]


def kept_words(run: dict) -> Rows:
    """Word recall of every selector, over all words and as the mean over the sets."""
    more = {"CDPruner, float64": "cdpruner, float64", "DART": "dart", "HoloV": "holov", "oracle": "oracle"}
    names = OURS | PIXELS | PUBLISHED | more
    return _recalls(run, names)


def kept_in_short(run: dict) -> Rows:
    """Word recall over all words of the README's selectors."""
    names = OURS | {"strokes alone": "strokes alone"} | PUBLISHED | {"oracle": "oracle"}
    del names["SHIRG, `ocr`"]
    return (row[:5] for row in _recalls(run, names))


def parts_out(run: dict) -> Rows:
    """Word recall of preset "runs" with one part out each."""
    names = {
        "`runs`": "shirg (runs)",
        "patches ranked, not runs": "shirg (runs, not joined)",
        "nothing added to neighbours": "shirg (runs, no lending)",
        "one threshold for all pages, whole patches": "shirg (runs, plain strokes)",
        "no coverage": "shirg (runs, no coverage)",
        "clusters up to a quarter of K": "shirg (runs, a quarter for clusters)",
    }
    return _recalls(run, names)


def legible(run: dict) -> Rows:
    """Lines that the outside reader reads exactly, of receipts and forms, by rule and budget."""
    whole = {"all 2304 patches": "all 2304", "the 384 px view": "384 px"}
    names = whole | OURS | PIXELS | PUBLISHED | {"random": "random"}
    found = {(name, one["variant"], one["budget"]): one for name, rows in run["results"].items() for one in rows}
    for label, variant in names.items():
        cells = []
        for part in ("sroie", "funsd"):
            for budget in BUDGETS:
                one = found.get((part, variant, budget)) or found[part, variant, None]
                cells.append(f"{100 * one['exact'][0]:.1f}")
        yield [label, *cells]


def answered(run: dict) -> Rows:
    """What the nano answers exactly from each rule's choice, with its interval."""
    chance = {"uniform": "uniform", "down-sampling": "downsample", "random": "random", "pool": "pool"}
    names = OURS | PIXELS | PUBLISHED | chance
    found = {(one["selector"], one["budget"]): one["exact match"] for one in run["results"]}
    for label, name in names.items():
        rows = [found[name, budget] for budget in (64, 128, 256, 512)]
        yield [label, *("{:.1f} [{:.1f}, {:.1f}]".format(*(100 * end for end in row)) for row in rows)]


def answered_by_few(run: dict) -> Rows:
    """The same of few selectors by more questions: scores, and points ahead of the default (negative: behind it)."""
    budgets = (64, 128, 256)
    names = OURS | {"strokes alone": "strokes alone", "DivPrune": "divprune", "CDPruner": "cdpruner"}
    found = {(one["selector"], one["budget"]): one for one in run["results"]}
    for label, name in names.items():
        rows = [found[name, budget] for budget in budgets]
        scores = [f"{100 * row['exact match'][0]:.1f}" for row in rows]
        ahead = [row.get("exact match minus first") for row in rows]
        yield [label, *scores, *("-" if one is None else _points(one) for one in ahead)]


def _points(difference: list) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * end for end in difference[:3]))


def unseen_grid(run: dict) -> Rows:
    """By budget: scores at 896 px without and with an adapter, and what it adds with its interval over pages and trainings."""
    (found,) = (grid for grid in run["grids"] if grid["side"] == 896)
    cells = {(one["budget"], one["measure"]): one for one in found["answers"]}
    for budget in run["settings"]["budgets"]:
        row = [str(budget)]
        for measure in ("exact match", "ANLS"):
            one = cells[budget, measure]
            row += [f"{100 * one[name][0]:.1f}" for name in ("without", "with")] + [_points(one["added"])]
        yield row


def unseen_grid_loss(run: dict) -> Rows:
    """By training: steps, and the loss of answer tokens at the smallest and the largest budget before and after."""
    (found,) = (grid for grid in run["grids"] if grid["side"] == 896)
    ends = [str(run["settings"]["budgets"][place]) for place in (0, -1)]
    for seed, one in zip(run["settings"]["seeds"], found["trainings"], strict=True):
        ratio, low, high = (100 * value for value in one["answer loss relative to step 0"])
        losses = (
            f"{one['answer loss']['before'][name]:.3f} to {one['answer loss']['after'][name]:.3f}" for name in ends
        )
        yield [str(seed), str(one["steps"]), f"{ratio:.1f}% [{low:.1f}, {high:.1f}]", *losses]


def page_budgets(run: dict) -> Rows:
    """Tokens and word recall of the budget "auto", with several factors, and of fixed ones."""
    for one in run["results"]["all"]:
        low, middle, high, _ = one["percentiles"]
        yield [
            one["setting"],
            f"{one['tokens']:.0f}",
            *map(str, (low, middle, high)),
            f"{100 * one['recall'][0]:.1f}",
        ]


def ablation(budget: int) -> Callable[[dict], Rows]:
    """What preset "runs" keeps at a budget, and what it keeps with one part changed each."""

    def rows(run: dict) -> Rows:
        from shirg.evaluation.sweep import SHOWN, sweep_table

        return _rows(sweep_table(run, budget, SHOWN))

    return rows


def _batch_times(name: str = "gate_cpu_batch8.json") -> dict[str, dict]:
    """The gate's times per image in a batch of 8, by call."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))["milliseconds_per_image"]


def gate_times(run: dict) -> Rows:
    """Median milliseconds per image of every call of the gate and every yardstick, for one image and for a batch of 8."""
    batch = _batch_times()
    for name, one in run["milliseconds_per_image"].items():
        yield [name, *(f"{times['median']:.2f}" for times in (one, batch[name]))]


def gate_baselines(run: dict) -> Rows:
    """The gate and three published selectors in one run: milliseconds, and multiples of the gate with text and pixels."""
    columns = run["milliseconds_per_image"], _batch_times("gate_cpu_avx2_batch8.json")
    for name in ("text and pixels", "pixels", "DivPrune", "CDPruner", "VisionZip"):
        cells = [f"{times[name]['median']:.1f}" for times in columns]
        ratios = [f"{times[name]['median'] / times['text and pixels']['median']:.1f}x" for times in columns]
        yield [name, *cells, *ratios]


def gate_targets(run: dict) -> Rows:
    """The gate's times against their targets."""
    one, batch = run["milliseconds_per_image"], _batch_times()
    targets = (("text and pixels", "one image", one, 4.5), ("pixels", "one image", one, 2.5))
    for call, images, times, most in (*targets, ("text and pixels", "batch of 8", batch, 5.0)):
        median = times[call]["median"]
        yield [f"{call}, {images}: at most {most} ms", f"{median:.2f}", "met" if median <= most else "not met"]


def gate_scaling(run: dict) -> Rows:
    """The gate's milliseconds by tokens and budget, and the byte floor."""
    for tokens, times in run["milliseconds"].items():
        cells = (times.get(str(budget)) for budget in (64, 128, 256, 512, 768, 1024, 2048))
        floor = f"{run['byte_floor'][tokens]:.2f}"
        yield [tokens, *("-" if one is None else f"{one:.1f}" for one in cells), floor]


def relevance(run: dict) -> Rows:
    """Answers kept whole without a question, with it, and with one about something else."""
    found = {(one["preset"], one["budget"], one["setting"]): one for one in run["kept"]}
    key = "answer whole"
    for preset, budget in (("runs", 128), ("runs", 256), ("runs", 512), ("ocr", 256), ("shirg-v2", 256)):
        means = [found[preset, budget, setting][key]["mean"] for setting in ("without", "asked")]
        gains = [found[preset, budget, setting][f"{key}, difference"] for setting in ("asked", "unrelated")]
        yield [
            f"`{preset}`",
            str(budget),
            *(f"{100 * mean:.1f}" for mean in means),
            *map(_gain, gains),
        ]


def _gain(interval: dict) -> str:
    """A difference in points with its interval."""
    return "{mean:+.1f} [{low:+.1f}, {high:+.1f}]".format(
        **{end: 100 * interval[end] for end in ("mean", "low", "high")}
    )


def unaligned(run: dict) -> Rows:
    """Word recall without a question, and what a random one adds in a space that it has nothing to do with."""
    found = {(one["budget"], one["setting"]): one for one in run["unaligned"]}
    for budget in sorted({budget for budget, _ in found}):
        plain = f"{100 * found[budget, 'without']['words']['mean']:.1f}"
        gains = (_gain(found[budget, setting]["words, difference"]) for setting in ("calibrated", "bare"))
        yield [str(budget), plain, *gains]


def preparation(run: dict) -> Rows:
    """Records a second of each way to make them, and what that means for all of them."""
    for name, label in (("link", "`--images link`"), ("embed", "`--images embed`"), ("render", "rendered")):
        rate = run["rates"][name]
        hours = 608_000 / rate["records_per_second"] / 3600
        yield [
            label,
            f"{rate['records_per_second']:.0f}",
            f"{hours:.2f} h",
            f"{rate['peak_mb']} MB",
            f"{rate['peak_mb_of_a_worker']} MB",
        ]


def feeding(run: dict) -> Rows:
    """What loader workers give against what a training step eats, samples a second, and what the step waits for them."""
    for name, label in (("pages", "pages, PNG 672x672"), ("photographs", "photographs, JPEG 480x360")):
        one = run[name]
        given, eaten, two = one["loader_samples_per_second"], one["step_samples_per_second"], one["together"]["2"]
        rates = [f"{given[kind]['2']:.0f}" for kind in ("plain", "augmented")]
        step = f"{1000 * two['waiting']:.0f} of {1000 * two['seconds_between_steps']:.0f} ms"
        yield [label, *rates, f"{eaten['every_image_new']:.1f}", f"{one['ratio']['augmented']:.0f}x", step]


def packing(run: dict) -> Rows:
    """How many times faster packed steps are than two rows; for the published shapes, how many times fewer FLOPs."""
    rows = {"LaViDa-nano": (run["measured_nano"], lambda gain: gain["median"], "measured, two cores")}
    for shape, label in (("llada-8b", "LLaDA-8B"), ("dream-7b", "Dream-7B")):
        rows[label] = run["computed"][shape], lambda gain: gain, "computed, FLOPs"
    for label, (gains, value, how) in rows.items():
        kinds = ("language_step_gain", "whole_step_gain", "turns_gain")
        yield [label, *(f"{value(gains[kind]):.2f}x" for kind in kinds), how]


def large_print(run: dict) -> Rows:
    """What the nano reads of pages shown, of others and of none; then kind by kind of page."""
    from shirg.nano.recipe.score import ASKED

    shown = {"right": "the right page", "another": "another page", "blank": "a blank page"}
    for group, by_shown in run.items():
        if group.startswith(ASKED):
            continue
        for name in shown if group == "all" else ("right",):
            row = by_shown[name]
            cells = ["{:.1f}% [{:.1f}, {:.1f}]".format(*(100 * x for x in row[key])) for key in ("exact match", "ANLS")]
            yield ["all kinds" if group == "all" else group, shown[name], str(row["questions"]), *cells]


def gpu_memory(_run: dict) -> Rows:
    """Peak memory of answering and training at the published shapes, computed, and the smallest common card for it."""
    from shirg.lavida.costs import Scenario, parameters, path_cost, vision_shape
    from shirg.lavida.shapes import published_config
    from shirg.training.budgets import components_of
    from shirg.training.memory import RESERVE_BYTES, Step, training_memory

    components = components_of((512, 768, 1024))
    trainings = {
        "train": Step(),
        "train, `--gradient-checkpointing`": Step(checkpointing=True),
        "the same, `--body-bits 4`": Step(checkpointing=True, body_bits=4),
    }
    for name, shape in (("LLaDA-8B", "llada-8b"), ("Dream-7B", "dream-7b")):
        config = published_config(shape)
        weights = 2 * sum(parameters(config).values())  # bfloat16
        paths = [vision_shape(config, "hd")]
        paths[:0] = [vision_shape(config, "shirg", budget=one.budget) for one in components if one.budget]
        answering = [weights + path_cost(config, path, Scenario()).kv_bytes for path in paths]
        peaks = {"answer: weights and cache": answering}
        peaks |= {
            way: [training_memory(config, one, step).total for one in components] for way, step in trainings.items()
        }
        for what, bytes_ in peaks.items():
            card = next(size for size in CARDS if max(bytes_) + RESERVE_BYTES <= size * 10**9)
            yield [f"{name}, {what}", *(f"{one / 1e9:.1f}" for one in bytes_), f"{card} GB"]


def served(run: dict) -> Rows:
    """Throughput and latency of the server."""
    for one in run["throughput"]:
        yield [
            one["asked"],
            str(one["requests"]),
            f"{one['per_second']:.2f}",
            f"{one['processor_s']:.2f}",
            f"{one['p50_s']:.1f}",
            f"{one['p95_s']:.1f}",
        ]


def parallel_decoding(run: dict) -> Rows:
    """Steps, time and exact match of each way to decode."""
    for one in run["parallel_decoding"]:
        right = "{:.1f}% [{:.1f}, {:.1f}]".format(*(100 * end for end in one["exact_match"]))
        yield [one["decoding"], f"{one['steps']:.1f}", f"{one['denoise_ms']:.0f}", right]


def serving_capacity(_run: dict) -> Rows:
    """Requests of 64 prompt and 32 answer tokens that fit in one batch, computed."""
    from shirg.lavida.costs import Scenario, parameters, path_cost, vision_shape
    from shirg.lavida.shapes import published_config
    from shirg.serve.settings import Limits
    from shirg.training.memory import RESERVE_BYTES

    scenario = Scenario()
    for name, shape in (("LLaDA-8B", "llada-8b"), ("Dream-7B", "dream-7b")):
        config = published_config(shape)
        fixed = 2 * sum(parameters(config).values()) + RESERVE_BYTES + Limits().cache_bytes
        paths = [vision_shape(config, "shirg", budget=budget) for budget in (512, 768, 1024)]
        paths.append(vision_shape(config, "hd"))
        logits = 2 * 8 * scenario.answer_tokens * config.body.vocab_size
        for card in (24, 80):
            each = (2 * path_cost(config, path, scenario).kv_bytes + logits for path in paths)
            yield [f"{name}, {card} GB", *(str(int((card * 10**9 - fixed) // one)) for one in each)]


def early_costs(run: dict) -> Rows:
    """Paths by what tower and answer cost: milliseconds here, times `early` at 768, FLOPs at the published sizes."""
    computed = {(row["model"], row["path"]): row for row in run["computed"]["rows"]}
    for row in run["times"]["rows"]:
        cost, dream = computed["LLaDA-8B", row["path"]], computed["Dream-7B", row["path"]]
        flops = cost["tower"], cost["total_cached"], dream["total_cached"]
        shown = [f"{row[f'{what}_ms']:.0f}" for what in ("tower", "answer")]
        times = [f"{row[f'{what} to early-768']:.2f}" for what in ("tower", "answer")]
        yield [row["path"], *shown, *times, *(f"{count / 1e12:.3g}" for count in flops)]


def early_in_short(run: dict) -> Rows:
    """The README's rows of `early_costs`, without the ratios."""
    names = ("lowres", "hd", "highres", "shirg-768", "early-768", "early-512")
    rows = {row[0]: row for row in early_costs(run)}
    return ([*rows[name][:3], rows[name][6]] for name in names)


def early_scores(run: dict) -> Rows:
    """The nano by path: tokens, exact match, ANLS, and exact match of `early` less that of three others, in points."""

    def cell(value: list | None, sign: str = "") -> str:
        if value is None:
            return "-"
        mean, low, high = (f"{100 * end:{sign}.1f}" for end in value[:3])
        return f"{mean} [{low}, {high}]"

    for row in run["scores"]:
        budget = row["path"].removeprefix("early-").partition(",")[0]
        others = f"shirg-{budget}", f"pixels-{budget}", "highres"
        differences = (row.get(f"exact match minus {other}") for other in others)
        scores = cell(row["exact match"]), cell(row["ANLS"])
        yield [row["path"], f"{row['tokens']:.0f}", *scores, *(cell(one, "+") for one in differences)]


def early_cosines(run: dict) -> Rows:
    """Cosine of kept tokens, by budget and layer; after the last layer the lowest and the highest kind of page."""
    for row in run["cosines"]:
        ends = (f"{kind} {value:.3f}" for value, kind in sorted((value, kind) for kind, value in row["kinds"].items()))
        least, *_, most = ends
        yield [str(row["budget"]), *(f"{value:.3f}" for value in row["layers"]), least, most]


def full_size(run: dict) -> Rows:
    """Every vision path at full size: tokens, milliseconds by stage, cache and peak memory; last, what they were measured on.

    For `full_size.json` of `benchmarks/full_size.py`; what a path does not have, or was not measured, is "-".
    """

    def shown(value: float | None, unit: float, digits: int) -> str:
        return "-" if value is None else f"{value / unit:.{digits}f}"

    stages = ("tower", "selection", "embedding", "prefill", "step", "total")
    rows = [row for row in run["paths"] if row["outcome"] == "measured"]
    for row in rows:
        times = [shown(row[f"{stage}_ms"], 1, 2) for stage in stages]
        memory = shown(row["kv_bytes"], 1e6, 1), shown(row["peak_memory_bytes"], 1e9, 1)
        yield [row["key"], str(row["tokens"]), *times, *memory]
    packages = ", ".join(f"{name} {run['machine']['packages'][name]}" for name in ("torch", "transformers"))
    dates = " and ".join(sorted({row["date"][:10] for row in rows}))
    yield [f"{run['machine']['device']}, {packages}, {dates}", *[""] * (len(stages) + 3)]


def real_words(run: dict) -> Rows:
    """Words of real pages: cut out, and drawn by us."""
    names = {"sroie": "SROIE, receipts", "funsd": "FUNSD, forms", "icdar2015": "ICDAR 2015, street scenes"}
    for name, label in names.items():
        shown = run["sets"][name]
        cells = [
            "{:.1f}% [{:.1f}, {:.1f}]".format(*(100 * x for x in shown[way][key]))
            for way in ("cut out", "drawn")
            for key in ("exact match", "ANLS")
        ]
        yield [label, str(shown["cut out"]["questions"]), *cells]


def first_run(run: dict) -> Rows:
    """What a new user waits for, by kind of processor and what else runs there."""
    for name, entry in run.items():
        stages = entry.get("demo_stages", {})
        seconds = entry.get("demo_seconds"), stages.get("training"), stages.get("evaluation"), entry.get("test_seconds")
        yield [name, *("-" if value is None else f"{value:.0f}" for value in seconds)]


@dataclass(frozen=True)
class Table:
    """A table that is made: the file it stands in, its first heading, the results it is made from (none: computed)."""

    file: str
    heading: str
    results: str | None
    rows: Callable[[dict], Rows]

    def made(self, text: str) -> str:
        """`text` with this table's rows as the results have them.

        Raises:
            ValueError: if `text` does not hold the table exactly once.
        """
        mark = f"\n| {self.heading} |" if self.heading else "\n| |"
        if text.count(mark) != 1:
            raise ValueError(f"{self.file}: {text.count(mark)} tables begin with {self.heading!r}")
        start = text.index(mark) + 1
        heading, rule = text[start:].splitlines()[:2]
        before, after = text[:start], text[start:]
        end = next((i for i, line in enumerate(after.splitlines()) if not line.startswith("|")), None)
        rest = "" if end is None else "\n".join(after.splitlines()[end:]) + "\n"
        run = json.loads((RESULTS / self.results).read_text(encoding="utf-8")) if self.results else {}
        lines = [heading, rule, *(f"| {' | '.join(row)} |" for row in self.rows(run))]
        return before + "\n".join(lines) + "\n" + rest


@dataclass(frozen=True)
class Printed:
    """What the commands of a page print: the blocks of text that stand right behind those of commands."""

    file: str
    results: str

    def made(self, text: str) -> str:
        """`text` with these blocks as they were printed by `scripts/documented.py`.

        Raises:
            ValueError: for commands that were not run yet, in this form.
        """
        printed = json.loads((RESULTS / self.results).read_text(encoding="utf-8"))["printed"]

        def fill(match: re.Match[str]) -> str:
            if match[2] not in printed:
                raise ValueError(f"{self.file}: run python scripts/documented.py, which has not run {match[2]!r}")
            lines = [line.rstrip() for line in printed[match[2]].strip("\n").splitlines()]
            return match[1] + "\n".join([*lines, "```"])

        return re.sub(r"(```(?:bash|python)\n([^`]*)```\n\n```text\n)[^`]*```", fill, text)


CARD = "shirg/nano/weights/README.md"
TABLES = (
    Table("README.md", "path", "nano_claim.json", claim_in_short),
    Table("docs/results.md", "vision path", "nano_claim.json", claim_scores),
    Table("docs/results.md", "target (exact match)", "nano_claim.json", claim_targets),
    Table("docs/results.md", "896 px, K", "unseen_grid.json", unseen_grid),
    Table("docs/results.md", "training", "unseen_grid.json", unseen_grid_loss),
    Table("docs/results.md", "on two cores", "nano_small_print.json", path_costs),
    Table("README.md", "on two busy cores", "early.json", early_in_short),
    Table("docs/results.md", "on two busy cores", "early.json", early_costs),
    Table("docs/results.md", "early or not", "early.json", early_scores),
    Table("docs/results.md", "cosine, K", "early.json", early_cosines),
    Table("docs/evaluation.md", "exact match", "nano_claim.json", claim_kinds),
    Table("docs/evaluation.md", "adapter", "nano_claim.json", claim_adapters),
    Table("docs/evaluation.md", "vision path", "nano_small_print.json", small_print),
    Table("README.md", "selector", "gate_recall.json", kept_in_short),
    Table("docs/results.md", "selector", "gate_recall.json", kept_words),
    Table("docs/results.md", "answers", "nano_selectors.json", answered),
    Table("docs/results.md", "3,000 questions", "nano_selectors_3000.json", answered_by_few),
    Table("docs/results.md", "lines read", "legibility.json", legible),
    Table("docs/method.md", "preset `runs`", "gate_recall.json", parts_out),
    Table("docs/method.md", "budget", "page_budget.json", page_budgets),
    Table("docs/gate.md", "call", "gate_cpu.json", gate_times),
    Table("docs/gate.md", "selector", "gate_cpu_avx2.json", gate_baselines),
    Table("docs/gate.md", "target", "gate_cpu.json", gate_targets),
    Table("docs/gate.md", "tokens", "gate_scaling.json", gate_scaling),
    Table("docs/sweep.md", "K = 256", "gate_sweep.json", ablation(256)),
    Table("docs/sweep.md", "K = 512", "gate_sweep.json", ablation(512)),
    Table("docs/relevance.md", "gate", "gate_relevance.json", relevance),
    Table("docs/relevance.md", "random question, K", "gate_relevance.json", unaligned),
    Table("docs/data.md", "", "prepare_data.json", preparation),
    Table("docs/data.md", "images", "loader.json", feeding),
    Table(CARD, "pages", "nano_score.json", large_print),
    Table(CARD, "words of", "real_words.json", real_words),
    Table("docs/results.md", "GB, computed", None, gpu_memory),
    Table("docs/serving.md", "asked", "serving.json", served),
    Table("docs/serving.md", "decoding", "serving.json", parallel_decoding),
    Table("docs/serving.md", "model, card", None, serving_capacity),
    Table("docs/training.md", "packed against two rows", "training_step.json", packing),
    Table("docs/quickstart.md", "two cores, seconds", "first_run.json", first_run),
    Printed("docs/quickstart.md", "quickstart.json"),
)


def main() -> int:
    """The exit code: 1 where --check found a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, name what differs")
    arguments = parser.parse_args()
    differing = 0
    for table in TABLES:
        path = ROOT / table.file
        text = path.read_text(encoding="utf-8")
        made = table.made(text)
        if made != text:
            differing += 1
            print(
                f"{table.file}: what {table.results or 'is computed'} gives {'differs' if arguments.check else 'is made anew'}"
            )
            if not arguments.check:
                path.write_text(made, encoding="utf-8")
    return int(arguments.check and differing > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # `benchmarks`, and this checkout's `shirg`
    sys.exit(main())
