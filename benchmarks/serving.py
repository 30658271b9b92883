"""Throughput and latency of `shirg serve`, and steps and exact match of parallel decoding.

    python benchmarks/serving.py [--pages 8] [--threshold-pages 40] [--json FILE]

The server runs in a process of its own, with the nano. Every page is asked four questions, by one client after the other and by
16 at once; the first row is `Lavida.answer` in a loop, without a server. The second table denoises each question after one
prefix in several ways, so that only the steps differ.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil
import torch
from common import machine
from rich.progress import track

from shirg import Lavida
from shirg.bootstrap import mean_interval
from shirg.data.render import KINDS, render_page
from shirg.evaluation.metrics import exact_match
from shirg.files import write_json
from shirg.lavida.diffusion.generation import AnswerModel, EarlyStop, GenerationSettings, denoise
from shirg.lavida.prefix import Prefix

PER_PAGE, CLIENTS, BUDGET = 4, 16, 512
DECODING: dict[str, dict[str, Any]] = {
    "one token per step": {},
    "half a step per token": {"step_ratio": 0.5},
    "a quarter": {"step_ratio": 0.25},
    **{f"threshold {number}": {"threshold": number} for number in (0.95, 0.9, 0.8, 0.7, 0.5)},
    **{f"factor {number}": {"factor": number} for number in (0.5, 1.0, 2.0)},
}


def pages(number: int, first_seed: int) -> list[tuple[Any, list[Any]]]:
    """Held-out pages with at least four questions, and four of them each."""
    found, seed = [], first_seed
    while len(found) < number:
        page = render_page(KINDS[seed % len(KINDS)], seed, text_px=(12, 18), split="heldout")
        seed += 1
        if len(page.questions) >= PER_PAGE:
            found.append((page.image, list(page.questions[:PER_PAGE])))
    return found


@contextlib.contextmanager
def serving(*flags: str) -> Iterator[tuple[str, list[psutil.Process]]]:
    """The address of a server with the nano, and its processes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "shirg", "serve", "--port", str(port), *flags])
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60).close()
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", psutil.Process(process.pid).children()
    finally:
        process.terminate()
        assert process.wait() == 0


def processor_seconds(processes: list[psutil.Process]) -> float:
    """What they have used so far."""
    return sum(one.cpu_times().user + one.cpu_times().system for one in processes)


async def ask_all(address: str, asked: list[tuple[str, str]], clients: int) -> tuple[float, list[float], list[str]]:
    """Seconds in all and of each request, and the answers, of so many clients that share the questions."""
    waiting = list(enumerate(asked))[::-1]
    seconds, texts = [0.0] * len(asked), [""] * len(asked)

    async def client(api: openai.AsyncOpenAI) -> None:
        while waiting:
            place, (uri, question) = waiting.pop()
            image = {"type": "image_url", "image_url": {"url": uri}}
            parts = [image, {"type": "text", "text": question}]
            begun = time.perf_counter()
            answer = await api.chat.completions.create(
                model="nano", messages=[{"role": "user", "content": parts}], extra_body={"budget": BUDGET}
            )
            seconds[place], texts[place] = time.perf_counter() - begun, answer.choices[0].message.content

    async with contextlib.AsyncExitStack() as stack:
        made = [openai.AsyncOpenAI(base_url=address, api_key="none", timeout=600) for _ in range(clients)]
        for api in made:
            await stack.enter_async_context(api)
        begun = time.perf_counter()  # making a client takes a tenth of a second of processor time
        await asyncio.gather(*map(client, made))
        return time.perf_counter() - begun, seconds, texts


def throughput(number: int) -> list[dict[str, Any]]:
    """One row for each way of asking the same questions."""
    asked = pages(number, 0)
    pairs = [(_uri(image), one.question) for image, questions in asked for one in questions]
    model = Lavida.from_pretrained("nano")
    model.answer(asked[0][0], pairs[0][1], budget=BUDGET)
    rows, times, expected, spent = [], [], [], time.process_time()
    for image, questions in track(asked, description="without a server"):
        for one in questions:
            begun = time.perf_counter()
            expected.append(model.answer(image, one.question, budget=BUDGET))
            times.append(time.perf_counter() - begun)
    spent = time.process_time() - spent
    rows.append(_row("`Lavida.answer`, one after the other", sum(times), times, spent))
    for clients, flags in ((1, ()), (CLIENTS, ()), (CLIENTS, ("--workers", "2")), (CLIENTS, ("--threshold", "0.9"))):
        with serving(*flags) as (address, workers):
            asyncio.run(ask_all(address, [(_uri(asked[0][0].rotate(180)), "Who?")], 1))
            before = processor_seconds(workers)
            seconds, times, texts = asyncio.run(ask_all(address, pairs, clients))
            spent = processor_seconds(workers) - before
        name = ", ".join([f"{clients} client{'s' * (clients > 1)}", *(["`" + " ".join(flags) + "`"] if flags else [])])
        rows.append({**_row(name, seconds, times, spent), "same_answers": sum(map(str.__eq__, texts, expected))})
    return rows


def _row(name: str, seconds: float, times: list[float], spent: float) -> dict[str, Any]:
    low, high = np.percentile(times, (50, 95))
    return {
        "asked": name,
        "requests": len(times),
        "per_second": round(len(times) / seconds, 3),
        "processor_s": round(spent / len(times), 3),
        "p50_s": round(float(low), 2),
        "p95_s": round(float(high), 2),
    }


def _uri(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@torch.no_grad()
def parallel_decoding(number: int) -> list[dict[str, Any]]:
    """Steps, time of denoising and exact match of each way to decode, on the same prefixes."""
    model = Lavida.from_pretrained("nano")
    config, length = model.config, model.config.answer_tokens
    stop = EarlyStop(config.mask_token_id, model.stop_ids, config.eos_token_id)
    found: dict[str, list[tuple[int, float, float]]] = {name: [] for name in DECODING}
    clusters = []
    for place, (image, questions) in enumerate(track(pages(number, 10_000), description="parallel decoding")):
        features = model.image_features(image, "shirg")
        for one in questions:
            ids = model.prompt_ids(one.question)
            embeds = model.image_embeds(features, "shirg", BUDGET, model.question_ids(ids))
            prefix = Prefix.of([model.splice(ids, [embeds])])
            predict = AnswerModel(model.language, prefix, True, model.vocabulary_size)
            masks = torch.full((1, length), config.mask_token_id)
            predict(masks)  # warm up, and make the cache's buffers
            clusters.append(str(place))
            for name, keywords in DECODING.items():
                steps: list[int] = []
                settings = GenerationSettings(config.mask_token_id, length, length, early_stop=stop, **keywords)
                begun = time.perf_counter()
                tokens = denoise(predict, masks, settings, on_step=lambda number, _, seen=steps: seen.append(number))
                spent = time.perf_counter() - begun
                found[name].append((len(steps), spent, exact_match(model.answer_text(tokens[0]), list(one.answers))))
    entries = []
    for name, rows in found.items():
        steps, spent, right = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
        entry = {"decoding": name, "questions": len(rows), "steps": round(float(steps.mean()), 2)}
        entry |= {"denoise_ms": round(1000 * float(np.median(spent)), 1)}
        found_share = mean_interval(right, clusters, seed=0)
        ends = (found_share.mean, found_share.low, found_share.high)
        entries.append({**entry, "exact_match": [round(end, 4) for end in ends]})
    return entries


def main() -> None:
    """Measure both, print them and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=16)
    parser.add_argument("--threshold-pages", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    record = {"machine": machine(), "command": f"python benchmarks/serving.py --pages {arguments.pages}"}
    record["command"] += f" --threshold-pages {arguments.threshold_pages}"
    record |= {"budget": BUDGET, "throughput": throughput(arguments.pages)}
    for row in record["throughput"]:
        print(row)
    record["parallel_decoding"] = parallel_decoding(arguments.threshold_pages)
    for row in record["parallel_decoding"]:
        print(row)
    if arguments.json is not None:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
