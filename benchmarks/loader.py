"""Throughput of the data loader against that of training.   python benchmarks/loader.py [--json FILE]

Three questions, on pages that the renderer draws (672 pixels, PNG) and on photographs of LCS-558K's size (JPEG):

* loader: samples per second with 0, 1 and 2 workers, both views made of every image, plain and augmented;
* step: samples per second that a training step of LaViDa-nano uses with samples in memory, with every image new and with cached
  features (as for several questions about an image, and in later epochs);
* together: seconds between steps with workers on the same cores, and how many of them are waiting (without workers views are cut
  inside the step, so only the time between steps is meaningful).

`ratio` is the throughput of two workers by that of a step with every image new: above 1, the loader does not limit training.
"""

from __future__ import annotations

import argparse
import datetime
import io
import itertools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from shirg.data.loader import RecordDataset, build_loaders
from shirg.data.records import Record, image_id
from shirg.data.sampler import EpochOrder
from shirg.data.samples import VIEWS, Sample
from shirg.data.shards import write_shard
from shirg.data.sources import RenderedPages
from shirg.files import read_lines
from shirg.lavida import Lavida
from shirg.lavida.views import ViewShapes
from shirg.training import SHIRGLoRAConfig, SHIRGLoRATrainer

BATCH = 4
PHOTOGRAPH = (480, 360)
"""Pixels; with noise of this grain such a JPEG has 66 KB, where the mean of LCS-558K is 48 KB."""


# ------------------------------------------------------------- what is read
def photographs(count: int) -> Iterator[Record]:
    """Captioned noise."""
    random = np.random.default_rng(0)
    width, height = PHOTOGRAPH
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (height // 3, width // 3, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize(PHOTOGRAPH, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=75)
        data = buffer.getvalue()
        yield Record(f"p:{number}:0", data, image_id(data), "Describe.", ("noise",), "p", "", width, height)


def pages(count: int) -> Iterator[Record]:
    """One question about each of so many rendered pages."""
    series = RenderedPages()
    return (series.page_records(number)[0] for number in range(count))


# ------------------------------------------------------------- the loader alone
def loader_rate(folder: Path, shapes: ViewShapes, workers: int, augment: bool, rounds: int, batches: int) -> float:
    """Samples per second, the median of `rounds` of `batches` batches, after one untimed round."""
    loader, _ = build_loaders(folder, BATCH, num_workers=workers, augment=augment, shapes=shapes)
    order = EpochOrder(loader, seed=0)
    read = itertools.chain.from_iterable(map(order.batches, itertools.count()))
    rates = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for batch in itertools.islice(read, batches):
            for sample in batch:
                for name in VIEWS:
                    sample.view(name)
        rates.append(batches * BATCH / (time.perf_counter() - began))
    return statistics.median(rates[1:])


# ------------------------------------------------------------- the step
class StepTimes(logging.Handler):
    """Time of each step's log line."""

    def __init__(self):
        super().__init__()
        self.times: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Notes the time of a step's line."""
        if record.msg.startswith("step "):
            self.times.append(record.created)


def train(model: Lavida, loader: DataLoader, steps: int, cache_mb: int) -> tuple[list[float], list[float]]:
    """Seconds within each step, and from one step's end to the next one's."""
    epochs = -(-steps // len(loader))
    with tempfile.TemporaryDirectory() as folder:
        config = SHIRGLoRAConfig(
            num_epochs=epochs,
            feature_cache_mb=cache_mb,
            logging_steps=1,
            save_steps=10**9,
            mixed_precision="no",
            output_dir=folder,
        )
        times = StepTimes()
        log = logging.getLogger("shirg.training.trainer")
        log.addHandler(times)
        try:
            SHIRGLoRATrainer(config, model).train(loader)
        finally:
            log.removeHandler(times)
            model.unload_adapter()
        inside = [entry["seconds"] for entry in read_lines(Path(folder) / "logs" / "metrics.jsonl")]
    return inside, [after - before for before, after in itertools.pairwise(times.times)]


def step_rates(model: Lavida, samples: list[Sample], steps: int) -> dict[str, float]:
    """Samples per second of a step with samples in memory."""
    loader = DataLoader(samples, BATCH, collate_fn=list)
    fresh, _ = train(model, loader, steps, cache_mb=0)
    kept, _ = train(
        model, loader, steps + 3 * len(loader), cache_mb=4096
    )  # by then most features are cached on both paths
    return {
        "every_image_new": round(BATCH / statistics.median(fresh[2:]), 2),
        "features_remembered": round(BATCH / statistics.median(kept[-steps:]), 2),
    }


def together(model: Lavida, folder: Path, workers: int, steps: int) -> dict[str, float]:
    """Seconds between steps while workers load."""
    loader, _ = build_loaders(folder, BATCH, num_workers=workers, shapes=model.view_shapes())
    inside, between = train(model, loader, steps, cache_mb=0)
    waited = [max(whole - step, 0.0) for whole, step in zip(between, inside[1:], strict=True)]
    return {
        "seconds_between_steps": round(statistics.median(between[1:]), 3),
        "waiting": round(statistics.median(waited[1:]), 3),
    }


# ------------------------------------------------------------- the table
def measure(folder: Path, model: Lavida, arguments: argparse.Namespace) -> dict:
    """All numbers of one kind of images."""
    shapes = model.view_shapes()
    dataset = RecordDataset(folder, shapes=shapes)
    samples = [dataset[number] for number in range(min(arguments.samples, BATCH * arguments.batches))]
    for sample in samples:
        sample.make(VIEWS)
    rates = {
        kind: {
            str(workers): round(loader_rate(folder, shapes, workers, augment, arguments.rounds, arguments.batches), 1)
            for workers in arguments.workers
        }
        for kind, augment in (("plain", False), ("augmented", True))
    }
    steps = step_rates(model, samples, arguments.steps)
    most = str(max(arguments.workers))
    return {
        "bytes_per_image": sum(len(sample.image) for sample in samples) // len(samples),
        "bytes_per_sample_of_views": sum(view.nbytes for view in samples[0].made.values()),
        "loader_samples_per_second": rates,
        "step_samples_per_second": steps,
        "together": {str(workers): together(model, folder, workers, arguments.steps) for workers in arguments.workers},
        "ratio": {kind: round(rate[most] / steps["every_image_new"], 2) for kind, rate in rates.items()},
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--samples", type=int, default=256, help="images of each kind")
    parser.add_argument("--batches", type=int, default=16, help="in a round of the loader")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=24, help="of training, per measurement")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    from shirg.evaluation.environment import processor
    from shirg.files import write_json

    model = Lavida.from_pretrained("nano")
    results: dict = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "batch_size": BATCH,
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, make in (("pages", pages), ("photographs", photographs)):
            folder = Path(scratch) / name
            write_shard(folder / "train-00000.parquet", make(arguments.samples))
            results[name] = measure(folder, model, arguments)
            print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    print(json.dumps(results, indent=2))
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
