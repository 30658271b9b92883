"""Times and memory at the size of LaViDa-LLaDA-8B on a GPU, with random weights and no download.

    python benchmarks/full_size.py --json benchmarks/results/full_size.json

* paths: an answer by every vision path, stage by stage, measured as in `shirg evaluate`.
* train: the training step, packed and two-row, by mixture component, micro-batch and gradient checkpointing.
* gate: every selector alone (`full_size_gate.py`).

A row is written as soon as it is measured. No row is begun after `--minutes`; the same command resumes, and repeats rows that
failed. It needs torch, transformers, safetensors, peft, accelerate and Pillow, and a GPU of 40 GB or more; a step that does not
fit has the outcome "out of memory". `--size tiny` tests the script, also on a CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from common import now, time_call
from full_size_gate import gate_rows
from full_size_model import DTYPE, SIZES, WORDS, Size, random_model, random_prompt
from PIL import Image

from shirg.errors import UserError
from shirg.evaluation.answering import Decoding
from shirg.evaluation.efficiency import PageTiming, peak_bytes
from shirg.evaluation.environment import describe_environment
from shirg.evaluation.results import to_json
from shirg.evaluation.variants import Variant
from shirg.files import write_json
from shirg.lavida import Lavida
from shirg.lavida.adapter import attach_lora, lora_parameters
from shirg.lavida.costs import SQUARE, path_tokens
from shirg.training.budgets import Component, components_of
from shirg.training.loss_model import Example, LossModel, draw_mask
from shirg.training.memory import Step, training_memory

MEASURED, NO_MEMORY = "measured", "out of memory"
OBJECTIVES = {"packed": "packed", "two-row": "prefix"}
"""Name in the rows -> `LossModel`'s."""
RECORDS, GPUS = 608_000, 8
"""Of `hours_for_all`: one epoch, every image new, on so many GPUs that never wait for data or each other."""

Rows = dict[str, Callable[[], dict]]
"""Key of a row -> what measures it."""


# ---------------------------------------------------------------- vision paths


def path_rows(size: Size, model: Lavida) -> Rows:
    """Every vision path, batch of one."""
    decoding = Decoding(size.answer_tokens, size.answer_tokens, step_ratio=0.5)
    image = Image.effect_noise(SQUARE, 64).convert("RGB")
    timing = PageTiming(model, image, random_prompt(size), decoding, size.runs)
    variants = [Variant("shirg", budget) for budget in size.budgets]
    variants += [Variant(mode) for mode in ("lowres", "hd-flat", "hd", "highres", "multiview-all")]
    variants += [Variant("multiview", size.main_budget)]
    return {one.name: partial(path_row, timing, one) for one in variants}


def path_row(timing: PageTiming, variant: Variant) -> dict:
    """Milliseconds by stage, bytes of the KV cache, peak memory; see `shirg.evaluation.results.Cost`."""
    return to_json(timing.row(variant))


# ---------------------------------------------------------------- training steps


def train_rows(size: Size, model: Lavida) -> Rows:
    """Every kind of step, the main budget first."""
    components = sorted(components_of(size.budgets), key=lambda one: one.budget != size.main_budget)
    return {
        f"{objective} {component} x{micro_batch} {'checkpointed' if checkpointing else 'plain'}": partial(
            train_row, size, model, objective, component, micro_batch, checkpointing
        )
        for component in components
        for micro_batch in size.micro_batches
        for objective in OBJECTIVES
        for checkpointing in (False, True)
    }


def train_row(
    size: Size, model: Lavida, objective: str, component: Component, micro_batch: int, checkpointing: bool
) -> dict:
    """A step of LoRA and AdamW in bfloat16, from the tower's features of `micro_batch` images to the update, and the tower's pass
    over one image. Not in it: reading images, and exchanging the adapter's gradients between GPUs."""
    device, autocast = model.device, partial(torch.autocast, model.device.type, DTYPE)
    torch.compiler.reset()  # attention is compiled for this row's length alone
    shape = Step(
        batch_size=micro_batch,
        prompt_tokens=size.text_tokens,
        answer_tokens=size.answer_tokens,
        objective=OBJECTIVES[objective],
        checkpointing=checkpointing,
        dense_mask=device.type != "cuda",
    )
    image, processed = Image.effect_noise(SQUARE, 64).convert("RGB"), 0
    with adapted(model, checkpointing) as loss_model:
        loss_model.objective = OBJECTIVES[objective]
        optimizer = torch.optim.AdamW(lora_parameters(model).values(), lr=1e-4, weight_decay=0.0)
        features = model.image_features(image, component.path)
        examples = random_examples(size, model, features, micro_batch)

        def step() -> None:
            nonlocal processed
            with autocast():
                losses, processed = loss_model(examples, component)
            losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        peak = peak_bytes(device, step)
        step_ms = time_call(step, size.warm_up, size.runs, device)[0]
        with torch.no_grad():
            tower_ms = time_call(lambda: model.tower(features.pixels), size.warm_up, size.runs, device)[0]
    whole_ms = step_ms + micro_batch * tower_ms
    return {
        **{"objective": objective, "component": component.name, "micro_batch": micro_batch},
        "checkpointing": checkpointing,
        "visual_tokens": component.tokens(path_tokens(size.config, "hd")),
        "language_tokens": processed,
        "step_ms": round(step_ms, 2),
        "tower_ms_per_image": round(tower_ms, 2),
        "tokens_per_second": round(processed / whole_ms * 1e3, 1),
        "hours_for_all": round(RECORDS / GPUS / micro_batch * whole_ms / 3.6e6, 3),
        "peak_bytes": peak,
        "peak_bytes_computed": training_memory(size.config, component, shape).total,
    }


@contextlib.contextmanager
def adapted(model: Lavida, checkpointing: bool) -> Iterator[LossModel]:
    """The model with a new adapter, in training mode; without it afterwards."""
    attach_lora(model)
    loss_model = LossModel(model, "packed")
    model.language.set_gradient_checkpointing(checkpointing)
    loss_model.set_training(True, checkpointing=checkpointing)
    try:
        yield loss_model
    finally:
        model.language.set_gradient_checkpointing(False)
        loss_model.set_training(False)
        model.unload_adapter()


def random_examples(size: Size, model: Lavida, features, count: int) -> list[Example]:
    """Records about different images, which share one image's features."""
    prompt, draws = random_prompt(size), torch.Generator().manual_seed(3)
    return [
        Example(
            record_id=str(number),
            image_id=str(number),
            features=features,
            prompt=prompt,
            question=model.question_ids(prompt),
            target=torch.randint(*WORDS, (size.answer_tokens,), generator=draws),
            answer=size.answer_tokens,
            masked=draw_mask(size.answer_tokens, 0, number),
        )
        for number in range(count)
    ]


# ---------------------------------------------------------------- the record

PARTS = {"paths": path_rows, "train": train_rows, "gate": gate_rows}


def opened(path: Path, size: str, model: Lavida) -> dict:
    """The record in `path`, or a new one.

    Raises:
        UserError: if the file is no record, or one of another size, device or version of torch.
    """
    device = model.device
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    record = {
        "size": size,
        "machine": describe_environment(model) | {"cuda": torch.version.cuda, "memory_bytes": total},
        "command": shlex.join(["python", *sys.argv]),
        **{part: [] for part in PARTS},
    }
    if not path.exists():
        return record
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known, own = (
            (one["size"], one["machine"]["device"], one["machine"]["packages"]["torch"]) for one in (found, record)
        )
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--json: {path} is no record of this script; use another file") from None
    if known != own:
        raise UserError(f"--json: {path} is of {', '.join(known)}, this is {', '.join(own)}; use another file")
    return found


def attempt(measure: Callable[[], dict]) -> dict:
    """A row's outcome and numbers; an error of one row does not stop the others."""
    try:
        return {"outcome": MEASURED, **measure()}
    except torch.OutOfMemoryError:
        return {"outcome": NO_MEMORY}
    except Exception as error:
        traceback.print_exc()
        return {"outcome": f"failed: {type(error).__name__}: {str(error)[:300]}"}
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def work(arguments: argparse.Namespace) -> None:
    """Measure what is missing, until the time is over."""
    deadline = time.monotonic() + 60 * arguments.minutes
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if arguments.size == "full" and device.type != "cuda":
        raise UserError("--size: full needs a CUDA device, and torch sees none; --size tiny runs on a CPU")
    size = SIZES[arguments.size]
    model = random_model(size.config, device)
    record = opened(arguments.json, arguments.size, model)
    for part in arguments.parts:
        rows = PARTS[part](size, model)
        kept = [row for row in record[part] if row["outcome"] in (MEASURED, NO_MEMORY)]
        missing = [key for key in rows if key not in {row["key"] for row in kept}]
        while missing and time.monotonic() < deadline:
            began, key = time.monotonic(), missing.pop(0)
            row = {"key": key, "date": now(), **attempt(rows[key])}
            record[part] = [one for one in record[part] if one["key"] != key] + [row]
            write_json(arguments.json, record)
            print(f"{part:6} {key:44} {row['outcome'][:60]:14} {time.monotonic() - began:6.1f} s", flush=True)
        failed = sum(row["outcome"].startswith("failed") for row in record[part])
        print(
            f"{part}: {len(rows) - len(missing)} of {len(rows)} rows, {failed} failed; the same command measures the others"
        )


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, 2 for a mistake of the user, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the record; an existing one is continued")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="in this order (default: all)")
    parser.add_argument("--size", choices=SIZES, default="full", help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=9, help="no row is begun after so many (default: 9)")
    try:
        work(parser.parse_args(argv))
    except UserError as error:
        print(f"full_size: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("full_size: stopped by Ctrl-C; finished rows are in the file", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
