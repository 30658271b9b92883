"""Path `early` beside `shirg`, `highres`, `lowres` and `hd`: answers of LaViDa-nano, tokens, times, FLOPs.

    python benchmarks/early.py [--json FILE]

1. Answers to small print (8-13 px, the pages of `nano_claim.py`), without an adapter. `early-K` selects before the tower, from
   pixels; `pixels-K` keeps the same patches after the tower has encoded all, so the two differ by what a patch is encoded
   with; `shirg-K` also selects by the question. `early-512, no summary` leaves the mean of the dropped patches out, and
   `early-distinct` keeps the patches that are no copies. Word recall of `early` and `pixels` is equal.
2. Cosine of the kept tokens of `early-K` to those of `pixels-K`, after every layer, and by kind of page.
3. Times on this machine. The paths take turns in every round; ratios are medians over rounds of times within one round, so that
   other programs disturb them less.
4. A training step of four questions about four pages, tower included: questions per second by path and budget.
5. Memory: what one answer in a process of its own needs above the loaded model (Linux: VmHWM, reset by /proc/self/clear_refs).
6. FLOPs of an answer at the size of LLaDA-8B and Dream-7B.

Intervals are 95 %, by resampling pages; differences are paired. Pages are written to --output-dir as they come; the same command
resumes, also with more pages.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from common import machine, peak_memory, run_facts
from nano_claim import SMALL_PRINT, weights_digest
from nano_selectors import measured
from torch import Tensor
from training_step import examples_of, step

from shirg.bootstrap import compare, mean_interval
from shirg.data.render import KINDS
from shirg.evaluation.answering import generated_texts
from shirg.evaluation.efficiency import moment, timed
from shirg.evaluation.markdown import table
from shirg.evaluation.metrics import METRICS
from shirg.files import write_json
from shirg.gate import GateConfig
from shirg.lavida import Lavida, VisionFeatures
from shirg.lavida.adapter import attach_lora
from shirg.lavida.costs import Scenario, path_cost, vision_shape
from shirg.lavida.loading import with_own_projector
from shirg.lavida.shapes import published_config
from shirg.nano.recipe.score import DECODING, MEASURES

BUDGETS, MIDDLE = (256, 512, 768), 512
DISTINCT = GateConfig(selector="distinct")
REFERENCES = ("shirg-{}", "pixels-{}", "highres")
"""What `early-K` is compared with."""
TRAINING_PAGES = 4
TIMED = ("lowres", "hd", "highres", *(f"{mode}-{budget}" for mode in ("shirg", "early") for budget in BUDGETS))
SHAPES = {"LLaDA-8B": "llada-8b", "Dream-7B": "dream-7b"}


class Asking:
    """The nano, asked by every path."""

    def __init__(self) -> None:
        self.model = Lavida.from_pretrained("nano")

    def settings(self) -> dict:
        """What the answers depend on."""
        return {"weights": weights_digest(self.model), "budgets": list(BUDGETS), "decoding": asdict(DECODING)}

    @torch.no_grad()
    def page(self, number: int) -> dict:
        """Of one page: the answers and their scores by path, visual tokens by path, cosines by layer and budget."""
        model, page = self.model, SMALL_PRINT.page(number)
        asked = SMALL_PRINT.questions(page, number)
        prompts = [model.prompt_ids(question.question) for question in asked]
        whole, early = (model.image_features(page.image, mode) for mode in ("highres", "early"))
        entry: dict = {"page": number, "kind": page.kind, "tokens": {}, "said": {}, **{name: {} for name in MEASURES}}
        for name, embeds in self._embedded(whole, early, prompts):
            texts = generated_texts(model, prompts, embeds, DECODING)
            entry["tokens"][name], entry["said"][name] = len(embeds[0]), texts
            for measure, metric in MEASURES.items():
                entry[measure][name] = [
                    METRICS[metric](text, question.answers) for text, question in zip(texts, asked, strict=True)
                ]
        entry["cosines"] = self._cosines(early)
        return entry

    def _embedded(
        self, whole: VisionFeatures, early: VisionFeatures, prompts: Sequence[Tensor]
    ) -> Iterator[tuple[str, list[Tensor]]]:
        """Path -> embeddings of the page for every prompt."""
        model, count = self.model, len(prompts)
        plain = replace(model.vision, gate=replace(model.vision.gate, summary=False))
        distinct = replace(model.vision, gate=DISTINCT)
        yield "highres", [model.image_embeds(whole, "highres")] * count
        for budget in BUDGETS:
            questions = [model.question_ids(prompt) for prompt in prompts]
            yield f"shirg-{budget}", [model.image_embeds(whole, "shirg", budget, asked) for asked in questions]
            yield f"pixels-{budget}", [model.image_embeds(whole, "shirg", budget)] * count
            yield f"early-{budget}", [model.image_embeds(early, "early", budget)] * count
        yield f"early-{MIDDLE}, no summary", [model.image_embeds(early, "early", MIDDLE, vision=plain)] * count
        yield "early-auto", [model.image_embeds(early, "early", "auto")] * count
        yield "early-distinct", [model.image_embeds(early, "early", "auto", vision=distinct)] * count

    def _cosines(self, early: VisionFeatures) -> dict[str, list[float]]:
        """Budget -> mean cosine, after every layer of the tower, of kept tokens to those of the tower on all patches."""
        whole = early.tokens
        kept = {budget: self.model.select(early, budget) for budget in BUDGETS}
        alone = {budget: one.tokens for budget, one in kept.items()}
        found: dict[str, list[float]] = {str(budget): [] for budget in BUDGETS}
        for layer in self.model.tower.vision_model.encoder.layers:
            whole = layer(whole, None)
            for budget in BUDGETS:
                indices, alone[budget] = kept[budget].indices, layer(alone[budget], None)
                assert indices is not None, "runs merges nothing"
                cosine = torch.cosine_similarity(alone[budget][0, :budget], whole[0, indices[0]], dim=-1)
                found[str(budget)].append(round(cosine.mean().item(), 4))
        return found


def scores(entries: Sequence[dict], seed: int) -> list[dict]:
    """Mean and interval of every measure by path, with the paired differences of `early` from its `REFERENCES`."""
    pages = [str(entry["page"]) for entry in entries for _ in entry["said"]["highres"]]
    results = []
    for name in entries[0]["said"]:
        tokens = statistics.mean(entry["tokens"][name] for entry in entries)
        result: dict = {"path": name, "tokens": round(tokens, 1), "questions": len(pages)}
        for measure in MEASURES:
            own = _flat(entries, measure, name)
            one = mean_interval(own, pages, seed=seed)
            result[measure] = _rounded(one.mean, one.low, one.high)
            for reference in REFERENCES if name.startswith("early-") else ():
                other = reference.format(name.removeprefix("early-").partition(",")[0])
                if other in entries[0]["said"]:
                    found = compare(own, _flat(entries, measure, other), pages, seed=seed)
                    ends = found.interval
                    result[f"{measure} minus {other}"] = [*_rounded(ends.mean, ends.low, ends.high), found.verdict]
        results.append(result)
    return results


def _flat(entries: Sequence[dict], measure: str, name: str) -> np.ndarray:
    return np.array([value for entry in entries for value in entry[measure][name]], float)


def _rounded(*values: float | None) -> list:
    return [None if value is None else round(value, 4) for value in values]


def cosines(entries: Sequence[dict]) -> list[dict]:
    """Mean cosine by budget: after every layer, and after the last one by kind of page."""
    return [
        {
            "budget": budget,
            "layers": [round(value, 4) for value in np.mean([one["cosines"][str(budget)] for one in entries], axis=0)],
            "kinds": {
                kind: round(
                    statistics.mean(one["cosines"][str(budget)][-1] for one in entries if one["kind"] == kind), 4
                )
                for kind in KINDS
                if any(one["kind"] == kind for one in entries)
            },
        }
        for budget in BUDGETS
    ]


@torch.no_grad()
def times(model: Lavida, rounds: int) -> list[dict]:
    """Milliseconds of tower and whole answer by path, and how many times those of `early` at the same budget they are."""
    page = SMALL_PRINT.page(0)
    question = SMALL_PRINT.questions(page, 0)[0].question
    actions: dict[str, dict[str, Callable[[], object]]] = {}
    for name in TIMED:
        mode, _, budget = name.partition("-")
        features = model.image_features(page.image, mode)
        actions[name] = {
            "tower": tower(model, features, int(budget or 1)),
            "answer": lambda m=mode, b=budget: model.answer(page.image, question, m, int(b or 1)),
        }
    spent: dict[tuple[str, str], list[float]] = {(name, what): [] for name in actions for what in actions[name]}
    for number in range(1 + rounds):  # the first round warms up
        for name, what in spent:
            milliseconds = timed(model.device, actions[name][what])[1]
            if number:
                spent[name, what].append(milliseconds)
    found = []
    for name in TIMED:
        row: dict = {"path": name} | {
            f"{what}_ms": round(statistics.median(spent[name, what]), 1) for what in actions[name]
        }
        for budget in BUDGETS:
            for what in actions[name]:
                pairs = zip(spent[name, what], spent[f"early-{budget}", what], strict=True)
                row[f"{what} to early-{budget}"] = round(statistics.median(one / own for one, own in pairs), 2)
        found.append(row)
    return found


def tower(model: Lavida, features: VisionFeatures, budget: int) -> Callable[[], Tensor]:
    """The tower's part of an answer: all patches, or the embedding of all and the encoding of those that `early` keeps."""
    if not features.early:
        return lambda: model.tower(features.pixels)
    kept = model.select(features, budget)
    return lambda: model.encode_kept(kept, replace(features, tokens=model.tower.embed(features.pixels)))


def training(model: Lavida, rounds: int) -> list[dict]:
    """Questions per second of a training step by budget on `shirg` and `early`, and how many times faster `early` is."""
    trained = with_own_projector(model)
    attach_lora(trained)
    images = [SMALL_PRINT.page(number).image for number in range(TRAINING_PAGES)]

    def seconds(path: str, budget: int) -> float:
        began = moment(trained.device)
        examples = examples_of(trained, images, len(images), trained.config.answer_tokens, path)
        encoding = moment(trained.device) - began
        return encoding + step(trained, examples, "packed", budget, path=path)

    found = []
    for budget in BUDGETS:
        spent = [[seconds(path, budget) for path in ("shirg", "early")] for _ in range(1 + rounds)][1:]
        shirg, early = (len(images) / statistics.median(one) for one in zip(*spent, strict=True))
        ratio = statistics.median(slow / fast for slow, fast in spent)
        rates = {"shirg, questions/s": round(shirg, 2), "early, questions/s": round(early, 2)}
        found.append({"K": budget, **rates, "times faster": round(ratio, 2)})
    return found


def memory(name: str) -> dict:
    """MB that an answer by a path needs above the loaded model, in this process, which must be a new one."""
    mode, _, budget = name.partition("-")
    model, page = Lavida.from_pretrained("nano"), SMALL_PRINT.page(0)
    question = SMALL_PRINT.questions(page, 0)[0].question
    needed = peak_memory(lambda: model.answer(page.image, question, mode, int(budget or 1)))
    return {"path": name, "MB": round(needed / 2**20)}


def computed() -> list[dict]:
    """FLOPs of one answer at the published sizes, by path."""
    rows = []
    for label, shape in SHAPES.items():
        config = published_config(shape)
        for name in TIMED:
            mode, _, budget = name.partition("-")
            cost = path_cost(config, vision_shape(config, mode, budget=int(budget) if budget else None), Scenario())
            rows.append({"model": label, "path": name, **asdict(cost)})
    return rows


def print_tables(record: dict) -> None:
    """What the record holds, as Markdown."""
    header = ["path", "tokens", *MEASURES, *(f"exact match minus {one.format('K')}" for one in REFERENCES)]
    rows = []
    for row in record["scores"]:
        budget = row["path"].removeprefix("early-").partition(",")[0]
        differences = [row.get(f"exact match minus {one.format(budget)}") for one in REFERENCES]
        rows.append(
            [
                row["path"],
                f"{row['tokens']:.0f}",
                *(cell(row[measure]) for measure in MEASURES),
                *map(cell, differences),
            ]
        )
    print(f"\n{record['questions']} questions, {record['pages']} pages\n\n{table(header, rows)}\n")
    layers = range(1, 1 + len(record["cosines"][0]["layers"]))
    rows = [[str(one["budget"]), *map(str, one["layers"])] for one in record["cosines"]]
    print(f"{table(['cosine, K', *(f'layer {layer}' for layer in layers)], rows)}\n")
    for part in ("times", "training", "memory"):
        if part in record:
            titles = list(record[part]["rows"][0])
            cells = [[str(row[title]) for title in titles] for row in record[part]["rows"]]
            print(f"{part}\n\n{table(titles, cells)}\n")


def cell(value: Sequence | None) -> str:
    """Mean and interval in percent."""
    if value is None:
        return "-"
    mean, *ends = (100 * end for end in value[:3] if end is not None)
    return f"{mean:.1f}{f' [{ends[0]:.1f}, {ends[1]:.1f}]' if ends else ''}"


def main() -> None:
    """Ask, time, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=750, help="four questions each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="of timing; 0 leaves it out (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that answer (default: this one)")
    parser.add_argument("--output-dir", type=Path, default=Path("nano_work/early"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    parser.add_argument("--json", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    asking = Asking()
    entries = measured(asking, arguments.output_dir, arguments.pages, arguments.workers)
    record = {
        **run_facts(asking.model),
        "settings": asking.settings(),
        "pages": len(entries),
        "questions": sum(len(entry["said"]["highres"]) for entry in entries),
        "scores": scores(entries, arguments.seed),
        "cosines": cosines(entries),
        "computed": {"scenario": asdict(Scenario()), "rows": computed()},
    }
    if arguments.rounds:
        for part, measure in {"times": times, "training": training}.items():
            record[part] = {**machine(), "rounds": arguments.rounds, "rows": measure(asking.model, arguments.rounds)}
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            record["memory"] = {**machine(), "rows": pool.map(memory, TIMED, chunksize=1)}
    print_tables(record)
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
