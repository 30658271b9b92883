"""Validation loss of the main job by learning rate and LoRA dropout: what their defaults rest on.

    python benchmarks/rate_sweep.py --json benchmarks/results/rate_sweep.json

Every combination is trained on the same records with the same seed, and judged by the loss of answer tokens relative to step 0
(`best_model`'s own measure) on at least 500 validation questions, with its 95 % interval over pages. An optimum is bracketed if a
lower and a higher rate were tried. --output-dir keeps the runs: the same command resumes where it was stopped, and more rates can
be added later.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from common import exit_code

from shirg.data import build_loaders
from shirg.data.preparation import SHIRGDatasetConfig, SHIRGDatasetProcessor
from shirg.evaluation.environment import describe_environment, processor
from shirg.evaluation.markdown import table
from shirg.files import check_writable, write_json
from shirg.lavida.loading import load_model
from shirg.training import SHIRGLoRAConfig, SHIRGLoRATrainer

RATES = (1e-3, 4e-3, 1e-2)
DROPOUTS = (0.0, 0.05)
KEPT = ("steps", "best_step", "best_validation", "validation_before", "validation_after", "seconds", "mixed_precision")


def trained(arguments: argparse.Namespace, prepared: Path, rate: float, dropout: float) -> dict[str, Any]:
    """What is kept of one combination's results; it is trained, or resumed, if there are none yet."""
    folder = arguments.output_dir / f"rate-{rate:g}-dropout-{dropout:g}"
    path = folder / "logs" / "training_results.json"
    if not path.exists():
        config = SHIRGLoRAConfig(
            token_budgets=arguments.token_budgets,
            num_epochs=arguments.epochs,
            learning_rate=rate,
            lora_dropout=dropout,
            seed=arguments.seed,
            validation_interval=0.25,
            save_steps=20,
            base_model=arguments.model,
            output_dir=str(folder),
            resume=True,
        )
        model = load_model(arguments.model)
        loaders = build_loaders(prepared, config.batch_size, seed=config.seed, shapes=model.view_shapes())
        SHIRGLoRATrainer(config, model).train(*loaders)
    results = json.loads(path.read_text(encoding="utf-8"))
    return {"learning_rate": rate, "lora_dropout": dropout, **{name: results[name] for name in KEPT}}


def verdict(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The combination with the lowest loss, and whether lower and higher rates were tried."""
    best = min(runs, key=lambda run: run["best_validation"]["relative"])
    rates = [run["learning_rate"] for run in runs]
    return {
        "learning_rate": best["learning_rate"],
        "lora_dropout": best["lora_dropout"],
        "bracketed": min(rates) < best["learning_rate"] < max(rates),
    }


def report(record: dict[str, Any]) -> str:
    """A table of all runs in Markdown, and the verdict."""
    rows = []
    for run in record["runs"]:
        found = run["best_validation"]
        ends = "-" if found["low"] is None else f"[{found['low']:.3f}, {found['high']:.3f}]"
        shown = [f"{run['learning_rate']:g}", f"{run['lora_dropout']:g}", f"{found['relative']:.3f}", ends]
        rows.append([*shown, str(run["best_step"]), str(found["records"])])
    header = ["learning rate", "dropout", "loss of answers relative to step 0", "95%", "best step", "questions"]
    best = record["best"]
    where = "bracketed" if best["bracketed"] else "at the edge of the rates that were tried"
    words = f"Lowest at {best['learning_rate']:g} with dropout {best['lora_dropout']:g}, {where}."
    return f"{table(header, rows, text_columns=0)}\n\n{words}"


def work(arguments: argparse.Namespace) -> None:
    """Train what is missing, then print the table of all that is there."""
    check_writable(arguments.output_dir)
    plan = SHIRGDatasetConfig(
        base_dataset_size=arguments.dataset_size,
        ocr_enhancement_size=arguments.ocr_samples,
        validation_fraction=arguments.validation_fraction,
        output_dir=arguments.output_dir / "data",
    )
    prepared = SHIRGDatasetProcessor(plan).prepare_full_dataset()
    runs = [
        trained(arguments, prepared, *combination)
        for combination in itertools.product(arguments.rates, arguments.dropouts)
    ]
    names = ("model", "dataset_size", "ocr_samples", "validation_fraction", "epochs", "token_budgets", "seed")
    record = {
        "settings": {name: getattr(arguments, name) for name in names},
        "environment": describe_environment(load_model(arguments.model)) | {"processor": processor()},
        "runs": runs,
        "best": verdict(runs),
    }
    print(report(record))
    if arguments.json:
        write_json(arguments.json, record)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="checkpoint folder (default: the one in the package)")
    parser.add_argument("--output-dir", type=Path, default=Path("nano_work/rates"), help="default: %(default)s")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="default: %(default)s")
    parser.add_argument("--dropouts", type=float, nargs="+", default=list(DROPOUTS), help="default: %(default)s")
    parser.add_argument("--token-budgets", type=int, nargs="+", default=[512, 768], help="default: %(default)s")
    for name, default in {"dataset-size": 2000, "ocr-samples": 400, "epochs": 1, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    share = "of the records (default: %(default)s, 600 of 2,400)"
    parser.add_argument("--validation-fraction", type=float, default=0.25, help=share)
    parser.add_argument("--json", type=Path, help="where to write the record")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The exit code, see `exit_code`."""
    arguments = parse(argv)
    return exit_code("rate_sweep", lambda: work(arguments))


if __name__ == "__main__":
    sys.exit(main())
