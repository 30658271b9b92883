"""Memory and time of loading a checkpoint of LaViDa's full shape.   python benchmarks/load_checkpoint.py [--json FILE]

No weights are needed: the shards are sparse files with valid headers, which read as zeros and take no disk space. A child
process loads each folder. Its peak resident memory (VmHWM, reset before the load) is compared with the bytes of the weights,
and split, by sampling /proc/self/status every few milliseconds, into anonymous memory and pages of the files, which the
system can drop. Times exclude reading from disk.

A small body is loaded first: in the files' precision (then every weight is read once), and cast to float32. The full shape is
loaded only if the small one was loaded without an anonymous copy.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import safetensors
import torch
from common import machine

from shirg.files import write_json
from shirg.lavida import Lavida, LavidaConfig
from shirg.lavida.checkpoint import official_name
from shirg.lavida.shapes import PUBLISHED

SMALL_VOCABULARY = 16384
SHARD_BYTES = 5_000_000_000
COPIES_NOTHING = 0.05
"""Anonymous bytes per byte of weights, up to which a load counts as free of copies."""
FIELDS = {"VmHWM": "peak", "VmRSS": "resident", "RssAnon": "anonymous", "RssFile": "file"}


def memory() -> dict[str, int]:
    """This process's memory in bytes, from /proc/self/status."""
    lines = (line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {FIELDS[name]: int(rest.split()[0]) * 1024 for name, rest in lines if name in FIELDS}


class Peaks:
    """The largest of each kind of memory while the block runs, sampled every 5 ms."""

    def __enter__(self) -> Peaks:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
        self.before, self.largest = memory(), memory()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        self.began = time.perf_counter()
        return self

    def _watch(self) -> None:
        while not self.stop.wait(0.005):
            self.sample()

    def sample(self) -> None:
        self.largest = {name: max(value, self.largest[name]) for name, value in memory().items()}

    def __exit__(self, *_error: object) -> None:
        self.seconds = time.perf_counter() - self.began
        self.stop.set()
        self.thread.join()
        self.sample()

    def growth(self, weight_bytes: int) -> dict[str, float]:
        """Seconds, and growth since the block began in GB and per byte of weights."""
        grown = {name: self.largest[name] - self.before["resident" if name == "peak" else name] for name in self.before}
        del grown["resident"]
        return {"seconds": round(self.seconds, 2)} | {
            f"{name}_{unit}": round(value / scale, 3)
            for name, value in grown.items()
            for unit, scale in (("gb", 1e9), ("ratio", weight_bytes))
        }


def write_holes(folder: Path, raw: dict) -> int:
    """A checkpoint folder of bfloat16 zeros in several shards; returns the bytes of its weights."""
    with torch.device("meta"):
        model = Lavida(LavidaConfig.from_dict(raw))
    family = model.config.family
    shapes = {official_name(name, family): list(tensor.shape) for name, tensor in model.state_dict().items()}
    sizes = {name: 2 * torch.Size(shape).numel() for name, shape in shapes.items()}
    limit, shards = min(SHARD_BYTES, sum(sizes.values()) // 3), [[]]
    for name, size in sizes.items():
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + size > limit:
            shards.append([])
        shards[-1].append(name)
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        header, offset = {}, 0
        for name in names:
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [offset, offset + sizes[name]]}
            offset += sizes[name]
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as handle:
            handle.write(len(text).to_bytes(8, "little") + text)
            handle.truncate(8 + len(text) + offset)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(raw))
    return sum(sizes.values())


def child(folder: str, dtype: str, weight_bytes: int, read: bool) -> None:
    """Load, optionally read every weight once, and print the growth as JSON."""
    with Peaks() as loading:
        model = Lavida.from_pretrained(folder, dtype=getattr(torch, dtype))
    result = {"load": loading.growth(weight_bytes)}
    if read:
        with Peaks() as reading:
            for tensor in model.state_dict().values():
                tensor.view(torch.int16).amax()
        result["load_and_read_all"] = reading.growth(weight_bytes)
    print(json.dumps(result))


def measure(raw: dict, dtype: str, read: bool) -> dict:
    """One folder, loaded by a child process."""
    with tempfile.TemporaryDirectory() as folder:
        weight_bytes = write_holes(Path(folder), raw)
        shards = len(list(Path(folder).glob("*.safetensors")))
        command = [sys.executable, __file__, "--child", folder, dtype, str(weight_bytes), str(int(read))]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {
        "layers": raw["n_layers"],
        "vocabulary": raw["vocab_size"],
        "weights_gb": round(weight_bytes / 1e9, 2),
        "shards": shards,
        "stored_as": "bfloat16",
        "loaded_as": dtype,
        **json.loads(done.stdout),
    }


def cases(layers: int) -> list[dict]:
    """The measurements; the full shape last, and only if loading makes no copy."""
    whole = copy.deepcopy(PUBLISHED["llada-8b"])
    small = {**whole, "n_layers": layers, "vocab_size": SMALL_VOCABULARY, "embedding_size": SMALL_VOCABULARY}
    small |= {"mask_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    results = [measure(small, "bfloat16", read=True), measure(small, "float32", read=False)]
    if results[0]["load"]["anonymous_ratio"] < COPIES_NOTHING:
        results.append(measure(whole, "bfloat16", read=False))
    return results


def main() -> None:
    """Measure, print, and write the record if asked."""
    if sys.argv[1:2] == ["--child"]:
        folder, dtype, weight_bytes, read = sys.argv[2:]
        return child(folder, dtype, int(weight_bytes), read == "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help="decoder blocks of the small body")
    parser.add_argument("--json", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    record = {
        **machine(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "safetensors": safetensors.__version__,
        "unit": "GB = 1e9 bytes; ratios are to the bytes of the weights in the files",
        "cases": cases(arguments.layers),
    }
    print(f"{record['processor']}, {record['memory_gb']} GB, torch {record['torch']}")
    for case in record["cases"]:
        for step in ("load", "load_and_read_all"):
            if step in case:
                growth = case[step]
                print(
                    f"{case['layers']:3} layers, {case['weights_gb']:6.2f} GB as {case['loaded_as']:9} {step:18}"
                    f"peak {growth['peak_gb']:6.2f} GB = {growth['peak_ratio']:.3f} x weights (anonymous "
                    f"{growth['anonymous_ratio']:.3f}, file {growth['file_ratio']:.3f}), {growth['seconds']:.1f} s"
                )
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
