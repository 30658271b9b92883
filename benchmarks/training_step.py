"""What packing saves in training.   python benchmarks/training_step.py [--json benchmarks/results/training_step.json]

Both noisy copies of a 32-token answer after a prefix of 768 + 1 image tokens and the prompt: packed against the official two
rows, timed alternately on one model, so that other programs disturb both:

* the language-model step: prefix embeddings given, forward and backward into them;
* the step from the tower's features: selection and projector too, backward into the adapter;
* the whole step, tower included;
* several questions about one image after one prefix against one row each: questions per hour.

The FLOPs of the same steps at LLaDA-8B are computed. With a frozen body the backward pass costs as much as the forward pass
(gradients of activations, none of weights); attention's backward is counted as twice its forward.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from common import machine
from torch import Tensor

from shirg.data.render import render_page
from shirg.evaluation.efficiency import moment
from shirg.files import write_json
from shirg.lavida import Lavida
from shirg.lavida.adapter import attach_lora
from shirg.lavida.costs import flops
from shirg.lavida.shapes import PUBLISHED, published_config
from shirg.training.budgets import Component
from shirg.training.effort import language_flops
from shirg.training.loss_model import Example, LossModel, draw_mask
from shirg.training.objective import answer_losses

QUESTION = "What is the total on this page?"


def examples_of(model: Lavida, images: list, count: int, answer: int, path: str = "shirg") -> list[Example]:
    """`count` examples about `images` in turn, encoded for a path, with answers of random tokens."""
    draws = torch.Generator().manual_seed(0)
    features = [model.image_features(image, path) for image in images]
    prompt = model.prompt_ids(QUESTION)
    return [
        Example(
            record_id=str(number),
            image_id=str(number % len(images)),
            features=features[number % len(images)],
            prompt=prompt,
            question=model.question_ids(prompt),
            target=torch.randint(0, model.vocabulary_size, (answer,), generator=draws),
            answer=answer,
            masked=draw_mask(answer, 0, number),
        )
        for number in range(count)
    ]


def language_step(model: Lavida, prefixes: list[Tensor], examples: list[Example], objective: str) -> float:
    """Seconds of the language model's forward and backward pass, from prefix embeddings that require a gradient."""
    inputs = [prefix.detach().requires_grad_() for prefix in prefixes]
    began = moment(model.device)
    losses = answer_losses(
        model.language,
        inputs,
        torch.stack([example.target for example in examples]).to(model.device),
        torch.stack([example.masked for example in examples]).to(model.device),
        mask_token_id=model.config.mask_token_id,
        objective=objective,
        shift=model.config.family == "dream",
    )
    losses.mean().backward()
    return moment(model.device) - began


def step(
    model: Lavida, examples: list[Example], objective: str, budget: int, *, share: bool = False, path: str = "shirg"
) -> float:
    """Seconds of one forward and backward pass from given features."""
    loss_model = LossModel(model, objective, share)
    began = moment(model.device)
    losses, _ = loss_model(examples, Component(path, budget))
    losses.mean().backward()
    return moment(model.device) - began


def interleaved(calls: dict[str, Callable[[], float]], runs: int) -> dict[str, dict[str, float]]:
    """Median and best seconds of every call over `runs` rounds of all calls, after one untimed round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(runs + 1):
        for name, call in calls.items():
            seconds = call()
            if round_:
                times[name].append(seconds)
    return {name: {"median": statistics.median(found), "best": min(found)} for name, found in times.items()}


def gain(times: dict, slow: str, fast: str) -> dict[str, float]:
    """How many times faster, by medians and by the best runs."""
    return {kind: times[slow][kind] / times[fast][kind] for kind in ("median", "best")}


def measure(arguments: argparse.Namespace) -> dict:
    """Times on the nano."""
    torch.manual_seed(0)
    model = Lavida.from_pretrained("nano", device=arguments.device)
    attach_lora(model)
    images = [render_page("receipt", number).image for number in range(arguments.batch_size)]
    alone = examples_of(model, images, arguments.batch_size, arguments.answer_tokens)
    turns = examples_of(model, images[:1], arguments.turns, arguments.answer_tokens)

    with torch.no_grad():
        embeds = [model.image_embeds(one.features, "shirg", arguments.budget, one.question) for one in alone]
        prefixes = [model.splice(one.prompt, [image]) for one, image in zip(alone, embeds, strict=True)]

    def whole_step(objective: str) -> float:
        began = moment(model.device)
        for image in images:
            model.image_features(image, "shirg")
        return moment(model.device) - began + step(model, alone, objective, arguments.budget)

    def one_by_one() -> float:
        return sum(step(model, [turn], "packed", arguments.budget) for turn in turns)

    kept = arguments.budget
    calls = {
        "language, packed": lambda: language_step(model, prefixes, alone, "packed"),
        "language, two rows": lambda: language_step(model, prefixes, alone, "prefix"),
        "features, packed": lambda: step(model, alone, "packed", kept),
        "features, two rows": lambda: step(model, alone, "prefix", kept),
        "whole, packed": lambda: whole_step("packed"),
        "whole, two rows": lambda: whole_step("prefix"),
        "turns, one prefix": lambda: step(model, turns, "packed", kept, share=True),
        "turns, a row each": lambda: step(model, turns, "packed", kept),
        "turns, one by one": one_by_one,
    }
    times = interleaved(calls, arguments.runs)
    turn_names = [name for name in calls if name.startswith("turns")]
    return {
        "seconds": times,
        "language_step_gain": gain(times, "language, two rows", "language, packed"),
        "features_step_gain": gain(times, "features, two rows", "features, packed"),
        "whole_step_gain": gain(times, "whole, two rows", "whole, packed"),
        "turns_gain": gain(times, "turns, a row each", "turns, one prefix"),
        "questions_per_hour": {name: 3600 * arguments.turns / times[name]["median"] for name in turn_names},
    }


def computed(name: str, budget: int, prompt: int, answer: int, turns: int, question: int) -> dict:
    """FLOPs per record of a published shape. Attention of a row is counted dense, as kernels without blocks compute it."""
    config = published_config(name)
    prefix, side = budget + 1 + prompt, config.vision.resolution
    language = {
        "packed": language_flops(config, 1, prefix + 2 * answer, answer),
        "two rows": language_flops(config, 2, prefix + answer, answer),
    }
    tower, projected = (
        flops(config, "tower", 1, side),
        ((side // 14) ** 2, *[budget + 1] * 3),
    )  # relevance, and three passes
    vision = tower + sum(flops(config, "projector", tokens) for tokens in projected)
    shared_row = prefix - question + turns * (question + 2 * answer)
    shared = (language_flops(config, 1, shared_row, turns * answer) + vision) / turns
    return {
        "language_flops": language,
        "vision_flops": vision,
        "language_step_gain": language["two rows"] / language["packed"],
        "whole_step_gain": (language["two rows"] + vision) / (language["packed"] + vision),
        "turns_gain": (language["packed"] + vision) / shared,
    }


def main() -> None:
    """Measure, compute, print, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=768)
    parser.add_argument("--answer-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--turns", type=int, default=8, help="questions of one image")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt-tokens", type=int, default=64, help="text around the image, for the computed FLOPs")
    parser.add_argument("--question-tokens", type=int, default=16, help="of them the question's own")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {
        **machine(torch.device(arguments.device)),
        "arguments": {name: value for name, value in vars(arguments).items() if name != "json"},
        "measured_nano": measure(arguments),
        "computed": {
            name: computed(
                name,
                arguments.budget,
                arguments.prompt_tokens,
                arguments.answer_tokens,
                arguments.turns,
                arguments.question_tokens,
            )
            for name in PUBLISHED
        },
    }
    show(found)
    if arguments.json is not None:
        write_json(arguments.json, found)


def show(found: dict) -> None:
    """Print the gains, and the medians they come from."""
    measured = found["measured_nano"]
    for name, seconds in measured["seconds"].items():
        print(f"{name:20} {seconds['median'] * 1e3:9.1f} ms median {seconds['best'] * 1e3:9.1f} ms best")
    for name, rate in measured["questions_per_hour"].items():
        print(f"{name:20} {rate:9,.0f} questions per hour")
    rows = {"nano, measured": measured, **{f"{name}, computed": row for name, row in found["computed"].items()}}
    for name, row in rows.items():
        gains = ("language_step_gain", "whole_step_gain", "turns_gain")
        cells = [row[key]["median"] if isinstance(row[key], dict) else row[key] for key in gains]
        print(f"{name:22} language step x {cells[0]:.2f}  whole step x {cells[1]:.2f}  turns x {cells[2]:.2f}")


if __name__ == "__main__":
    main()
