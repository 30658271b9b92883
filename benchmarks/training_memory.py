"""Computed against measured memory of a training step.

    python benchmarks/training_memory.py [--json benchmarks/results/training_memory.json]

A small body of LLaDA's architecture with random weights does one forward and backward pass of the training objective from
given tower features, for every precision, plain and checkpointed, each in its own process. Measured is the growth of the
resident memory during the pass (Linux: VmHWM, reset by /proc/self/clear_refs); a pass at a tenth of the size is run before,
so that libraries are loaded. Computed is `shirg.training.memory.training_memory` without weights and optimizer state, which
are allocated before.

The processes allocate large blocks outside the heap (MALLOC_MMAP_THRESHOLD_), so that freed memory is returned at once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from common import now, peak_memory

from shirg.data.render import render_page
from shirg.evaluation.environment import processor
from shirg.files import write_json
from shirg.lavida import Lavida, LavidaConfig
from shirg.lavida.adapter import attach_lora
from shirg.lavida.shapes import PUBLISHED
from shirg.training.budgets import Component
from shirg.training.loss_model import Example, LossModel, draw_mask
from shirg.training.memory import Step, training_memory

PRECISIONS = ("float32", "mixed", "bfloat16")
"""Weights and arithmetic in float32; float32 weights under bfloat16 autocast; both in bfloat16."""

TOLERANCE = 0.15


def shape(arguments: argparse.Namespace) -> LavidaConfig:
    """LLaDA's architecture in the given sizes; the tower is small, since its pass is not part of the step."""
    raw = {
        **PUBLISHED["llada-8b"],
        "d_model": arguments.width,
        "n_heads": arguments.heads,
        "n_kv_heads": arguments.heads,
        "n_layers": arguments.layers,
        "mlp_hidden_size": 3 * arguments.width,
        "vocab_size": arguments.vocabulary,
        "embedding_size": arguments.vocabulary,
        "mask_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "mm_hidden_size": 64,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 384,
            "patch_size": 14,
        },
    }
    return LavidaConfig.from_dict(raw)


def examples_of(model: Lavida, step: Step) -> list[Example]:
    """As many random examples about one rendered page as the step has records."""
    draws = torch.Generator().manual_seed(0)
    features = model.image_features(render_page("receipt", 0).image, "shirg")
    prompt = torch.randint(3, model.vocabulary_size, (step.prompt_tokens + 1,), generator=draws)
    prompt[0] = model.config.image_token_index
    return [
        Example(
            record_id=str(number),
            image_id=str(number),
            features=features,
            prompt=prompt,
            question=prompt[1:],
            target=torch.randint(3, model.vocabulary_size, (step.answer_tokens,), generator=draws),
            answer=step.answer_tokens,
            masked=draw_mask(step.answer_tokens, 0, number),
        )
        for number in range(step.batch_size)
    ]


def measure(arguments: argparse.Namespace) -> int:
    """Bytes by which one step raises this process's resident memory at its peak."""
    torch.manual_seed(0)
    model = Lavida(shape(arguments)).eval()
    if arguments.precision == "bfloat16":
        model.to(torch.bfloat16)
    attach_lora(model)
    model.language.set_gradient_checkpointing(arguments.checkpointing)
    model.language.train(arguments.checkpointing)
    loss_model = LossModel(model, arguments.objective)
    examples = examples_of(model, step_of(arguments))
    mixed = nullcontext() if arguments.precision == "float32" else torch.autocast("cpu", torch.bfloat16)

    def step(count: int, budget: int) -> None:
        with mixed:
            losses, _ = loss_model(examples[:count], Component("shirg", budget))
        losses.mean().backward()

    step(1, arguments.budget // 10)
    return peak_memory(lambda: step(len(examples), arguments.budget))


def step_of(arguments: argparse.Namespace) -> Step:
    """The step as `shirg.training.memory` describes it."""
    return Step(
        batch_size=arguments.batch_size,
        prompt_tokens=arguments.prompt_tokens,
        answer_tokens=arguments.answer_tokens,
        objective=arguments.objective,
        checkpointing=arguments.checkpointing,
        dtype="float32" if arguments.precision == "float32" else "bfloat16",
        weights_dtype="float32" if arguments.precision == "mixed" else None,
        dense_mask=True,
    )


def in_fresh_process(arguments: argparse.Namespace) -> int:
    """`measure` in a process of its own."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in vars(arguments).items() if name in SIZES]
    flags += [f"--precision={arguments.precision}", f"--objective={arguments.objective}", "--child"]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, *flags, *["--checkpointing"] * arguments.checkpointing]
    return int(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


def compare(arguments: argparse.Namespace) -> dict:
    """Measured and computed growth of one setting."""
    memory = training_memory(shape(arguments), Component("shirg", arguments.budget), step_of(arguments))
    parts = {name: size for name, size in asdict(memory).items() if name not in ("weights", "adapter")}
    measured, computed = in_fresh_process(arguments), memory.total - memory.weights - memory.adapter
    return {
        "precision": arguments.precision,
        "checkpointing": arguments.checkpointing,
        "measured_bytes": measured,
        "computed_bytes": computed,
        "computed_over_measured": computed / measured,
        "computed_parts": parts,
    }


SIZES = {
    "width": 512,
    "heads": 8,
    "layers": 12,
    "vocabulary": 16384,
    "budget": 768,
    "batch_size": 2,
    "prompt_tokens": 64,
    "answer_tokens": 32,
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--objective", default="packed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--precision", choices=PRECISIONS, help="one setting instead of all")
    parser.add_argument("--checkpointing", action="store_true", help="with --precision")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Measure, compute, print, and write the numbers if asked to; 1 if one is further off than the tolerance."""
    arguments = parse()
    if arguments.child:
        print(measure(arguments))
        return 0
    settings = [(name, flag) for name in PRECISIONS for flag in (False, True)]
    if arguments.precision:
        settings = [(arguments.precision, arguments.checkpointing)]
    rows = [compare(argparse.Namespace(**vars(arguments) | {"precision": p, "checkpointing": c})) for p, c in settings]
    for row in rows:
        how = "checkpointed" if row["checkpointing"] else "plain"
        sizes = f"measured {row['measured_bytes'] / 1e6:8,.1f} MB  computed {row['computed_bytes'] / 1e6:8,.1f} MB"
        print(f"{row['precision']:9} {how:13} {sizes}  ratio {row['computed_over_measured']:.3f}")
    found = {
        "date": now(),
        "processor": processor(),
        "torch": torch.__version__,
        "arguments": {name: getattr(arguments, name) for name in (*SIZES, "objective")},
        "tolerance": TOLERANCE,
        "rows": rows,
    }
    if arguments.json is not None:
        write_json(arguments.json, found)
    return int(any(abs(row["computed_over_measured"] - 1) > TOLERANCE for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
