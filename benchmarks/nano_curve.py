"""Draw the nano's training curves.   python benchmarks/nano_curve.py CURVE.jsonl [--figure docs/images/nano_curve.png]

CURVE is the `curve.jsonl` that the stage `look` or `together` of `python -m shirg.nano.recipe` writes, a line every fifty
steps. Drawn are the accuracy on masked answer tokens and the loss of the answers over hours of training, each point and a
running mean of ten. Views, text sizes and the number of masked tokens are random in every step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

MEAN_OF = 10
SHOWN = {"right": "masked answer tokens right", "answer": "loss of the answers"}


def draw(points: list[dict], path: Path) -> None:
    """Both curves, one above the other."""
    from matplotlib.figure import Figure

    hours = np.array([point["seconds"] / 3600 for point in points])
    figure = Figure(figsize=(7, 5), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, sharex=True), SHOWN.items(), strict=True):
        values = np.array([point[name] for point in points])
        axes.plot(hours, values, ".", color="#9bb8d3", markersize=4)
        mean = np.convolve(values, np.ones(MEAN_OF) / MEAN_OF, "valid")
        axes.plot(hours[MEAN_OF - 1 :], mean, color="#1b4f91")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
    axes.set_xlabel("hours of this stage")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Read, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curve", type=Path)
    parser.add_argument("--figure", type=Path, default=Path("docs/images/nano_curve.png"))
    arguments = parser.parse_args()
    points = [json.loads(line) for line in arguments.curve.read_text().splitlines()]
    if len(points) < MEAN_OF or not SHOWN.keys() <= points[0].keys():
        parser.error(f"{arguments.curve}: expected {MEAN_OF} lines or more, each with {' and '.join(SHOWN)}")
    draw(points, arguments.figure)


if __name__ == "__main__":
    main()
