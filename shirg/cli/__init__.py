"""The `shirg` command: one module per sub-command, imported when it is called, so that help is instant."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from shirg.errors import missing_package

COMMANDS = {
    "doctor": "check packages, device, weights, data and disk before a run, and print fixes",
    "run": "prepare, train, evaluate and report",
    "prepare": "write a training set: images, questions and answers in Parquet files",
    "train": "train one LoRA adapter that serves every token budget",
    "evaluate": "score and time every vision path and budget, without and with an adapter",
    "report": "check an evaluation's numbers against its answers, and write its report again",
    "select": "draw which patches of a page are kept",
    "sweep": "ablation of the gate, on pages with known words",
    "answer": "ask one question about one page",
    "demo": "show selection and answers at any budget in a browser",
    "serve": "answer OpenAI's clients, with batches and a token budget per request",
    "describe": "compute a model's parameters, KV cache and FLOPs for every vision path",
    "assemble": "build a LaViDa from a language model and a vision tower",
    "merge": "write a checkpoint with an adapter merged into its projector",
    "push": "upload an adapter and its card to the hub",
    "convert": "write a pickled projector as safetensors",
}

HELP = """\
usage: shirg COMMAND [flags]        shirg COMMAND --help explains a command and its flags

Read small print with LaViDa at a chosen cost: encode a page once at 672x672 pixels, keep the visual tokens
that matter, and choose the token budget at run time with one adapter. Without weights of your own everything runs on
LaViDa-nano, a small model of the same architecture that comes with the package.

commands:
{commands}

try:
  shirg doctor                                     checks this machine
  shirg run                                        all stages, five minutes on two CPU cores
  shirg select page.png --budget 512               writes page.kept.png
  shirg answer page.png "What is the total?"       answers a question about it
  shirg demo                                       the same in a browser, with the budget as a slider
  shirg describe llada-8b                          costs of LaViDa-LLaDA at every budget, without its weights
  shirg evaluate --eval-datasets ChartQA DocVQA --eval-data-dir DIR
                                                   your own questions, in a layout of docs/data.md

Wrong input ends with one line and exit code 2, Ctrl-C with 130; --debug shows the traceback."""


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"shirg.cli.{name}")
    except ImportError as error:
        message = missing_package(error)
        if message is None:
            raise
        print(f"shirg: error: {message}", file=sys.stderr)
        sys.exit(2)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the console command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        _module(name).main(arguments[1:], prog=f"shirg {name}")
    if name == "--version":
        from shirg import __version__

        print(f"shirg {__version__}")
        sys.exit(0)
    if name in ("", "-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {command:<10}{what}" for command, what in COMMANDS.items())))
        sys.exit(0 if name else 2)
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(COMMANDS)}"
    print(f"shirg: error: no command '{name}'; {hint}", file=sys.stderr)
    sys.exit(2)
