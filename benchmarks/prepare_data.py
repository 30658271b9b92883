"""Time and memory of preparing training data.   python benchmarks/prepare_data.py [--json FILE]

Four measurements, each in its own process on synthetic data in a temporary folder:

* index: how long and how much memory the annotation file of 558,000 captions takes (json parsing and grouping, no images);
* memory: whether the peak grows from 10,000 to 100,000 records, with tiny images that are linked;
* rates: records per second for linking and embedding photographs somewhat larger than LCS-558K's, and for rendering pages,
  with two workers, everything included that `shirg prepare` does;
* whole: the time for 558,000 + 50,000 records that follows from these rates.

Wall time and CPU seconds of all processes are measured. Two idle cores need at least half the CPU seconds; the computed times use
these, since wall time on a busy machine is not meaningful.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

BASE, OCR = 558_000, 50_000
CORES = 2
PHOTOGRAPH = (480, 360)
"""Pixels; with noise of this grain such a JPEG has 66 KB, where the mean of LCS-558K is 48 KB."""


# ------------------------------------------------------------- synthetic data
def write_captions(folder: Path, number: int) -> None:
    """The annotation file of `number` captioned images, as LLaVA-Pretrain's."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "blip_laion_cc_sbu_558k.json", "w", encoding="utf-8") as file:
        for place in range(number):
            asked = {"from": "human", "value": "Give a brief description of the image.\n<image>"}
            answer = {"from": "gpt", "value": f"caption number {place}, about as long as the captions of the web are"}
            entry = {"id": f"{place:09d}", "image": image_name(place), "conversations": [asked, answer]}
            file.write(("[" if place == 0 else ",\n") + json.dumps(entry, indent=1))
        file.write("]")


def image_name(place: int) -> str:
    """Path of image `place`, a thousand to a folder."""
    return f"{place // 1000:05d}/{place:09d}.jpg"


def write_images(folder: Path, number: int, size: tuple[int, int], distinct: int) -> int:
    """`number` JPEG files, `distinct` of them different and the others links to those; returns bytes per file."""
    random = np.random.default_rng(0)
    for place in range(number):
        path = folder / image_name(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        if place >= distinct:
            os.link(folder / image_name(place % distinct), path)
            continue
        coarse = Image.fromarray(random.integers(0, 256, (size[1] // 3, size[0] // 3, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(path, quality=75)
    total = sum((folder / image_name(place)).stat().st_size for place in range(distinct))
    return total // distinct


# ------------------------------------------------------------- what is measured, in a process of its own
def index(folder: Path) -> int:
    """Reads and groups all captions."""
    from shirg.data.catalogue import CatalogueWriter
    from shirg.data.sources.llava import LlavaPretrain

    writer = CatalogueWriter(folder / "questions.arrow")
    writer.read("base", LlavaPretrain(folder / "llava_pretrain"), "train")
    return len(writer.close().counts)


def prepare(folder: Path, records: int, images: str) -> int:
    """Prepares `records` of the base part, or of rendered pages."""
    from shirg.data import SHIRGDatasetConfig, SHIRGDatasetProcessor

    source = {} if images == "render" else {"data_dir": folder, "images": images, "validation_fraction": 0.0}
    config = SHIRGDatasetConfig(records, 0, folder / f"out-{images}", num_workers=CORES, **source)
    SHIRGDatasetProcessor(config).prepare_full_dataset()
    return records


def child(arguments: list[str]) -> None:
    """Runs one measurement and prints its time and memory."""
    what, folder, *rest = arguments
    began = time.perf_counter()
    records = index(Path(folder)) if what == "index" else prepare(Path(folder), int(rest[0]), what)
    mine, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = mine.ru_utime + mine.ru_stime + workers.ru_utime + workers.ru_stime
    result = {
        "records": records,
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(processor, 1),
        "records_per_second": round(records / (time.perf_counter() - began), 1),
        "records_per_second_two_idle_cores": round(CORES * records / processor, 1),
        "peak_mb": round(mine.ru_maxrss / 1024),
        "peak_mb_of_a_worker": round(workers.ru_maxrss / 1024),
    }
    print(json.dumps(result))


def measure(*arguments: object) -> dict:
    """`child` in a new process."""
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    result = json.loads(done.stdout.splitlines()[-1])
    print(*arguments[:1], result, file=sys.stderr, flush=True)
    return result


# ------------------------------------------------------------- the tables
def measure_all(scratch: Path, photographs: int, pages: int, small: int, large: int) -> dict:
    """All four measurements."""
    results: dict = {"memory": {}}
    write_captions(scratch / "index/llava_pretrain", BASE)
    results["index"] = measure("index", scratch / "index")
    folder = scratch / "rates"
    write_captions(folder / "llava_pretrain", photographs)
    size = write_images(folder / "llava_pretrain", photographs, PHOTOGRAPH, distinct=photographs)
    results["photograph"] = {"pixels": list(PHOTOGRAPH), "bytes": size}
    results["rates"] = {images: measure(images, folder, photographs) for images in ("link", "embed")}
    results["rates"]["render"] = measure("render", folder, pages)
    for number in (small, large):
        folder = scratch / f"memory-{number}"
        write_captions(folder / "llava_pretrain", number)
        write_images(folder / "llava_pretrain", number, (24, 24), distinct=min(number, 1000))
        results["memory"][str(number)] = measure("link", folder, number)
    hours = {
        name: round((BASE + OCR) / rate["records_per_second_two_idle_cores"] / 3600, 2)
        for name, rate in results["rates"].items()
    }
    results["computed_hours_for_608000_on_two_cores"] = hours
    return results


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--work", type=Path, help="folder for the synthetic data; about 1 GB, removed at the end")
    parser.add_argument("--photographs", type=int, default=4_000)
    parser.add_argument("--rendered-records", type=int, default=1_600)
    parser.add_argument("--small", type=int, default=10_000, help="records of the smaller memory run")
    parser.add_argument("--large", type=int, default=100_000, help="records of the larger memory run")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.work)))
        sizes = (arguments.photographs, arguments.rendered_records, arguments.small, arguments.large)
        results = measure_all(scratch, *sizes)
    from shirg.evaluation.environment import processor

    results = {"date": datetime.date.today().isoformat(), "processor": processor(), "workers": CORES} | results
    print(json.dumps(results, indent=2))
    if arguments.json:
        from shirg.files import write_json

        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
